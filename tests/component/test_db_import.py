"""Import and Export of a real `orly-db`."""

import gzip
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.component.db_calls import DEADLINE_S, await_log, calling, chunks_of, import_all, jsonl, refusal, save
from tests.component.orly_child import run
from tests.factory import KEYS, NOW_S, delete_event, event_json, expiring_event, fake_event, make_event
from tests.process import DbProcess, running_db

from orly.db.exporting import CHUNK_BYTES
from orly.intake.jsonl import MAX_SHOWN_PROBLEMS
from orly.nostr.event import EncodedEvent
from orly.pb.orlydb.v1 import service_pb2, streams_pb2, types_pb2

Code = grpc.StatusCode
KIB = 1024


@pytest.fixture
def process() -> Iterator[DbProcess]:
    with running_db() as started:
        yield started


@pytest.fixture
def db(process: DbProcess) -> Iterator[Any]:
    with calling(process.address) as stub:
        yield stub


def export(db: Any, *pubkeys: bytes, wanted: types_pb2.Filter | None = None) -> list[bytes]:
    """The chunks of an export."""
    request = service_pb2.ExportRequest(pubkeys=pubkeys, filter=wanted)
    return [answer.data for answer in db.Export(request, timeout=DEADLINE_S)]


def newest_first(events: list[EncodedEvent]) -> bytes:
    return jsonl(sorted(events, key=lambda event: (-event.event.created_at, event.id)))


def counts(response: service_pb2.ImportResponse) -> dict[str, int]:
    """The numbers of a response that are not 0."""
    return {field.name: value for field, value in response.ListFields() if isinstance(value, int)}


def test_events_come_back_byte_for_byte(process: DbProcess, db: Any) -> None:
    kinds = (1, 4, 7, 1111)
    events = [make_event(n % 5, kind=kinds[n % 4], created_at=NOW_S + n // 3, content=f"{n} é𝄞") for n in range(5_000)]
    expected = newest_first(events)
    response = import_all(db, chunks_of(jsonl(events), 60_001))
    assert counts(response) == {"events_imported": 5_000}
    assert (response.failure, list(response.problems)) == ("", [])
    chunks = export(db)
    assert b"".join(chunks) == expected
    assert {len(chunk) for chunk in chunks[:-1]} == {CHUNK_BYTES}
    assert len(chunks[-1]) <= CHUNK_BYTES
    assert run("export", data_dir=process.data_dir).stdout == expected
    again = import_all(db, chunks)
    assert counts(again) == {"events_skipped": 5_000, "duplicates": 5_000}


def test_bad_lines_are_named_and_the_rest_is_stored(db: Any) -> None:
    good = [make_event(content=str(n)) for n in range(4)]
    old, new = make_event(kind=0, created_at=NOW_S), make_event(kind=0, created_at=NOW_S + 1)
    lines = [
        b"\xef\xbb\xbf" + good[0].raw,
        b"",
        b"{",
        b"  \t " + good[1].raw + b"\r",
        b'"\xff"',
        event_json(good[2], content="changed"),
        fake_event(content="forged").raw,
        make_event(kind=20_001).raw,
        good[0].raw,
        new.raw,
        old.raw,
        expiring_event(NOW_S + 1, signed=True).raw,
        make_event(tags=[["-"]]).raw,
        good[3].raw,  # without a line feed
    ]
    response = import_all(db, chunks_of(b"\n".join(lines), 100))
    assert counts(response) == {
        "events_imported": 5,
        "events_skipped": 8,
        "duplicates": 1,
        "unwanted": 2,
        "refused": 5,
    }
    reasons = dict(problem.removeprefix("line ").split(": ", 1) for problem in response.problems)
    assert reasons.keys() == {"3", "5", "6", "7", "8"}
    assert reasons["6"] == "id does not match the event"
    assert reasons["7"] == "the signature does not match"
    assert reasons["8"] == "kind 20001 is ephemeral and is not stored"
    assert set(b"".join(export(db)).splitlines()) == {
        *(good[n].raw for n in (0, 1, 3)),
        new.raw,
        make_event(tags=[["-"]]).raw,
    }


def test_a_line_may_be_as_long_as_an_event_could_be_written(db: Any) -> None:
    event = make_event(content="x" * 200_000)
    spelled = event.raw.replace(b"x", b"\\u0078")
    response = import_all(db, chunks_of(spelled + b" " * (16 * KIB * KIB - len(spelled)) + b"\n", 1_000_000))
    assert counts(response) == {"events_imported": 1}
    response = import_all(db, chunks_of(spelled + b" " * (16 * KIB * KIB - len(spelled) + 1) + b"\n", 1_000_000))
    assert list(response.problems) == [f"line 1: the line is longer than {16 * KIB * KIB} bytes"]


def test_signatures_are_skipped_when_the_first_message_says_so(db: Any) -> None:
    forged = fake_event(content="forged")
    response = import_all(db, [forged.raw + b"\n", event_json(forged, content="changed")], skip_signatures=True)
    assert counts(response) == {"events_imported": 1, "events_skipped": 1, "refused": 1}
    late = (
        service_pb2.ImportRequest(data=data, skip_signatures=bool(n))
        for n, data in enumerate([b"\n", fake_event(content="other").raw])
    )
    assert counts(db.Import(late, timeout=DEADLINE_S)) == {"events_skipped": 1, "refused": 1}


def test_a_flood_of_bad_lines_is_counted(db: Any) -> None:
    response = import_all(db, chunks_of(b"{\n" * (MAX_SHOWN_PROBLEMS + 2), 999))
    assert response.refused == response.events_skipped == MAX_SHOWN_PROBLEMS + 2
    assert len(response.problems) == MAX_SHOWN_PROBLEMS + 1
    assert response.problems[MAX_SHOWN_PROBLEMS - 1].startswith(f"line {MAX_SHOWN_PROBLEMS}: ")
    assert response.problems[MAX_SHOWN_PROBLEMS] == "further bad lines are counted, not named"


def test_nothing_is_a_complete_import(db: Any) -> None:
    assert counts(import_all(db, [])) == counts(import_all(db, [b"", b"\n\r", b"\n"])) == {}
    assert export(db) == []


@pytest.mark.parametrize(
    ("data", "name", "reader"),
    [(gzip.compress(b"{}\n", mtime=0), "gzip", "zcat"), (b"\x28\xb5\x2f\xfd\x04\x00\n", "zstd", "zstdcat")],
)
@pytest.mark.parametrize("n_bytes", [1, 1000])
def test_compressed_data_are_refused_by_name(db: Any, data: bytes, name: str, reader: str, n_bytes: int) -> None:
    assert refusal(lambda: import_all(db, chunks_of(data, n_bytes))) == (
        Code.INVALID_ARGUMENT,
        f"invalid: the data are compressed with {name}: send what `{reader}` makes of them",
    )


def test_a_full_store_stops_it_and_says_so() -> None:
    events = [fake_event(content=f"{n:060000}", created_at=n) for n in range(400)]
    with running_db(ORLY_DB_MAX_SIZE="16MiB") as process, calling(process.address) as db:
        response = import_all(db, chunks_of(jsonl(events), 64 * KIB), skip_signatures=True)
        assert "is full: raise ORLY_DB_MAX_SIZE" in response.failure
        assert 0 < response.events_imported < 400
        assert 0 < response.unsaved == response.events_skipped
        assert b"".join(export(db)) == jsonl(events[: response.events_imported][::-1])
        assert db.Ready(types_pb2.Empty(), timeout=DEADLINE_S).ready  # what can be read still is


def test_an_import_that_is_broken_off_keeps_what_was_committed_and_says_so(process: DbProcess, db: Any) -> None:
    events = [fake_event(content=str(n), created_at=n) for n in range(1_000)]
    all_sent = threading.Event()

    def requests() -> Iterator[service_pb2.ImportRequest]:
        yield service_pb2.ImportRequest(data=jsonl(events), skip_signatures=True)
        all_sent.wait(DEADLINE_S)

    feed = db.WatchEvents(streams_pb2.WatchRequest(), timeout=DEADLINE_S)
    next(feed)
    call = db.Import.future(requests(), timeout=DEADLINE_S)
    n_committed = len(next(feed).events)
    call.cancel()
    all_sent.set()
    feed.cancel()
    with pytest.raises(grpc.FutureCancelledError):
        call.result()
    assert n_committed > 0
    await_log(process, "an import was broken off by its caller, ")
    (line,) = [line for line in process.logs().splitlines() if "broken off" in line]
    n_stored = int(line.split(" lines: ")[1].split(" stored")[0])
    assert n_committed <= n_stored
    assert b"".join(export(db)) == jsonl(events[:n_stored][::-1])


def test_others_are_served_while_an_import_runs(db: Any) -> None:
    """The import goes on until others have saved and read; were they starved, it would run into its end."""
    n_chunks, n_calls = 600, 50
    served = threading.Event()

    def requests() -> Iterator[service_pb2.ImportRequest]:
        for n in range(n_chunks):
            events = [fake_event(content=f"{n} {i}", created_at=i) for i in range(250)]
            yield service_pb2.ImportRequest(data=jsonl(events), skip_signatures=True)
            if served.is_set():
                return
        raise AssertionError("the others were not served")

    call = db.Import.future(requests(), timeout=2 * DEADLINE_S)
    mine = [make_event(kind=7, content=str(n)) for n in range(n_calls)]
    for event in mine:
        save(db, event)
        wanted = types_pb2.Filter(ids=[event.id])
        assert db.CountEvents(service_pb2.QueryEventsRequest(filter=wanted), timeout=DEADLINE_S).count == 1
        assert not call.done()
    served.set()
    assert call.result().events_imported > 0


def test_an_import_reaches_who_follows_the_feed(db: Any) -> None:
    feed = db.WatchEvents(streams_pb2.WatchRequest(), timeout=DEADLINE_S)
    next(feed)
    events = [make_event(content=str(n), created_at=n) for n in range(600)]
    assert import_all(db, [jsonl(events)]).events_imported == 600
    told: list[bytes] = []
    while len(told) < 600:
        told += next(feed).events
    feed.cancel()
    assert told == [event.raw for event in events]


def test_an_export_chooses_by_author_and_filter(db: Any) -> None:
    events = [make_event(n % 3, kind=n % 2 + 1, created_at=n) for n in range(30)]
    import_all(db, [jsonl(events)])
    one, two = (bytes.fromhex(KEYS[n]) for n in range(2))

    def of(*authors: bytes, kind: int = 0) -> bytes:
        return newest_first([e for e in events if e.pubkey in authors and kind in (0, e.event.kind)])

    assert b"".join(export(db, one)) == of(one)
    assert b"".join(export(db, one, two)) == of(one, two)
    assert b"".join(export(db, one, wanted=types_pb2.Filter(kinds=[2]))) == of(one, kind=2)
    both = types_pb2.Filter(authors=[two], kinds=[1])
    assert b"".join(export(db, one, two, wanted=both)) == of(two, kind=1)
    assert export(db, one, wanted=both) == []
    assert b"".join(export(db, wanted=types_pb2.Filter(limit=4))) == newest_first(events[-4:])
    assert export(db, wanted=types_pb2.Filter(limit=0)) == []


def test_what_an_export_cannot_read_is_named(db: Any) -> None:
    assert refusal(lambda: export(db, bytes(31))) == (
        Code.INVALID_ARGUMENT,
        "invalid: pubkeys must hold 32 bytes each, not 31",
    )
    assert refusal(lambda: export(db, wanted=types_pb2.Filter(ids=[b""]))) == (
        Code.INVALID_ARGUMENT,
        "invalid: filter ids must hold 32 bytes each, not 0",
    )


def test_an_export_is_of_one_moment(db: Any) -> None:
    """What is replaced and deleted while it is read stays in it, and what is added does not come."""
    first = [make_event(kind=30_023, created_at=n, tags=[["d", str(n)]], content="x" * 60_000) for n in range(300)]
    import_all(db, chunks_of(jsonl(first), 1_000_000))
    answers = db.Export(service_pb2.ExportRequest(), timeout=DEADLINE_S)
    data = next(answers).data
    save(
        db,
        make_event(kind=30_023, created_at=1_000, tags=[["d", "0"]]),
        delete_event(first[1], created_at=1_000, signed=True),
    )
    assert db.DeleteEvent(service_pb2.DeleteEventRequest(event_id=first[2].id), timeout=DEADLINE_S).deleted
    data += b"".join(answer.data for answer in answers)
    assert data == newest_first(first)
    assert b"".join(export(db)) != data
