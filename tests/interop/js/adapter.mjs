// Line adapter for negentropy on npm: node adapter.mjs nostr-tools|ndk, speaking the lines of `python -m orly.negentropy.harness`.
// Where nostr-tools responds, it too reports what differs, as the initiator would; ids that it has been sent are not answered.
// stdin:  item,<created_at>,<id> / seal / initiate / msg,<hex>      stdout: msg,<hex> / have,<id> / need,<id> / done
import { createInterface } from "node:readline";
import process from "node:process";

async function nostrTools(frameSizeLimit) {
  const { nip77 } = await import("nostr-tools");
  const storage = new nip77.NegentropyStorageVector();
  let session;
  return {
    insert: (createdAt, id) => storage.insert(createdAt, id),
    seal: () => {
      storage.seal();
      session = new nip77.Negentropy(storage, frameSizeLimit || undefined); // 0 is too small for it
    },
    initiate: async () => session.initiate(),
    answer: async (message, have, need) => session.reconcile(message, have, need),
  };
}

async function ndk(frameSizeLimit) {
  const { Negentropy, NegentropyStorage } = await import("@nostr-dev-kit/sync");
  const storage = new NegentropyStorage();
  const hex = (bytes) => Buffer.from(bytes).toString("hex");
  let session;
  return {
    insert: (createdAt, id) => storage.insert(createdAt, id),
    seal: () => {
      storage.seal();
      session = new Negentropy(storage, frameSizeLimit);
    },
    initiate: async () => hex(await session.initiate()),
    answer: async (message, have, need) => {
      const step = await session.reconcile(new Uint8Array(Buffer.from(message, "hex")));
      step.have.forEach((id) => have(hex(id)));
      step.need.forEach((id) => need(hex(id)));
      return step.nextMessage === undefined ? null : hex(step.nextMessage);
    },
  };
}

const implementations = { "nostr-tools": nostrTools, ndk };
const make = implementations[process.argv[2]];
if (make === undefined) {
  console.error(`usage: node adapter.mjs ${Object.keys(implementations).join("|")}`);
  process.exit(2);
}

const side = await make(Number(process.env.FRAMESIZELIMIT ?? 0));
const say = (line) => process.stdout.write(`${line}\n`);
let initiates = false;
for await (const line of createInterface({ input: process.stdin })) {
  const [word, first, second] = line.split(",");
  switch (word) {
    case "item":
      side.insert(Number(first), second);
      break;
    case "seal":
      side.seal();
      break;
    case "initiate":
      initiates = true;
      say(`msg,${await side.initiate()}`);
      break;
    case "msg": {
      const report = (name) => (id) => say(`${name},${id}`);
      const next = await side.answer(first, report("have"), report("need"));
      if (next !== null) say(`msg,${next}`);
      else say(initiates ? "done" : "msg,61"); // nostr-tools takes itself for the initiator always
      break;
    }
    default:
      console.error(`unknown line: ${line.slice(0, 80)}`);
      process.exit(1);
  }
}
