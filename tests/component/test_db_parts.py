"""The parts of the service without a server: how data may be cut, what is bounded, what happens when a store breaks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.component.db_calls import jsonl
from tests.component.store_faults import play
from tests.component.store_proxy import StoreProxy
from tests.factory import NOW_S, fake_event, make_event
from tests.strategies import QUICK

from orly.db import importing, run
from orly.db.exporting import CHUNK_BYTES, Exporting
from orly.db.importing import Importing
from orly.db.reading import MAX_WHOLE_ANSWERS, Reading
from orly.intake.policy import WritePolicy
from orly.intake.verify import Verifier
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.pb.orlydb.v1 import service_pb2, types_pb2
from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError
from orly.rpc.events import to_pb
from orly.rpc.status import RefusedError
from orly.settings import Settings
from orly.store.base import EventStore, Query, SaveResult, SaveStatus, StoreError
from orly.store.lmdb.store import LmdbStore

DEADLINE_S = 20.0
MAX_LINE_BYTES = 2_000

POLICY = WritePolicy(max_event_bytes=1_000, max_event_tags=10, max_created_at_past_s=0, max_created_at_future_s=0)


class AbortedError(Exception):
    """What the real context raises."""


class Context:
    """A call as the parts see it; `held` keeps writes from being taken."""

    def __init__(self, time_remaining_s: float | None = None) -> None:
        self.chunks: list[bytes] = []
        self.held = asyncio.Event()
        self.held.set()
        self._time_remaining_s = time_remaining_s

    def time_remaining(self) -> float | None:
        return self._time_remaining_s

    async def write(self, answer: service_pb2.ExportResponse) -> None:
        await self.held.wait()
        self.chunks.append(answer.data)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise AbortedError(code, details)


def context(time_remaining_s: float | None = None) -> Any:
    return Context(time_remaining_s)


class TakingStore:
    """Takes everything, and remembers how; known are the events with an odd time."""

    def __init__(self) -> None:
        self.batches: list[list[EncodedEvent]] = []
        self.under_way = self.most_under_way = 0
        self.fails_from = 1_000_000

    async def save(self, events: Sequence[EncodedEvent]) -> list[SaveResult]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        self.batches.append(list(events))
        if len(self.batches) > self.fails_from:
            return [SaveResult(SaveStatus.FAILED, detail="no room")] * len(events)
        return [SaveResult(SaveStatus.STORED, 1)] * len(events)

    def known(self, ids: Sequence[bytes]) -> list[bool]:
        return [event_id == KNOWN.id for event_id in ids]


def run_import(store: Any, pieces: Sequence[bytes], *, skip_signatures: bool = False) -> service_pb2.ImportResponse:
    """Imports pieces, each in a message of its own."""

    async def messages() -> AsyncIterator[service_pb2.ImportRequest]:
        yield service_pb2.ImportRequest(skip_signatures=skip_signatures)
        for piece in pieces:
            yield service_pb2.ImportRequest(data=piece)

    async def main() -> service_pb2.ImportResponse:
        part = Importing(store, POLICY, Verifier(share=False), max_line_bytes=MAX_LINE_BYTES, now_s=lambda: NOW_S)
        return await asyncio.wait_for(part.run(messages()), DEADLINE_S)

    return asyncio.run(main())


KNOWN = make_event(content="known")
LINES = (
    make_event(content="good").raw,
    b"",
    b"{",
    KNOWN.raw,
    fake_event(content="forged").raw,
    b" " + make_event(content="é𝄞").raw + b"\r",
    b"x" * (MAX_LINE_BYTES + 1),
    b"\xff",
    make_event(content="x" * 1_000).raw,
    make_event(kind=20_000).raw,
    make_event(content="last").raw,
)
DATA = b"\n".join(LINES)


@QUICK
@given(borders=st.lists(st.integers(0, len(DATA)), max_size=40), has_end=st.booleans())
def test_where_the_data_are_cut_does_not_matter(borders: list[int], has_end: bool) -> None:
    ends = sorted({*borders, 0, len(DATA)})
    pieces = [DATA[start:end] for start, end in pairwise(ends)]
    store = TakingStore()
    response = run_import(store, [*pieces, b"\n"] if has_end else pieces)
    whole = TakingStore()
    assert response == run_import(whole, [DATA])
    assert store.batches == whole.batches
    assert (response.events_imported, response.duplicates, response.refused) == (3, 1, 6)
    assert [problem.partition(":")[0] for problem in response.problems] == [f"line {n}" for n in (3, 7, 8, 9, 10, 5)]


def test_every_byte_may_come_alone() -> None:
    assert run_import(TakingStore(), [bytes([byte]) for byte in DATA]) == run_import(TakingStore(), [DATA])


def test_batches_are_bounded_by_count_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert importing.BATCH_EVENTS > 10
    monkeypatch.setattr(importing, "BATCH_EVENTS", 10)
    events = [fake_event(content=str(n)) for n in range(25)]
    store = TakingStore()
    run_import(store, [jsonl(events)], skip_signatures=True)
    assert [len(batch) for batch in store.batches] == [10, 10, 5]
    monkeypatch.setattr(importing, "BATCH_BYTES", 2 * len(fake_event(content="10").raw))
    store = TakingStore()
    run_import(store, [jsonl(events[10:])], skip_signatures=True)
    assert [len(batch) for batch in store.batches] == [2] * 7 + [1]
    assert store.most_under_way == 1


def test_nothing_is_saved_after_a_batch_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH_EVENTS", 10)
    store = TakingStore()
    store.fails_from = 2
    events = [fake_event(content=str(n)) for n in range(100)]
    response = run_import(store, [jsonl([event]) for event in events], skip_signatures=True)
    assert len(store.batches) == 3
    assert (response.events_imported, response.failure) == (20, "no room")
    assert response.unsaved == response.events_skipped == 20  # the batch that failed, and the one read meanwhile


def test_a_store_that_cannot_be_asked_ends_an_import() -> None:
    store = TakingStore()
    store.known = _fail  # type: ignore[assignment, method-assign]
    with pytest.raises(StoreError, match="broken"):
        run_import(store, [KNOWN.raw])


def _fail(*_: object) -> Any:
    raise StoreError("broken")


def on_store(directory: Path, body: Callable[[LmdbStore], Awaitable[None]]) -> None:
    play(directory, body, now_s=lambda: NOW_S)


def test_an_answer_is_as_large_as_a_message_at_most(tmp_path: Path) -> None:
    events = [fake_event(created_at=n, content="x" * 10_000) for n in range(10)]
    n_bytes = service_pb2.QueryEventsResponse(events=[to_pb(event.event) for event in events]).ByteSize()
    room = n_bytes + 10 * 6  # what is reckoned for the head of each event is a little more than it takes

    async def body(store: LmdbStore) -> None:
        await store.save(events)
        request = service_pb2.QueryEventsRequest()
        for part in (Reading(store, max_bytes=room).events, Reading(store, max_bytes=room).versions):
            answer = await part(request, context())
            assert len(answer.events) == 10
        for part in (Reading(store, max_bytes=n_bytes - 1).events, Reading(store, max_bytes=n_bytes - 1).versions):
            with pytest.raises(RefusedError, match="ask for it in pages, by `until` and `limit`") as caught:
                await part(request, context())
            assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            request_page = service_pb2.QueryEventsRequest(filter=types_pb2.Filter(limit=9))
            assert len((await part(request_page, context())).events) == 9

    on_store(tmp_path, body)


def test_a_list_of_serials_is_as_large_as_a_message_at_most(tmp_path: Path) -> None:
    async def body(store: LmdbStore) -> None:
        await store.save([fake_event(created_at=n) for n in range(100)])
        request = service_pb2.GetSerialsRequest()
        answer = await Reading(store).serials(request, context())
        assert list(answer.serials) == list(range(100, 0, -1))
        await Reading(store, max_bytes=answer.ByteSize()).serials(request, context())
        with pytest.raises(RefusedError, match="in pages"):
            await Reading(store, max_bytes=answer.ByteSize() - 1).serials(request, context())

    on_store(tmp_path, body)


class Counting(StoreProxy):
    """Says any number, and keeps what it was asked."""

    def __init__(self, inner: EventStore, answer: int) -> None:
        super().__init__(inner)
        self.answer = answer
        self.asked: list[Query] = []

    async def count(self, query: Query) -> int:
        self.asked.append(query)
        return self.answer


@pytest.mark.parametrize(("count", "told"), [(2**31 - 1, 2**31 - 1), (2**31, 2**31 - 1), (0, 0)])
def test_a_count_saturates(tmp_path: Path, count: int, told: int) -> None:
    async def body(store: LmdbStore) -> None:
        counting = Counting(store, count)
        request = service_pb2.QueryEventsRequest(filter=types_pb2.Filter(kinds=[7]))
        answer = await Reading(counting).count(request, context(2.5))
        assert (answer.count, answer.approximate) == (told, False)
        assert counting.asked == [Query(filters=(Filter(kinds=frozenset({7})),), timeout_s=2.5)]

    on_store(tmp_path, body)


def test_few_whole_answers_are_made_at_once(tmp_path: Path) -> None:
    async def body(store: LmdbStore) -> None:
        proxy = StoreProxy(store)
        most = 0

        async def versions(query: Query) -> list[bytes]:
            nonlocal most
            proxy.queries.append(query)
            most = max(most, len(proxy.queries))
            await asyncio.sleep(0)
            proxy.queries.remove(query)
            return []

        proxy.versions = versions  # type: ignore[method-assign]
        part = Reading(proxy)
        requests = [
            service_pb2.QueryEventsRequest(filter=types_pb2.Filter(kinds=[n])) for n in range(3 * MAX_WHOLE_ANSWERS)
        ]
        await asyncio.gather(*(part.versions(request, context()) for request in requests))
        assert most == MAX_WHOLE_ANSWERS

    on_store(tmp_path, body)


class Exported:
    """A store that reads out what it is given."""

    def __init__(self, *lists: list[bytes | None]) -> None:
        self.lists = lists
        self.is_closed = False

    def export(self, wanted: Filter) -> Generator[list[bytes | None], None, None]:
        try:
            yield from self.lists
        finally:
            self.is_closed = True


def test_lost_events_are_told_after_the_rest() -> None:
    async def main() -> None:
        call = context()
        store = Exported([b"1", None], [], [None, b"2"])
        with pytest.raises(AbortedError) as caught:
            await Exporting(store).run(service_pb2.ExportRequest(), call)
        assert caught.value.args == (
            grpc.StatusCode.DATA_LOSS,
            "error: the database is damaged, 2 events are missing: run orly check",
        )
        assert b"".join(call.chunks) == b"1\n2\n"

    asyncio.run(main())


@pytest.mark.parametrize("n_bytes", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_chunks_are_full_but_for_the_last(n_bytes: int) -> None:
    async def main() -> None:
        call = context()
        await Exporting(Exported([b"x" * n_bytes])).run(service_pb2.ExportRequest(), call)
        assert b"".join(call.chunks) == b"x" * n_bytes + b"\n"
        assert all(len(chunk) == CHUNK_BYTES for chunk in call.chunks[:-1])
        assert 0 < len(call.chunks[-1]) <= CHUNK_BYTES

    asyncio.run(main())


def test_a_reader_that_takes_nothing_is_left() -> None:
    async def main() -> None:
        call = context()
        call.held.clear()
        store = Exported([b"x"] * 10, [b"y" * CHUNK_BYTES])
        with pytest.raises(AbortedError) as caught:
            await asyncio.wait_for(
                Exporting(store, reader_timeout_s=0.01).run(service_pb2.ExportRequest(), call), DEADLINE_S
            )
        assert caught.value.args == (grpc.StatusCode.DEADLINE_EXCEEDED, "error: nothing was read for 0.01 s")
        assert store.is_closed

    asyncio.run(main())


def test_a_store_that_breaks_ends_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PROBE_INTERVAL_S", 0.01)
    settings = Settings(data_dir=tmp_path / "data", db_listen=f"unix:{tmp_path}/db")
    opened = LmdbStore.open
    looks = 0

    async def open_breaking(*args: Any, **options: Any) -> LmdbStore:
        store = await opened(*args, **options)
        read = store.last_serial

        async def last_serial() -> int:
            nonlocal looks
            looks += 1
            if looks == 3:
                raise StoreError("the disk is gone")
            return await read()

        store.last_serial = last_serial  # type: ignore[method-assign]
        return store

    monkeypatch.setattr(LmdbStore, "open", open_breaking)

    async def main() -> None:
        with pytest.raises(ServiceError, match="the disk is gone") as caught:
            await asyncio.wait_for(run._serve(settings, asyncio.Event()), DEADLINE_S)
        assert caught.value.code is ExitCode.INTERNAL

    asyncio.run(main())
    assert looks == 3
