"""rust-nostr's client, which authenticates by itself, in every mode of access control."""

import asyncio
import json
import urllib.request
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
from nostr_sdk import EventBuilder, Filter, Keys, Kind, Tag
from tests.interop.test_nostr_sdk import Sdk, connected, event, hexes, run
from tests.process import RelayProcess, running_relay

MODES = ("none", "follows", "managed", "curating")


def manage(relay: RelayProcess, owner: Keys, method: str, *params: Any) -> Any:
    """One call of NIP-86, signed by the library (NIP-98)."""
    body = json.dumps({"method": method, "params": params}).encode()
    url = relay.http_url.rstrip("/") + "/"
    tags = [Tag.parse(["u", url]), Tag.parse(["method", "POST"]), Tag.parse(["payload", sha256(body).hexdigest()])]
    signed = EventBuilder(Kind(27235), "").tags(tags).finalize(owner)
    request = urllib.request.Request(url, body, {"Content-Type": "application/nostr+json+rpc"})

    request.add_header("Authorization", "Nostr " + b64encode(signed.as_json().encode()).decode())
    with urllib.request.urlopen(request, timeout=15) as answer:
        found = json.loads(answer.read())
    assert "error" not in found or not found["error"], found
    return found["result"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("restricted", [False, True], ids=["open", "restricted"])
def test_the_library_in_every_mode(mode: str, restricted: bool) -> None:
    owner, member, stranger = Keys.generate(), Keys.generate(), Keys.generate()

    async def main(relay: RelayProcess) -> None:
        note = event(member, "from a member")
        async with connected(relay, proves=owner) as client:
            assert await client.publish(event(owner, "from the owner")) == ""
            await let_in(client, relay)
        async with connected(relay, proves=member) as client:
            assert await published_at_last(client, note) == ""
            assert hexes([note])[0] in await client.fetch_ids(Filter())
            assert await client.count(Filter().author(member.public_key())) == 1
        async with connected(relay, proves=stranger) as client:
            refused = await client.publish(event(stranger, "from a stranger"))
            if mode in ("none", "curating"):
                assert refused == ""
            else:
                assert "restricted:" in refused
            may_read = not restricted or mode in ("none", "curating")
            assert (hexes([note])[0] in await client.fetch_ids(Filter())) is may_read
        async with connected(relay) as nobody:
            assert (await nobody.fetch_ids(Filter()) == []) is restricted
        manage(relay, owner, "banpubkey", member.public_key().to_hex(), "no reason")
        async with connected(relay, proves=stranger if not restricted else owner) as client:
            assert "blocked:" in await client.publish(event(member, "after the ban"))
            seen = hexes([note])[0] in await client.fetch_ids(Filter())
            assert seen is restricted, "the owner sees what is hidden, nobody else does"
        async with connected(relay, proves=member) as client:
            assert "blocked:" in await client.publish(event(member, "banned and authenticated"))
            shown = await client.fetch_ids(Filter())
            assert (shown == []) is restricted, "where nobody has to authenticate, it reads as anybody may"
            assert hexes([note])[0] not in shown

    async def let_in(client: Sdk, relay: RelayProcess) -> None:
        match mode:
            case "follows":
                follows = EventBuilder(Kind(3), "").tags([Tag.public_key(member.public_key())]).finalize(owner)
                assert await client.publish(follows) == ""
            case "managed":
                assert manage(relay, owner, "allowpubkey", member.public_key().to_hex()) is True
            case "curating":
                tags = [Tag.parse(["d", "curating-config"]), Tag.parse(["daily_limit", "5"])]
                assert await client.publish(EventBuilder(Kind(30078), "{}").tags(tags).finalize(owner)) == ""
            case _:
                pass

    given = {"ORLY_ACL_MODE": mode, "ORLY_OWNERS": owner.public_key().to_hex()}
    with running_relay(**given, ORLY_ACL_RESTRICT_READS=str(restricted).lower()) as relay:
        run(main(relay))


async def published_at_last(client: Sdk, note: Any) -> str:
    """The answer once a list that is read in the background has come; a refusal otherwise stands."""

    reason = await client.publish(note)
    async with asyncio.timeout(15):
        while "restricted:" in reason:
            reason = await client.publish(note)
    return reason
