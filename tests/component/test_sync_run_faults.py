"""One sync with relays that cap, refuse, stall, close, cheat or know less: it ends, says how, and loses nothing."""

import asyncio
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from tests.component.async_test import async_test
from tests.component.fake_peer import CLOSE, FakeRelay, PeerSide, event_frame, frame, scripted_peer, text_frame
from tests.component.sync_side import hex_ids, notes, side
from tests.factory import FAKE_SIG, NOW_S, SECRETS, event_json, fake_event, make_event
from tests.wsclient import DEADLINE_S, until

from orly.intake.verdict import FULL_TODAY, TOO_MANY_OF_AUTHOR
from orly.negentropy import ItemSet, Responder
from orly.negentropy.encoding import varint
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.sync.negentropy import download, fallback, pace, run_reconcile, upload
from orly.sync.negentropy.request import Direction, SyncFailedError, SyncProgress

OURS = notes(*range(400))
THEIRS = notes(*range(200, 900))
BOTH = hex_ids(OURS) | hex_ids(THEIRS)
QUICK_S = 1.0
"""How long a peer may be silent here; the loop has nothing else to do."""


def kinds_of(log: list[list[Any]]) -> set[str]:
    return {message[0] for message in log}


async def fails(
    own: Any, url: str, words: str, direction: Direction = Direction.BOTH, **options: Any
) -> SyncFailedError:
    """A sync that must fail, with these words."""
    with pytest.raises(SyncFailedError, match=words) as caught:
        await own.sync(url, direction, **options)
    return caught.value


async def goes_on(own: Any, relay: FakeRelay) -> None:
    """Now that the relay behaves, the next sync makes both sides equal."""
    healthy = FakeRelay()
    healthy.events = relay.events
    async with scripted_peer(healthy.serve) as url:
        result = await own.sync(url)
    assert result.is_complete, result.problems
    assert await own.ids() == set(relay.events)


# Caps


class CappingRelay(FakeRelay):
    """Reconciles no more than so many events at a time."""

    def __init__(self, events: Any, cap: int, *refusal: Any) -> None:
        super().__init__(events)
        self.cap = cap
        self.refusal = refusal or ("blocked: too many query results", cap)
        self.n_refused = 0

    async def on_neg_open(self, peer: PeerSide, sub_id: str, filter_: dict[str, Any], message: bytes) -> None:
        if len(self.matching([filter_])) > self.cap:
            self.n_refused += 1
            await peer.send("NEG-ERR", sub_id, *self.refusal)
        else:
            await super().on_neg_open(peer, sub_id, filter_, message)


@pytest.mark.parametrize("refusal", [(), ("blocked: this query is too big",), ("ERROR: too many records",)])
@pytest.mark.parametrize("n_ours", [0, 400])
@async_test
async def test_a_cap_is_got_around_by_time(n_ours: int, refusal: tuple[str, ...], tmp_path: Path) -> None:
    relay = CappingRelay(THEIRS, 60, *refusal)
    async with side(tmp_path, OURS[:n_ours]) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert await own.ids() == set(relay.events) == hex_ids(OURS[:n_ours]) | hex_ids(THEIRS)
        assert result.is_complete
        assert relay.n_refused >= 10


@async_test
async def test_a_second_with_more_than_the_cap_is_read_page_by_page(tmp_path: Path) -> None:
    same_second = [make_event(content=str(number), created_at=NOW_S - 500) for number in range(70)]
    relay = CappingRelay([*same_second, *notes(1, 2, 3)], 10)
    async with side(tmp_path, same_second[::2]) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert await own.ids() == set(relay.events)
        assert result.is_complete


@async_test
async def test_a_capped_filter_with_a_limit_is_not_split(tmp_path: Path) -> None:
    relay = CappingRelay(THEIRS, 60)
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, Direction.DOWN, Filter(limit=100))
        assert await own.ids() == hex_ids(THEIRS[-100:])
        assert result.is_complete
        assert relay.n_refused == 1


@async_test
async def test_a_peer_that_refuses_every_size_is_read_page_by_page(tmp_path: Path) -> None:
    relay = CappingRelay(THEIRS, -1)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert await own.ids() == set(relay.events) == BOTH
        assert result.is_complete
        assert relay.n_refused == 101


# Refusals


class RefusingRelay(FakeRelay):
    """Answers every NEG-OPEN in its own way."""

    def __init__(self, events: Any, *answer: Any) -> None:
        super().__init__(events)
        self.answer = answer

    async def on_neg_open(self, peer: PeerSide, sub_id: str, filter_: dict[str, Any], message: bytes) -> None:
        if self.answer:
            await peer.send(*(sub_id if each == "SUB" else each for each in self.answer))


@pytest.mark.parametrize(
    "answer",
    [
        ("NOTICE", "ERROR: bad msg: negentropy disabled"),
        ("NOTICE", "unknown message type NEG-OPEN"),
        ("CLOSED", "SUB", "unsupported: unknown command"),
        ("NEG-ERR", "SUB", "unsupported: no negentropy here"),
        ("NEG-ERR", "SUB", "blocked: negentropy is not offered by this relay"),
        ("NEG-ERR", "SUB", "blocked: go away"),
        ("NEG-MSG", "SUB", "62"),
        (),
    ],
    ids=lambda answer: " ".join(answer) or "silence",
)
@pytest.mark.parametrize("direction", list(Direction))
@async_test
async def test_without_negentropy_events_are_compared_page_by_page(
    direction: Direction, answer: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_reconcile, "FIRST_ANSWER_S", QUICK_S)
    relay = RefusingRelay(THEIRS, *answer)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, direction, batch_events=100)
        assert await own.ids() == (BOTH if direction.pulls else hex_ids(OURS))
        assert set(relay.events) == (BOTH if direction.pushes else hex_ids(THEIRS))
        assert (result.progress.have, result.progress.need) == (200, 500)
        assert result.is_complete


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("auth-required: who are you", "auth-required: who are you .*wants a key, and none is given"),
        ("restricted: not you", "restricted: not you"),
        ("error: shutting down", "error: shutting down"),
        ("blocked: too many concurrent sessions", "concurrent"),
        ("PROTOCOL-ERROR", "PROTOCOL-ERROR"),
    ],
)
@async_test
async def test_refusals_that_end_the_sync(reason: str, words: str, tmp_path: Path) -> None:
    relay = RefusingRelay(THEIRS, "NEG-ERR", "SUB", reason)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, words)
        assert await own.ids() == hex_ids(OURS)
        assert "EVENT" not in kinds_of(relay.log)


class LosingRelay(FakeRelay):
    """Forgets a session after its first answer, so many times."""

    n_losses = 2

    async def on_neg_msg(self, peer: PeerSide, sub_id: str, message: bytes) -> None:
        if self.log[-1][0] == "NEG-MSG" and self.n_losses:
            self.n_losses -= 1
            await peer.send("NEG-ERR", sub_id, "closed: session timed out")
        else:
            await super().on_neg_msg(peer, sub_id, message)


@async_test
async def test_a_lost_session_is_begun_again(tmp_path: Path) -> None:
    relay = LosingRelay(THEIRS)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, frame_bytes=512)
        assert await own.ids() == set(relay.events) == BOTH
        assert result.is_complete
        assert relay.n_losses == 0


@async_test
async def test_a_session_that_is_always_lost_is_given_up(tmp_path: Path) -> None:
    class Relay(FakeRelay):
        async def on_neg_open(self, peer: PeerSide, sub_id: str, filter_: dict[str, Any], message: bytes) -> None:
            await peer.send("NEG-ERR", sub_id, "closed: no")

    relay = Relay(THEIRS)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, "closed: no")


class HalfWayRelay(FakeRelay):
    """Shows its set bit by bit, ends the session after so many answers, and says OK only when something follows."""

    def __init__(self, events: Any, n_answers: int, *refusal: Any) -> None:
        super().__init__(events)
        self.n_answers = n_answers
        self.refusal = refusal
        self.unanswered: list[dict[str, Any]] = []
        self.has_gone_on = False

    def responder(self, items: ItemSet) -> Responder:
        return Responder(items, max_frame_bytes=1024)

    async def on_neg_msg(self, peer: PeerSide, sub_id: str, message: bytes) -> None:
        self.n_answers -= 1
        if self.n_answers == 0:
            await peer.send("NEG-ERR", sub_id, *self.refusal)
        else:
            await super().on_neg_msg(peer, sub_id, message)

    async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
        assert event["id"] not in self.events, "it was sent twice"
        self.unanswered.append(event)

    async def handle(self, peer: PeerSide, message: list[Any]) -> None:
        await super().handle(peer, message)
        self.has_gone_on |= self.n_answers <= 0 and message[0] in ("REQ", "NEG-OPEN")
        if self.has_gone_on:
            late, self.unanswered = self.unanswered, []
            for event in late:
                await super().on_event(peer, event)


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("n_answers", [4, 12])
@pytest.mark.parametrize(
    "refusal",
    [("closed: too slow",), ("blocked: too many query results", 1000), ("unsupported: not any more",)],
    ids=lambda refusal: refusal[0],
)
@async_test
async def test_what_a_broken_session_has_found_is_neither_counted_nor_carried_again(
    refusal: tuple[Any, ...], n_answers: int, direction: Direction, tmp_path: Path
) -> None:
    ours, theirs = notes(*range(0, 900, 3)), notes(*range(0, 900, 2))
    relay = HalfWayRelay(theirs, n_answers, *refusal)
    async with side(tmp_path, ours) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, direction, frame_bytes=1024, list_ids=True)
        assert relay.n_answers <= 0
        assert result.is_complete, result.problems
        have, need = hex_ids(ours) - hex_ids(theirs), hex_ids(theirs) - hex_ids(ours)
        assert (result.progress.have, result.progress.need) == (len(have), len(need))
        assert sorted(event_id.hex() for event_id in result.have_ids) == sorted(have)
        assert sorted(event_id.hex() for event_id in result.need_ids) == sorted(need)
        assert result.progress.sent == (len(have) if direction.pushes else 0)
        assert result.progress.fetched == (len(need) if direction.pulls else 0)
        assert await own.ids() == hex_ids(ours) | (need if direction.pulls else set())
        assert set(relay.events) == hex_ids(theirs) | (have if direction.pushes else set())


# AUTH


class ClosedRelay(FakeRelay):
    """Answers nothing before it is given an AUTH event (NIP-42)."""

    def __init__(self, events: Any) -> None:
        super().__init__(events)
        self.keys: list[str] = []

    async def handle(self, peer: PeerSide, message: list[Any]) -> None:
        match message:
            case ["AUTH", dict(event)]:
                self.keys.append(event["pubkey"])
                await peer.send("OK", event["id"], True, "")
            case ["NEG-OPEN", str(sub_id), *_] if not self.keys:
                await peer.send("AUTH", "challenge")
                await peer.send("NEG-ERR", sub_id, "ERROR: auth-required: say who you are")
            case _:
                await super().handle(peer, message)


@async_test
async def test_a_peer_that_wants_to_know_who_we_are(tmp_path: Path) -> None:
    relay = ClosedRelay(THEIRS)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, "auth-required: say who you are")
        result = await own.sync(url, auth_key=SECRETS[0])
        assert await own.ids() == set(relay.events) == BOTH
        assert result.is_complete


@async_test
async def test_reqs_that_want_a_key_fail_and_nothing_is_remembered(tmp_path: Path) -> None:
    class Relay(FakeRelay):
        async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
            await peer.send("CLOSED", sub_id, "auth-required: who are you")

    relay = Relay(THEIRS)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, "does not send events: auth-required: who are you")
        assert len(own.memory) == 0


# Stalls and closes at every stage


class BreakingRelay(FakeRelay):
    """Stops at the nth message of a type: says nothing more about that type, or hangs up."""

    def __init__(self, kind: str, nth: int, how: str) -> None:
        super().__init__(THEIRS)
        self.kind, self.nth, self.how = kind, nth, how

    async def handle(self, peer: PeerSide, message: list[Any]) -> None:
        if message[0] == self.kind:
            self.nth -= 1
            if self.nth <= 0:
                match self.how:
                    case "abort":
                        peer.abort()
                    case "close":
                        await peer.close(1011, "out of order")
                return
        await super().handle(peer, message)


@pytest.mark.parametrize("how", ["stall", "abort", "close"])
@pytest.mark.parametrize(
    ("kind", "nth"), [("NEG-OPEN", 1), ("NEG-MSG", 1), ("REQ", 1), ("REQ", 3), ("EVENT", 1), ("EVENT", 60)]
)
@async_test
async def test_a_peer_that_breaks_is_gone_on_with(kind: str, nth: int, how: str, tmp_path: Path) -> None:
    relay = BreakingRelay(kind, nth, how)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        options: dict[str, Any] = {"batch_events": 100, "frame_bytes": 512, "timeout_s": QUICK_S}
        if how == "stall" and kind == "NEG-OPEN":
            assert (await own.sync(url, **options)).is_complete, "whoever is silent to it is read in pages"
            assert kinds_of(relay.log) >= {"REQ"}
        elif how == "stall" and kind == "EVENT":
            result = await own.sync(url, **options)
            assert result.progress.rejected == 200 - (nth - 1)
            assert result.problems == (
                f"{201 - nth} events rejected by the peer: the peer did not answer ({201 - nth})",
            )
        else:
            error = await fails(own, url, "waited|silent|closed|out of order|nothing|lost|reset|answer", **options)
            assert error.progress.bytes_sent > 0
        await goes_on(own, relay)


@async_test
async def test_what_came_before_the_peer_went_away_is_stored_and_counted(tmp_path: Path) -> None:
    asked: list[tuple[str, list[str]]] = []

    class Relay(FakeRelay):
        async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
            asked.append((sub_id, filters[0]["ids"]))
            if len(asked) == 3:
                rows = [event_frame(sub_id, self.events[each]) for sub_id, ids in asked for each in ids]
                peer.write(b"".join(rows) + frame(CLOSE, pack("!H", 1008) + b"enough"))
                await peer.drained()
                await peer.closed()

    relay = Relay(notes(*range(2_000)))
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        error = await fails(own, url, "enough", Direction.DOWN)
        assert len(await own.ids()) == error.progress.fetched == 1_500


@async_test
async def test_what_is_on_its_way_to_the_disk_when_a_sync_is_broken_off_is_counted(tmp_path: Path) -> None:
    async with side(tmp_path) as own, scripted_peer(FakeRelay(notes(*range(3_000))).serve) as url:
        save, saving = own.store.save, asyncio.Event()

        async def slowly(events: Any) -> Any:
            saving.set()
            return await save(events)

        own.store.save = slowly  # type: ignore[method-assign]
        syncing = asyncio.create_task(own.sync(url, Direction.DOWN))
        await saving.wait()
        syncing.cancel()
        await asyncio.gather(syncing, return_exceptions=True)
        assert own.progress[-1].fetched == len(await own.ids()) > 0


@async_test
async def test_a_peer_that_is_slow_with_events_and_works_in_order_is_not_silent(tmp_path: Path) -> None:
    class Relay(FakeRelay):
        async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
            await asyncio.sleep(0.01)
            await super().on_event(peer, event)

    relay = Relay(THEIRS)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, batch_events=20, frame_bytes=512, timeout_s=QUICK_S)
        assert result.is_complete, result.problems
        assert await own.ids() == set(relay.events) == BOTH


@async_test
async def test_nobody_there(tmp_path: Path) -> None:
    async with side(tmp_path) as own:
        error = await fails(own, "ws://127.0.0.1:1", "127.0.0.1:1")
        assert error.progress.round == 0
        for host in ("host..example", "x" * 64 + ".example", "a\0b"):
            await fails(own, f"ws://{host}", "cannot be reached")


class CheckedRelay(FakeRelay):
    """Withholds an event, is late with an OK, and fails the second NEG-OPEN, when it is looked at what is missing."""

    def __init__(self, events: list[EncodedEvent], how: str) -> None:
        super().__init__(events)
        self.withheld = events[0].event.id
        self.how = how
        self.n_opened = 0
        self.late: set[asyncio.TimerHandle] = set()

    async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
        await send_events(peer, sub_id, [row for row in self.matching(filters) if self.withheld.encode() not in row])
        await peer.send("EOSE", sub_id)

    async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
        self.events[event["id"]] = json.dumps(event, separators=(",", ":")).encode()
        late = text_frame("OK", event["id"], True, "")
        self.late.add(asyncio.get_running_loop().call_later(0.2, peer.write, late))

    async def on_neg_open(self, peer: PeerSide, sub_id: str, filter_: dict[str, Any], message: bytes) -> None:
        self.n_opened += 1
        if self.n_opened == 1:
            await super().on_neg_open(peer, sub_id, filter_, message)
        elif self.how == "hang up":
            await peer.close(1008, "one session for each connection")
        elif self.how:
            await peer.send("NEG-ERR", sub_id, self.how)


@pytest.mark.parametrize("how", ["closed: gone", "rate-limited: later", "auth-required: who is it", "hang up", ""])
@async_test
async def test_a_last_look_that_fails_leaves_what_was_done(how: str, tmp_path: Path) -> None:
    theirs, ours = notes(*range(10, 20)), notes(99)
    relay = CheckedRelay(theirs, how)
    async with side(tmp_path, ours) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, timeout_s=1.0)
        assert relay.n_opened >= 2
        assert result.problems == ("1 event announced by the peer and not sent",)
        assert await own.ids() == hex_ids([*ours, *theirs[1:]])
        assert set(relay.events) == hex_ids([*ours, *theirs])
        assert len(own.memory) == 1


@async_test
async def test_junk_for_a_negentropy_message(tmp_path: Path) -> None:
    relay = RefusingRelay(THEIRS, "NEG-MSG", "SUB", "61ffff")
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, "sent a negentropy message that makes no sense")


@async_test
async def test_endless_rounds_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_reconcile, "MAX_BARREN_ROUNDS", 10)

    class Relay(FakeRelay):
        async def on_neg_msg(self, peer: PeerSide, sub_id: str, message: bytes) -> None:
            await peer.send("NEG-MSG", sub_id, "61000001" + "5a" * 16)  # one range up to infinity, always different

    relay = Relay(THEIRS)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        error = await fails(own, url, "11 answers at a stretch brought nothing new")
        assert error.progress.round == 11


@async_test
async def test_cancelling_leaves_nothing_behind(tmp_path: Path) -> None:
    class Relay(FakeRelay):
        async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
            asked.set()

    asked = asyncio.Event()
    relay = Relay(THEIRS)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        before = asyncio.all_tasks()
        task = asyncio.create_task(own.sync(url))
        await asyncio.wait_for(asked.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = {each.get_name() for each in asyncio.all_tasks() - before if each.get_name().startswith("sync-")}
        assert not left
        await goes_on(own, relay)


# Events that do not come, or others that do


class WithholdingRelay(FakeRelay):
    """Has events in its set that it never sends."""

    hidden: frozenset[str] = frozenset()

    def matching(self, filters: list[Any]) -> list[bytes]:
        found = super().matching(filters)
        if any("ids" in each for each in filters):
            return [row for row in found if json.loads(row)["id"] not in self.hidden]
        return found


@async_test
async def test_events_that_never_come_are_asked_for_twice_and_remembered(tmp_path: Path) -> None:
    relay = WithholdingRelay(THEIRS)
    relay.hidden = frozenset(event.event.id for event in THEIRS[::70])
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        first = await own.sync(url, Direction.DOWN)
        asked = [each for message in relay.log if message[0] == "REQ" for each in message[2]["ids"]]
        assert {each: asked.count(each) for each in relay.hidden} == dict.fromkeys(relay.hidden, 2)
        assert (first.progress.fetched, first.progress.unavailable) == (690, 10)
        assert first.problems == ("10 events announced by the peer and not sent",)
        assert not first.is_complete
        n_messages = len(relay.log)
        again = await own.sync(url, Direction.DOWN)
        assert again.progress.unavailable == 10
        assert not again.is_complete
        assert "REQ" not in kinds_of(relay.log[n_messages:])
        own.time[0] += 86_400
        relay.hidden = frozenset()
        assert (await own.sync(url, Direction.DOWN)).is_complete
        assert await own.ids() == hex_ids(THEIRS)


@pytest.mark.parametrize("direction", [Direction.UP, Direction.NONE])
@pytest.mark.parametrize("most", [699, 700])
@async_test
async def test_so_much_may_be_lacking_where_nothing_is_fetched(
    most: int, direction: Direction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_reconcile, "MAX_LACKING", most)
    async with side(tmp_path) as own, scripted_peer(FakeRelay(THEIRS).serve) as url:
        if most < len(THEIRS):
            await fails(own, url, "has more than 699 events that are not here: compare less at a time", direction)
        else:
            assert (await own.sync(url, direction)).progress.need == 700


@pytest.mark.parametrize("direction", [Direction.DOWN, Direction.BOTH])
@pytest.mark.parametrize("most", [300, 700])
@async_test
async def test_what_is_more_than_one_sync_may_fetch_comes_with_the_next(
    most: int, direction: Direction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_reconcile, "MAX_LACKING", most)
    relay = HalfWayRelay(THEIRS, 1000)
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, direction)
        if most < len(THEIRS):
            assert (result.is_complete, result.is_settled) == (False, False)
            assert result.problems == (
                "300 events of the peer were not here, the most for one sync: the next one goes on",
            )
            assert most < result.progress.need == result.progress.fetched < len(THEIRS)
            fetched = result.progress.fetched
            again = await own.sync(url, direction)
            assert most < again.progress.fetched <= len(THEIRS) - fetched
            result = await own.sync(url, direction)
        assert result.is_complete
        assert await own.ids() == hex_ids(THEIRS)


@async_test
async def test_what_was_not_compared_to_its_end_is_not_looked_at_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_reconcile, "MAX_LACKING", 300)

    class Relay(WithholdingRelay):
        def responder(self, items: ItemSet) -> Responder:
            return Responder(items, max_frame_bytes=1024)

    relay = Relay(THEIRS)
    relay.hidden = frozenset(event.event.id for event in THEIRS)
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, Direction.DOWN)
        assert 300 < result.progress.unavailable < 700
        assert len(result.problems) == 2
        assert [message[0] for message in relay.log].count("NEG-OPEN") == 1


def made_up(first: int) -> bytes:
    """A negentropy message with 500 ids that do not exist, which calls for a next one."""
    made = [sha256(str(number).encode()).digest() for number in range(first, first + 500)]
    bound = varint(NOW_S + 2) + b"\0"
    return b"\x61" + bound + b"\2" + varint(500) + b"".join(made) + b"\0\0\1" + b"x" * 16


@async_test
async def test_what_is_looked_at_once_more_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_reconcile, "MAX_LACKING", 5_000)

    class Relay(WithholdingRelay):
        """Announces without end when it is asked once more."""

        n_opened = n_made = 0

        async def on_neg_open(self, peer: PeerSide, sub_id: str, filter_: dict[str, Any], message: bytes) -> None:
            self.n_opened += 1
            await super().on_neg_open(peer, sub_id, filter_, message)

        async def on_neg_msg(self, peer: PeerSide, sub_id: str, message: bytes) -> None:
            if self.n_opened == 1:
                await super().on_neg_msg(peer, sub_id, message)
            else:
                assert self.n_made < 20_000, "it is asked without end"
                await peer.send("NEG-MSG", sub_id, made_up(self.n_made).hex())
                self.n_made += 500

    relay = Relay(THEIRS)
    relay.hidden = frozenset(event.event.id for event in THEIRS[::70])
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, Direction.DOWN)
        assert relay.n_opened == 2
        assert relay.n_made >= 5_000
        assert result.progress.unavailable == len(relay.hidden - hex_ids(OURS))


@pytest.mark.parametrize("rows", [[], [fake_event(key=1).raw]])
@async_test
async def test_what_did_not_come_is_settled_before_more_is_asked_for(
    rows: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_MAX_BARREN_IDS", 2_000)

    class Relay(FakeRelay):
        """Announces without end, and gives nothing."""

        n_made = 0

        async def on_neg_msg(self, peer: PeerSide, sub_id: str, message: bytes) -> None:
            await peer.send("NEG-MSG", sub_id, made_up(self.n_made).hex())
            self.n_made += 500

        async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
            await send_events(peer, sub_id, rows)
            await peer.send("EOSE", sub_id)

    async with side(tmp_path, OURS) as own, scripted_peer(Relay().serve) as url:
        error = await fails(own, url, "announced 2\\d\\d\\d events and sent none", Direction.DOWN)
        assert error.progress.unavailable < 4_000


@async_test
async def test_a_peer_that_announces_and_sends_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_MAX_BARREN_IDS", 300)
    relay = WithholdingRelay(THEIRS)
    relay.hidden = frozenset(relay.events)
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, "announced [0-9]+ events and sent none", batch_events=100)
        assert 300 < len(own.memory) < 700
        result = await own.sync(url, Direction.DOWN)
        assert (result.progress.unavailable, result.is_settled) == (700, True)


class ReqRelay(FakeRelay):
    """Answers REQs in a way of its own."""

    answer: Callable[[PeerSide, str, list[bytes], dict[str, Any]], Any]

    async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
        await self.answer(peer, sub_id, self.matching(filters), filters[0])


async def send_events(peer: PeerSide, sub_id: str, rows: list[bytes]) -> None:
    for row in rows:
        await peer.send_text(b'["EVENT","%b",%b]' % (sub_id.encode(), row))


async def _cut_at_30(peer: PeerSide, sub_id: str, rows: list[bytes], asked: dict[str, Any]) -> None:
    await send_events(peer, sub_id, rows[:30])
    await peer.send("EOSE", sub_id)


async def _at_most_50_ids(peer: PeerSide, sub_id: str, rows: list[bytes], asked: dict[str, Any]) -> None:
    if len(asked["ids"]) > 50:
        await peer.send("CLOSED", sub_id, "error: too many ids")
    else:
        await send_events(peer, sub_id, rows)
        await peer.send("EOSE", sub_id)


async def _closed_when_complete(peer: PeerSide, sub_id: str, rows: list[bytes], asked: dict[str, Any]) -> None:
    await send_events(peer, sub_id, rows)
    await peer.send("CLOSED", sub_id, "all events that can match were sent")


async def _strangers_too(peer: PeerSide, sub_id: str, rows: list[bytes], asked: dict[str, Any]) -> None:
    strangers = [event.raw for event in notes(*range(5000, 5010), key=1)]
    await send_events(peer, sub_id, [*strangers, *rows, *rows[:5], b'{"id":1}', b"{}"])
    await send_events(peer, "another", strangers)
    await peer.send("EOSE", sub_id)


@pytest.mark.parametrize("answer", [_cut_at_30, _at_most_50_ids, _closed_when_complete, _strangers_too])
@async_test
async def test_peculiar_answers_to_reqs(answer: Any, tmp_path: Path) -> None:
    relay = ReqRelay(THEIRS)
    relay.answer = answer
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert await own.ids() == set(relay.events) == BOTH
        assert result.is_complete
        assert result.progress.fetched == 500


@async_test
async def test_a_flood_of_events_that_nobody_asked_for_ends_the_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_MAX_UNASKED", 20)

    async def flood(peer: PeerSide, sub_id: str, rows: list[bytes], asked: dict[str, Any]) -> None:
        for start in range(10_000, 11_000, 10):
            await send_events(peer, sub_id, [fake_event(content=str(start + each)).raw for each in range(10)])

    relay = ReqRelay(THEIRS)
    relay.answer = flood
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, "events that it was not asked for")
        assert await own.ids() == hex_ids(OURS)


@async_test
async def test_reqs_that_are_refused_however_short_end_the_sync(tmp_path: Path) -> None:
    async def refuse(peer: PeerSide, sub_id: str, rows: list[bytes], asked: dict[str, Any]) -> None:
        await peer.send("CLOSED", sub_id, "blocked: nothing for you")

    relay = ReqRelay(THEIRS)
    relay.answer = refuse
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, "does not send events: blocked: nothing for you")


@async_test
async def test_forged_events_are_refused_and_not_fetched_again(tmp_path: Path) -> None:
    good, forged, twisted = notes(1, 2, 3)
    relay = FakeRelay([good, forged, twisted])
    relay.events[forged.event.id] = event_json(forged, sig=FAKE_SIG)
    relay.events[twisted.event.id] = event_json(twisted, content="something else")
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        for _ in range(2):
            result = await own.sync(url, Direction.DOWN)
            assert await own.ids() == {good.event.id}
            assert result.progress.refused == 2
            assert not result.is_complete
        assert len([message for message in relay.log if message[0] == "REQ"]) == 1


@async_test
async def test_events_outside_the_filter_are_refused(tmp_path: Path) -> None:
    inside, outside = make_event(kind=1), make_event(kind=7)

    class Relay(FakeRelay):
        def matching(self, filters: list[Any]) -> list[bytes]:
            return super().matching([{key: each[key] for key in each if key != "kinds"} for each in filters])

    relay = Relay([inside, outside])
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, Direction.DOWN, Filter(kinds=frozenset({1})))
        assert await own.ids() == {inside.event.id}
        assert "does not match the filter" in result.problems[0]


# OKs


class JudgingRelay(FakeRelay):
    """Rejects events by their number in the order of arrival."""

    verdict: Callable[[int, dict[str, Any]], tuple[bool, str] | None]
    n_seen = 0

    async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
        self.n_seen += 1
        verdict = self.verdict(self.n_seen, event)
        if verdict is not None and verdict[0] and not verdict[1]:
            await super().on_event(peer, event)
        elif verdict is not None:
            await peer.send("OK", event["id"], *verdict)


@async_test
async def test_rejected_events_are_said_and_not_sent_again(tmp_path: Path) -> None:
    relay = JudgingRelay([])
    relay.verdict = lambda number, event: (False, "blocked: no") if number % 4 == 0 else (True, "")
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        first = await own.sync(url)
        assert (first.progress.sent, first.progress.rejected) == (300, 100)
        assert first.is_settled
        assert first.problems == ("100 events rejected by the peer: blocked: no (100)",)
        again = await own.sync(url)
        assert relay.n_seen == 400
        assert (again.progress.sent, again.progress.rejected) == (0, 100)
        assert again.is_settled
        assert not again.is_complete
        own.time[0] += 86_400
        relay.verdict = lambda number, event: (True, "")
        assert (await own.sync(url)).is_complete
        assert set(relay.events) == hex_ids(OURS)


@pytest.mark.parametrize("how", ["cancel", "close"])
@async_test
async def test_what_a_sync_that_is_broken_off_found_out_is_remembered(how: str, tmp_path: Path) -> None:
    class Relay(WithholdingRelay):
        n_seen = 0

        async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
            self.n_seen += 1
            if self.n_seen <= 10:
                await peer.send("OK", event["id"], False, "blocked: no")
            elif how == "close" and self.n_seen == len(OURS) - 200:
                await peer.close(1011, "out of order")

    relay = Relay(THEIRS)
    relay.hidden = frozenset(event.event.id for event in THEIRS[::70])
    async with side(tmp_path, OURS[:200]) as own, scripted_peer(relay.serve) as url:
        syncing = asyncio.create_task(own.sync(url))

        def has_settled() -> bool:
            last = own.progress[-1] if own.progress else SyncProgress()
            return (last.rejected, last.fetched, last.unavailable) == (10, 690, 10) and relay.n_seen == 200

        if how == "cancel":
            await until(has_settled)
            syncing.cancel()
        (error,) = await asyncio.gather(syncing, return_exceptions=True)
        assert isinstance(error, asyncio.CancelledError if how == "cancel" else SyncFailedError)
        assert len(own.memory) == (20 if how == "cancel" else 10)  # a peer that is failing may lack events for now


@pytest.mark.parametrize("reason", ["error: disk full", "Write error: MDB_MAP_FULL", "auth-required: who"])
@async_test
async def test_what_is_rejected_for_now_is_sent_again(reason: str, tmp_path: Path) -> None:
    relay = JudgingRelay([])
    relay.verdict = lambda number, event: (False, reason) if number <= 10 else (True, "")
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        first = await own.sync(url)
        assert (first.progress.rejected, first.is_settled) == (10, False)
        assert (await own.sync(url)).is_complete
        assert set(relay.events) == hex_ids(OURS)


TOO_FAST = (False, "rate-limited: slow down")


@async_test
async def test_what_was_too_fast_is_sent_again_and_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 0.01)
    large = make_event(created_at=NOW_S, content="x" * 70_000)
    n_refused = {"small": 300, large.event.id: 2}

    def verdict(number: int, event: dict[str, Any]) -> tuple[bool, str]:
        key = event["id"] if event["id"] in n_refused else "small"
        n_refused[key] -= 1
        return TOO_FAST if n_refused[key] >= 0 else (True, "")

    relay = JudgingRelay([])
    relay.verdict = verdict
    async with side(tmp_path, [*OURS, large]) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert result.is_complete, result.problems
        assert set(relay.events) == hex_ids([*OURS, large])
        assert result.progress.sent == 401
        assert relay.n_seen == 401 + 302


@async_test
async def test_after_a_refusal_one_event_goes_first_and_twice_as_many_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(pace, "START_WINDOW", 32)
    monkeypatch.setattr(pace, "QUICK_S", DEADLINE_S)
    due = [32, 1, 2, 4, 8, 16, 1]

    class Relay(FakeRelay):
        waiting: list[dict[str, Any]]

        async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
            self.waiting.append(event)
            if len(self.waiting) < due[0]:
                return
            is_first = due.pop(0) == 32
            for each in self.waiting:
                if is_first:
                    await peer.send("OK", each["id"], *TOO_FAST)
                else:
                    await super().on_event(peer, each)
            self.waiting.clear()

    relay = Relay()
    relay.waiting = []
    async with side(tmp_path, notes(*range(32))) as own, scripted_peer(relay.serve) as url:
        # Were fewer sent, nothing would be answered.
        assert (await own.sync(url, Direction.UP)).is_complete
        assert not due


@async_test
async def test_a_peer_that_only_says_it_is_too_fast_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 0.02)
    large = make_event(created_at=NOW_S, content="x" * 70_000)
    relay = JudgingRelay(THEIRS)
    relay.verdict = lambda number, event: TOO_FAST
    async with side(tmp_path, [*OURS, large]) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, timeout_s=QUICK_S)
        assert await own.ids() == BOTH | {large.event.id}
        assert (result.progress.sent, result.progress.rejected) == (0, 201)
        (problem,) = result.problems
        assert (
            "201 events rejected by the peer: not sent, as the peer took too few: rate-limited: slow down (" in problem
        )
        assert len(own.memory) == 0
        await goes_on(own, relay)


@async_test
async def test_an_event_that_is_always_too_much_is_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(pace, "MAX_PAUSE_S", 0.001)
    never = OURS[5].event.id
    relay = JudgingRelay([])
    relay.verdict = lambda number, event: TOO_FAST if event["id"] == never else (True, "")
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert (result.progress.sent, result.progress.rejected) == (399, 1)
        assert result.problems == ("1 event rejected by the peer: rate-limited: slow down (1)",)
        assert relay.n_seen == 399 + pace.MAX_TRIES


@pytest.mark.parametrize(
    "reason",
    [
        str(TOO_MANY_OF_AUTHOR),
        str(FULL_TODAY),
        "rate-limited: 50 events a day are taken of an author who is not trusted",
    ],
)
@async_test
async def test_the_limit_of_an_author_or_of_a_day_does_not_hold_up_the_others(reason: str, tmp_path: Path) -> None:
    relay = JudgingRelay([])
    relay.verdict = lambda number, event: (False, reason) if number % 2 else (True, "")
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert (result.progress.sent, result.progress.rejected) == (200, 200)
        assert relay.n_seen == 400
        assert len(own.memory) == 0


@pytest.mark.parametrize("how", ["cancel", "abort", "close"])
@async_test
async def test_a_pause_ends_with_the_sync(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 10 * DEADLINE_S)
    monkeypatch.setattr(pace, "MAX_PAUSE_S", 10 * DEADLINE_S)
    relay = JudgingRelay([])
    relay.verdict = lambda number, event: TOO_FAST
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        syncing = asyncio.create_task(own.sync(url, timeout_s=100 * DEADLINE_S))
        async with asyncio.timeout(DEADLINE_S):
            await until(lambda: relay.n_seen == len(OURS))
            if how == "cancel":
                syncing.cancel()
            elif how == "abort":
                relay.connections[0].abort()
            else:
                relay.connections[0].write(frame(CLOSE, pack("!H", 1001)))
            with pytest.raises(asyncio.CancelledError if how == "cancel" else SyncFailedError):
                await syncing
        assert len(own.memory) == 0


@pytest.mark.parametrize(
    "verdict", [(True, "duplicate: have it"), (False, "replaced: have newer event"), (False, "duplicate: newer")]
)
@async_test
async def test_what_the_peer_has_after_all_is_no_loss(verdict: tuple[bool, str], tmp_path: Path) -> None:
    relay = JudgingRelay([])
    relay.verdict = lambda number, event: verdict
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        for _ in range(2):
            result = await own.sync(url)
            assert result.is_complete
            assert result.progress.unneeded == 400
        assert relay.n_seen == 400


@async_test
async def test_a_peer_that_takes_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_MAX_USELESS", 50)
    relay = JudgingRelay([])
    relay.verdict = lambda number, event: (False, "restricted: members only")
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, "takes no events from us: restricted: members only")


@async_test
async def test_one_ok_missing_and_others_twice(tmp_path: Path) -> None:
    class Relay(FakeRelay):
        async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
            if event["id"] == OURS[7].event.id:
                self.events[event["id"]] = OURS[7].raw
            else:
                await super().on_event(peer, event)
                await peer.send("OK", event["id"], True, "")
                await peer.send("OK", THEIRS[-1].event.id, False, "blocked: never sent")

    relay = Relay(THEIRS)
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, timeout_s=QUICK_S)
        assert await own.ids() == set(relay.events) == BOTH
        assert (result.progress.sent, result.progress.rejected) == (199, 1)
        assert not result.is_settled
        assert result.problems == ("1 event rejected by the peer: the peer did not answer (1)",)
        assert (await own.sync(url)).is_complete


@async_test
async def test_the_window_is_kept_and_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "START_WINDOW", 32)
    monkeypatch.setattr(pace, "MAX_WINDOW", 64)
    monkeypatch.setattr(pace, "QUICK_S", DEADLINE_S)

    class Relay(FakeRelay):
        waiting: list[str]
        counts: list[int]

        async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
            self.events[event["id"]] = json.dumps(event).encode()
            self.waiting.append(event["id"])
            due = 64 if self.counts else 32
            if len(self.waiting) == due or len(self.events) == len(ours):
                self.counts.append(len(self.waiting))
                for each in self.waiting:
                    await peer.send("OK", each, True, "")
                self.waiting.clear()

    relay, ours = Relay(), notes(*range(32 + 3 * 64))
    relay.waiting, relay.counts = [], []
    async with side(tmp_path, ours) as own, scripted_peer(relay.serve) as url:
        # The whole window is sent: with one event less nothing would be answered, and the sync would end with a stall.
        result = await own.sync(url, Direction.UP)
        assert result.is_complete
        assert relay.counts == [32, 64, 64, 64]


@async_test
async def test_a_large_event_is_not_blamed_before_it_was_sent(tmp_path: Path) -> None:
    class Relay(FakeRelay):
        n_left = 5

        async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
            self.n_left -= 1
            if self.n_left:
                await super().on_event(peer, event)
            else:
                await peer.close(1001, "restarting")

    relay = Relay()
    large = make_event(created_at=NOW_S, content="x" * 70_000)
    async with side(tmp_path, [*notes(*range(10)), large]) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, "restarting")
        assert len(own.memory) == 0
        await goes_on(own, relay)
        assert large.event.id in relay.events


@async_test
async def test_large_events_go_last_and_one_by_one(tmp_path: Path) -> None:
    large = [make_event(content="x" * size, created_at=NOW_S - size) for size in (70_000, 90_000)]

    class Relay(FakeRelay):
        async def on_event(self, peer: PeerSide, event: dict[str, Any]) -> None:
            if len(event["content"]) > 80_000:
                await peer.close(1009, "too large")
            else:
                await super().on_event(peer, event)

    relay = Relay()
    async with side(tmp_path, [*OURS, *large]) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert result.progress.sent == 401
        assert set(relay.events) == hex_ids([*OURS, large[0]])
        size = len(large[1].raw)
        assert result.problems == (
            f"1 event rejected by the peer: the peer went away over an event of {size} bytes (1)",
        )
        again = await own.sync(url)
        assert again.progress.rejected == 1
        assert [message[0] for message in relay.log].count("EVENT") == 402


# Paging


@async_test
async def test_a_second_that_no_page_shows_all_of_is_said(tmp_path: Path) -> None:
    crowd = [make_event(content=str(number), created_at=NOW_S - 500) for number in range(30)]
    relay = RefusingRelay([*crowd, *notes(1, 2)], "NEG-ERR", "SUB", "unsupported: no")
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, Direction.DOWN, batch_events=20)
        assert result.progress.fetched == 22
        assert not result.is_complete
        assert not result.is_settled
        assert result.problems == (
            f"the peer lacks negentropy and shows only some of its events of one second (created_at {NOW_S - 500})",
        )
        whole = await own.sync(url, Direction.DOWN, batch_events=31)
        assert whole.is_complete
        assert await own.ids() == set(relay.events)


@pytest.mark.parametrize("batch_events", [3, 4, 5, 11, 12, 13])
@async_test
async def test_ties_at_the_edges_of_pages(batch_events: int, tmp_path: Path) -> None:
    tied = [make_event(content=str(number), created_at=NOW_S - number // 3) for number in range(36)]
    relay = RefusingRelay(tied[::2] + tied[1:9:2], "NEG-ERR", "SUB", "unsupported: no")
    async with side(tmp_path, tied[1::2]) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, batch_events=batch_events)
        if batch_events > 3:
            assert result.is_complete, result.problems
        assert await own.ids() == set(relay.events) == hex_ids(tied)


@pytest.mark.parametrize("reason", ["", "error: shutting down"])
@async_test
async def test_a_page_that_is_refused_is_not_the_end_of_all_pages(reason: str, tmp_path: Path) -> None:
    class Relay(RefusingRelay):
        n_pages = 0

        async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
            self.n_pages += 1
            if self.n_pages == 2:
                await peer.send("CLOSED", sub_id, reason)
            else:
                await super().on_req(peer, sub_id, filters)

    relay = Relay(THEIRS, "NEG-ERR", "SUB", "unsupported: no negentropy here")
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        await fails(own, url, "does not send events: " + (reason or "it gave no reason"), batch_events=100)
        await goes_on(own, relay)


@async_test
async def test_pages_that_are_too_large_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "MAX_PAGE_BYTES", 5000)
    relay = RefusingRelay(THEIRS, "NEG-ERR", "SUB", "unsupported: no")
    async with side(tmp_path, OURS) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url)
        assert await own.ids() == set(relay.events) == BOTH
        assert result.is_complete


@async_test
async def test_a_limit_holds_over_pages(tmp_path: Path) -> None:
    relay = RefusingRelay(THEIRS, "NEG-ERR", "SUB", "unsupported: no")
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        await own.sync(url, Direction.DOWN, Filter(limit=130), batch_events=50)
        assert await own.ids() == hex_ids(THEIRS[-130:])


# Bounds


@async_test
async def test_reading_pauses_while_the_store_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_HELD_BYTES", 20_000)
    relay = FakeRelay(THEIRS)
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, Direction.DOWN, batch_events=50)
        assert result.is_complete
        assert await own.ids() == hex_ids(THEIRS)


@async_test
async def test_reconciling_pauses_while_much_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orly.sync.negentropy import run_context

    most = 0

    class Watched(run_context.Room):
        def __init__(self) -> None:
            super().__init__(max_ids=50)

        def add(self, count: int) -> None:
            nonlocal most
            super().add(count)
            most = max(most, self._n_ids)

    monkeypatch.setattr("orly.sync.negentropy.run.Room", Watched)
    relay = FakeRelay(notes(*range(3000)))
    async with side(tmp_path) as own, scripted_peer(relay.serve) as url:
        result = await own.sync(url, Direction.DOWN, batch_events=20, frame_bytes=512)
        assert result.is_complete
        assert await own.ids() == set(relay.events)
        assert most >= 50
