"""NIP-77 on a relay's socket: who may, in what order, how much, and that every refusal is a NEG-ERR."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from tests.component.neg_world import FIRST, ids_of, items_of, reconcile, remote_sets
from tests.component.relay_client import NostrClient
from tests.component.relay_server import TestedRelay, local_sets, on_relay, read_messages, running_relay, send_at_once
from tests.factory import KEYS, NOW_S, delete_event, expiring_event, fake_event, gift_wrap, make_event
from tests.transport import run_async
from tests.wsclient import until

from orly.negentropy import Initiator
from orly.reconciling import NegRefusedError
from orly.relay.negotiating import MAX_WAITING_MESSAGES
from orly.store.base import Query, ReadScope, StoreError

OPEN: Final = FIRST.hex()
Body = Callable[[TestedRelay], Awaitable[None]]


def on_both(**settings: Any) -> Callable[[Body], Callable[[Path, Any], None]]:
    """Makes a test on a relay that reconciles itself, and on one that has it done by a service."""

    def decorate(body: Body) -> Callable[[Path, Any], None]:
        @pytest.mark.parametrize("sets_of", [local_sets, remote_sets], ids=["local", "remote"])
        def test(tmp_path: Path, sets_of: Any) -> None:
            async def play() -> None:
                async with running_relay(tmp_path, sets_of=sets_of, negentropy_enabled=True, **settings) as relay:
                    await body(relay)

            run_async(play())

        test.__name__ = test.__qualname__ = body.__name__
        return test  # type: ignore[no-any-return]

    return decorate


async def neg_err(client: NostrClient, sub_id: str = "N") -> list[Any]:
    """What the next NEG-ERR says: the reason, and the maximum if there is one."""
    message = await client.take(lambda found: found[0] in ("NEG-ERR", "NEG-MSG") and found[1] == sub_id)
    assert message[0] == "NEG-ERR", message
    return message[2:]


async def opened(client: NostrClient, sub_id: str = "N", wanted: dict[str, Any] | None = None) -> bytes:
    """Open; the answer."""
    await client.send("NEG-OPEN", sub_id, wanted or {}, OPEN)
    return await answer(client, sub_id)


async def answer(client: NostrClient, sub_id: str = "N") -> bytes:
    message = await client.take(lambda found: found[0] in ("NEG-ERR", "NEG-MSG") and found[1] == sub_id)
    assert message[0] == "NEG-MSG", message
    assert len(message) == 3
    return bytes.fromhex(message[2])


async def prove(relay: TestedRelay, client: NostrClient, key: int) -> None:
    await client.send("REQ", "challenge", {"kinds": [4]})
    await client.closed_reason("challenge")
    assert (await client.authenticate(relay.url, key=key, at_s=NOW_S))[2] is True


@on_both()
async def test_a_client_learns_exactly_what_differs(relay: TestedRelay) -> None:
    common = [fake_event(created_at=NOW_S - n) for n in range(1_500)]
    theirs = [fake_event(created_at=NOW_S - 7 * n, content="theirs") for n in range(120)]
    ours = [fake_event(created_at=NOW_S - 5 * n, content="ours") for n in range(120)]
    hidden = [gift_wrap(KEYS[1]), expiring_event(NOW_S), delete_event(common[0])]
    await relay.fill([*common, *theirs, *hidden])
    there = [*common[1:], *theirs, hidden[2]]
    async with relay.client() as client:
        assert await reconcile(client, [*common, *ours]) == (ids_of(*ours, common[0]), ids_of(*theirs, hidden[2]))
        assert await reconcile(client, there) == ([], [])
        assert await reconcile(client, [], max_frame_bytes=4096) == ([], ids_of(*there))
        assert await reconcile(client, ours, {"limit": 3, "kinds": [1]}) == (
            ids_of(*ours),
            ids_of(*sorted([*common[1:], *theirs], key=lambda e: (-e.event.created_at, e.event.id))[:3]),
        )
        since = {"since": NOW_S - 10, "until": NOW_S - 5}
        assert await reconcile(client, [], since) == (
            [],
            ids_of(*[event for event in there if NOW_S - 10 <= event.event.created_at <= NOW_S - 5]),
        )
        assert [message for message in client.inbox if message[0] != "EVENT"] == []


@on_both()
async def test_events_and_requests_go_on_meanwhile(relay: TestedRelay) -> None:
    await relay.fill([fake_event(created_at=NOW_S - n) for n in range(100)])
    new = [make_event(content=f"new {n}") for n in range(5)]
    async with relay.client() as client:
        first = await opened(client)
        await client.accept(*new)
        assert sorted(await client.request("R", {"ids": ids_of(*new)})) == ids_of(*new)
        await client.send("NEG-MSG", "N", OPEN)
        assert await answer(client) == first, "the set does not change by what is uploaded"
        assert len(await client.request("R", {"ids": ["ab" * 32]})) == 0
        await client.send("NEG-CLOSE", "N")
        again = await opened(client)
        assert again != first
        await client.fence()
        assert [message for message in client.inbox if message[0] != "EVENT"] == []


@on_relay(negentropy_enabled=True)
async def test_while_a_set_is_read_the_connection_serves_on(relay: TestedRelay) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    items = relay.store.items

    async def wait(query: Query, *, max_items: int | None = None) -> Any:
        reached.set()
        await go_on.wait()
        return await items(query, max_items=max_items)

    relay.store.items = wait  # type: ignore[method-assign]
    event = make_event()
    async with relay.client() as client:
        await client.send("NEG-OPEN", "N", {"kinds": [1]}, OPEN)
        await reached.wait()
        await client.send("NEG-MSG", "N", OPEN)
        await client.accept(event)
        assert await client.request("R", {}) == [event.event.id]
        assert not any(message[0].startswith("NEG") for message in client.inbox)
        go_on.set()
        assert await answer(client) == await answer(client)


@on_both()
async def test_the_set_holds_the_events_sent_before(relay: TestedRelay) -> None:
    events = [make_event(content=str(n)) for n in range(30)]
    async with relay.raw_client() as client:
        texts = [b'["EVENT",%b]' % event.raw for event in events]
        send_at_once(client, *texts, ["NEG-OPEN", "N", {}, OPEN], ["NEG-OPEN", "M", {"kinds": [1]}, OPEN])
        messages = await read_messages(client, 32)
        assert [message[0] for message in messages[:30]] == ["OK"] * 30
        for message in messages[30:]:
            step = Initiator(items_of([])).reconcile(bytes.fromhex(message[2]))
            assert sorted(each.hex() for each in step.need) == ids_of(*events)


@pytest.mark.parametrize("is_on", [False, True])
def test_every_malformed_message_gets_a_neg_err(tmp_path: Path, is_on: bool) -> None:
    async def play() -> None:
        async with running_relay(tmp_path, negentropy_enabled=is_on) as relay, relay.client() as client:
            for message in (
                ["NEG-OPEN", "N"],
                ["NEG-OPEN", "N", {}],
                ["NEG-OPEN", "N", {}, 16, OPEN],
                ["NEG-OPEN", "N", [{}], OPEN],
                ["NEG-OPEN", "N", {"kinds": "x"}, OPEN],
                ["NEG-OPEN", "N", {}, "6"],
                ["NEG-MSG", "N"],
                ["NEG-MSG", "N", "xx"],
                ["NEG-CLOSE", "N", 1],
            ):
                await client.send(*message)
                (reason,) = await neg_err(client)
                assert reason.startswith("invalid: "), (message, reason)
            await client.send("NEG-OPEN", 5, {}, OPEN)
            assert "must be a string" in (await client.next("NOTICE"))[1]
            assert client.inbox == []

    run_async(play())


@on_relay()
async def test_a_relay_that_does_not_offer_it_says_so(relay: TestedRelay) -> None:
    async with relay.client() as client:
        for message in (["NEG-OPEN", "N", {}, OPEN], ["NEG-MSG", "N", OPEN], ["NEG-CLOSE", "N"]):
            await client.send(*message)
            assert await neg_err(client) == ["blocked: negentropy is not offered by this relay"]


@on_both()
async def test_what_ends_a_reconciliation(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await client.send("NEG-MSG", "N", OPEN)
        assert (await neg_err(client))[0].startswith("closed: ")
        await client.send("NEG-CLOSE", "N")
        for bad in (["NEG-MSG", "N", "61ff"], ["NEG-MSG", "N", "xx"], ["NEG-OPEN", "N", {}], ["NEG-CLOSE", "N", 1]):
            await opened(client)
            await client.send(*bad)
            assert (await neg_err(client))[0].startswith("invalid: ")
            await client.send("NEG-MSG", "N", OPEN)
            assert (await neg_err(client))[0].startswith("closed: ")
        await client.send("NEG-OPEN", "N", {}, "61ff")
        assert (await neg_err(client))[0].startswith("invalid: ")
        await client.send("NEG-OPEN", "N", {}, "62")
        assert await answer(client) == b"\x61"
        await client.send("NEG-MSG", "N", OPEN)
        await answer(client)
        await client.send("NEG-CLOSE", "N")
        await client.send("NEG-MSG", "N", OPEN)
        assert (await neg_err(client))[0].startswith("closed: ")
        await client.fence()
        assert client.inbox == []


@on_both()
async def test_open_again_replaces(relay: TestedRelay) -> None:
    note, profile = fake_event(), fake_event(kind=0)
    await relay.fill([note, profile])
    async with relay.client() as client:
        await client.send("NEG-OPEN", "N", {"kinds": [1]}, OPEN)
        await client.send("NEG-OPEN", "N", {"kinds": [0]}, OPEN)
        await client.fence()
        answers = [await answer(client)]
        answers += [bytes.fromhex(message[2]) for message in client.inbox if message[0] == "NEG-MSG"]
        assert profile.id in answers[-1]
        await client.send("NEG-MSG", "N", OPEN)
        assert await answer(client) == answers[-1]


# Who may


@on_both(auth_required=True)
async def test_who_must_authenticate_to_read_must_do_so_to_reconcile(relay: TestedRelay) -> None:
    await relay.fill([fake_event()])
    async with relay.client() as client:
        await client.send("NEG-OPEN", "N", {}, OPEN)
        assert await neg_err(client) == ["auth-required: this relay answers authenticated clients only"]
        await client.authenticate(relay.url, key=3, at_s=NOW_S)
        assert await reconcile(client) == ([], ids_of(fake_event()))


@on_both()
async def test_private_kinds_are_for_their_parties(relay: TestedRelay) -> None:
    wrap, message, note = gift_wrap(KEYS[1], key=2), fake_event(kind=4, key=3, tags=[["p", KEYS[2]]]), fake_event()
    await relay.fill([wrap, message, note])
    async with relay.client() as client:
        await client.send("NEG-OPEN", "N", {"kinds": [4, 1059]}, OPEN)
        assert await neg_err(client) == ["auth-required: these kinds are read by their parties only"]
        assert (await client.next("AUTH"))[0] == "AUTH"
        assert await reconcile(client) == ([], ids_of(note))
        assert await reconcile(client, [], {"kinds": [1, 4]}) == ([], ids_of(note))
    for key, seen in ((1, [wrap]), (2, [wrap, message]), (3, [message]), (4, [])):
        async with relay.client() as client:
            await prove(relay, client, key)
            assert await reconcile(client) == ([], ids_of(note, *seen))
            assert await reconcile(client, [], {"kinds": [4, 1059]}) == ([], ids_of(*seen))


@on_both(negentropy_full_sync_pubkeys=(KEYS[5],))
async def test_keys_of_the_operators_other_relays_see_all(relay: TestedRelay) -> None:
    wrap, note = gift_wrap(KEYS[1], key=2), fake_event()
    await relay.fill([wrap, note])
    async with relay.client() as client:
        assert await reconcile(client) == ([], ids_of(note))
        await prove(relay, client, 5)
        assert await reconcile(client) == ([], ids_of(note, wrap))
        assert await reconcile(client, [], {"kinds": [1059]}) == ([], ids_of(wrap))
        assert sorted(await client.request("R", {"ids": ids_of(wrap, note)})) == ids_of(wrap, note)
    async with relay.client() as client:
        await prove(relay, client, 4)
        assert await reconcile(client) == ([], ids_of(note))
        assert await client.request("R", {"ids": ids_of(wrap)}) == []


@on_both()
async def test_what_a_client_may_see_is_fixed_when_it_opens(relay: TestedRelay) -> None:
    wrap = gift_wrap(KEYS[1], key=2)
    await relay.fill([wrap])
    async with relay.client() as client:
        before = await opened(client)
        await prove(relay, client, 1)
        await client.send("NEG-MSG", "N", OPEN)
        assert await answer(client) == before
        assert wrap.id in await opened(client)


# How much


@on_both(negentropy_max_sessions_per_connection=2, negentropy_max_sessions=3)
async def test_so_many_are_open_and_no_more(relay: TestedRelay) -> None:
    async with relay.client() as first, relay.client() as second:
        for sub_id in ("1", "2"):
            await opened(first, sub_id)
        await first.send("NEG-OPEN", "3", {}, OPEN)
        assert await neg_err(first, "3") == ["blocked: this connection has 2 reconciliations open, the maximum"]
        await opened(first, "2")
        await opened(second, "1")
        await second.send("NEG-OPEN", "2", {}, OPEN)
        assert await neg_err(second, "2") == ["blocked: 3 reconciliations are open, the maximum; try again later"]
        await first.send("NEG-CLOSE", "1")
        await first.fence()
        await until_open(relay, second, "2")
        await first.send("NEG-OPEN", "3", {}, OPEN)
        assert (await neg_err(first, "3"))[0].startswith("blocked: 3 ")


async def until_open(relay: TestedRelay, client: NostrClient, sub_id: str) -> None:
    """Open as soon as there is room: that another was closed is heard of a moment later."""
    del relay
    async with asyncio.timeout(20):
        while True:
            await client.send("NEG-OPEN", sub_id, {}, OPEN)
            message = await client.take(lambda found: found[0] in ("NEG-ERR", "NEG-MSG") and found[1] == sub_id)
            if message[0] == "NEG-MSG":
                return


@on_both(negentropy_max_sessions=1)
async def test_a_client_that_is_gone_leaves_nothing_open(relay: TestedRelay) -> None:
    for _ in range(3):
        async with relay.client() as client:
            await until_open(relay, client, "N")


@on_both(negentropy_max_items=3)
async def test_a_set_that_is_too_large_is_refused_with_the_maximum(relay: TestedRelay) -> None:
    await relay.fill([fake_event(created_at=NOW_S - n) for n in range(3)])
    async with relay.client() as client:
        await opened(client, wanted={"kinds": [1]})
        await relay.fill([fake_event(content="one too many")])
        await client.send("NEG-OPEN", "N", {"kinds": [1]}, OPEN)
        assert await neg_err(client) == ["blocked: too many query results, the maximum is 3 events", 3]
        await opened(client, wanted={"kinds": [1], "limit": 3})
        await opened(client)


@on_relay(negentropy_enabled=True)
async def test_so_many_messages_of_one_may_wait(relay: TestedRelay) -> None:
    go_on = asyncio.Event()
    items = relay.store.items

    async def wait(query: Query, *, max_items: int | None = None) -> Any:
        await go_on.wait()
        return await items(query, max_items=max_items)

    relay.store.items = wait  # type: ignore[method-assign]
    async with relay.client() as client:
        await client.send("NEG-OPEN", "N", {"kinds": [1]}, OPEN)
        for _ in range(MAX_WAITING_MESSAGES):
            await client.send("NEG-MSG", "N", OPEN)
        await client.fence()
        assert client.inbox == []
        await client.send("NEG-MSG", "N", OPEN)
        (reason,) = await neg_err(client)
        assert reason.startswith(f"rate-limited: {MAX_WAITING_MESSAGES} messages ")
        go_on.set()
        await opened(client)
        for _ in range(MAX_WAITING_MESSAGES):
            await client.send("NEG-MSG", "N", OPEN)
        for _ in range(MAX_WAITING_MESSAGES):
            await answer(client)


@on_both(sync_negentropy_session_timeout_s=1)
async def test_one_that_is_idle_is_closed_and_the_client_hears_of_it(relay: TestedRelay) -> None:
    async with relay.client() as client:
        await opened(client, "1")
        relay.time.steady += 0.9
        await opened(client, "2")
        relay.time.steady += 0.2
        assert await neg_err(client, "1") == ["closed: this reconciliation was idle for 1 s"]
        await client.send("NEG-MSG", "2", OPEN)
        await answer(client, "2")
        await client.send("NEG-MSG", "1", OPEN)
        assert (await neg_err(client, "1"))[0].startswith("closed: ")
        relay.time.steady += 1
        assert await neg_err(client, "2") == ["closed: this reconciliation was idle for 1 s"]


@on_both()
async def test_frames_as_long_as_those_of_others_are_read(relay: TestedRelay) -> None:
    events = [fake_event(created_at=NOW_S - n) for n in range(4_095)]
    # An id list over everything, as long as 262,144 hex digits allow.
    ids = b"".join(sorted(event.id for event in events))
    message = b"\x61\x00\x00\x02" + b"\x9f\x7f" + ids
    assert len(message.hex()) < 262_144 < len(message.hex()) + 200
    await relay.fill(events[:10])
    async with relay.client() as client:
        await client.send("NEG-OPEN", "N", {}, message.hex())
        await answer(client)
        await client.send("NEG-MSG", "N", message.hex())
        await answer(client)


@on_relay(negentropy_enabled=True)
async def test_a_store_that_fails_is_an_error(relay: TestedRelay) -> None:
    async def fail(query: Query, *, max_items: int | None = None) -> Any:
        raise StoreError("the disk is gone")

    relay.store.items = fail  # type: ignore[method-assign]
    async with relay.client() as client:
        await client.send("NEG-OPEN", "N", {}, OPEN)
        assert await neg_err(client) == ["error: the disk is gone"]


@on_both()
async def test_whatever_fails_the_client_is_told(relay: TestedRelay) -> None:
    async def fail(query: Query, *, max_items: int | None = None) -> Any:
        raise LookupError("something that nobody thought of")

    relay.store.items = fail  # type: ignore[method-assign]
    async with relay.client() as client:
        await client.send("NEG-OPEN", "N", {"kinds": [1]}, OPEN)
        (reason,) = await neg_err(client)
        assert reason.startswith("error: ")
        await client.send("NEG-MSG", "N", OPEN)
        assert (await neg_err(client))[0].startswith("closed: ")


@on_both(max_send_backlog_bytes=512 * 1024, negentropy_answer_bytes=128 * 1024)
async def test_long_answers_wait_until_the_client_takes_them(relay: TestedRelay) -> None:
    await relay.fill([fake_event(created_at=NOW_S - n) for n in range(4_100)])
    names = {f"s{number}" for number in range(16)}
    async with relay.slow_client() as client:
        send_at_once(client, *(["NEG-OPEN", name, {}, OPEN] for name in sorted(names)))
        answers = await read_messages(client, len(names))
        assert {kind for kind, *_ in answers} == {"NEG-MSG"}
        assert {name for _, name, _ in answers} == names
        assert all(len(text) > 250 * 1024 for *_, text in answers)


# What the relay does with its server of sets


class FakeSets:
    """Notes what it is asked for, and says what a test says."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.queries: list[Query] = []
        self.refusal: NegRefusedError | None = None

    async def open(self, connection_id: str, sub_id: str, query: Query, message: bytes) -> bytes:
        self.calls.append(("open", connection_id, sub_id))
        self.queries.append(query)
        if self.refusal is not None:
            raise self.refusal
        return message

    async def go_on(self, connection_id: str, sub_id: str, message: bytes) -> bytes:
        self.calls.append(("go_on", connection_id, sub_id))
        if self.refusal is not None:
            raise self.refusal
        return message

    def close(self, connection_id: str, sub_id: str) -> None:
        self.calls.append(("close", connection_id, sub_id))

    def gone(self, connection_id: str) -> None:
        self.calls.append(("gone", connection_id))


def test_the_relay_tells_its_sets_of_every_end(tmp_path: Path) -> None:
    sets = FakeSets()

    async def play() -> None:
        @asynccontextmanager
        async def fake_sets(*_: Any) -> AsyncIterator[FakeSets]:
            yield sets

        async with running_relay(tmp_path, sets_of=fake_sets, negentropy_enabled=True) as relay:
            async with relay.client() as client:
                await client.send("NEG-OPEN", "a", {"kinds": [1], "limit": 5}, "61")
                assert await answer(client, "a") == b"\x61"
                await client.send("NEG-MSG", "a", "6100")
                assert await answer(client, "a") == b"\x61\x00"
                await client.send("NEG-OPEN", "b", {}, "61")
                await answer(client, "b")
                await client.send("NEG-CLOSE", "b")
                sets.refusal = NegRefusedError("blocked", "no", 7)
                await client.send("NEG-MSG", "a", "61")
                assert await neg_err(client, "a") == ["blocked: no", 7]
                sets.refusal = None
                await client.send("NEG-OPEN", "c", {}, "61")
                await answer(client, "c")
            await until(lambda: ("gone", "1") in sets.calls, "the end of the connection")
            async with relay.client() as client:
                await client.fence()

    run_async(play())
    assert sets.calls == [
        ("open", "1", "a"),
        ("go_on", "1", "a"),
        ("open", "1", "b"),
        ("close", "1", "b"),
        ("go_on", "1", "a"),
        ("close", "1", "a"),
        ("open", "1", "c"),
        ("gone", "1"),
    ]
    query = sets.queries[0]
    assert (query.scope, query.default_limit, query.max_limit) == (ReadScope(), None, None)
    assert query.filters[0].limit == 5


@pytest.mark.parametrize("is_on", [False, True])
def test_it_is_announced_when_it_is_on(tmp_path: Path, is_on: bool) -> None:
    async def play() -> None:
        async with running_relay(tmp_path, negentropy_enabled=is_on) as relay, relay.raw_client() as client:
            del client
            document = json.loads(await http_get(relay.url))
            assert (77 in document["supported_nips"]) is is_on
            assert document.get("negentropy") == (1 if is_on else None)

    run_async(play())


async def http_get(url: str) -> str:
    """The relay's NIP-11 document."""
    host, port = url.removeprefix("ws://").strip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET / HTTP/1.1\r\nHost: {host}\r\nAccept: application/nostr+json\r\nConnection: close\r\n\r\n".encode()
    )
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return text.partition("\r\n\r\n")[2]
