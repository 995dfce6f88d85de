"""Every call of the service but the streams, on a real `orly-db`, made with a plain generated stub."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.component.db_calls import DEADLINE_S, calling, ids, message, refusal, save
from tests.factory import KEYS, NOW_S, address_of, delete_event, fake_event, make_event, vanish_event
from tests.process import DbProcess, running_db

from orly.nostr.event import EncodedEvent
from orly.pb.orlydb.v1 import service_pb2, streams_pb2, types_pb2

Code = grpc.StatusCode
Query = service_pb2.QueryEventsRequest
EMPTY = types_pb2.Empty()


@pytest.fixture(scope="module")
def shared() -> Iterator[DbProcess]:
    """A service that all tests here use, each with events of its own."""
    with running_db(ORLY_KEEP_VERSIONS="true") as process:
        yield process


@pytest.fixture
def db(shared: DbProcess) -> Iterator[Any]:
    with calling(shared.address) as stub:
        yield stub


def query(db: Any, **wanted: Any) -> list[bytes]:
    return ids(db.QueryEvents(Query(filter=types_pb2.Filter(**wanted)), timeout=DEADLINE_S))


def tagged(topic: str, **options: Any) -> EncodedEvent:
    return make_event(tags=[["t", topic]], **options)


def tags(**values: list[bytes]) -> dict[str, types_pb2.TagSet]:
    return {key: types_pb2.TagSet(values=found) for key, found in values.items()}


def test_it_is_ready(db: Any) -> None:
    assert db.Ready(EMPTY, timeout=DEADLINE_S).ready


@pytest.mark.parametrize("service", ["", "orlydb.v1.DatabaseService"])
def test_its_health_is_told(shared: DbProcess, service: str) -> None:
    with grpc.insecure_channel(shared.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_it_describes_itself(shared: DbProcess) -> None:
    with grpc.insecure_channel(shared.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"orlydb.v1.DatabaseService", "grpc.health.v1.Health"} <= set(database.get_services())
        found = database.FindFileContainingSymbol("orlydb.v1.DatabaseService")
    methods = {method.name for service in found.service for method in service.method}
    assert methods == {method.name for method in METHODS}


REQUESTS = {module.DESCRIPTOR.name: module for module in (types_pb2, streams_pb2, service_pb2)}
METHODS = tuple(service_pb2.DESCRIPTOR.services_by_name["DatabaseService"].methods)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_call_is_implemented(db: Any, method: Any) -> None:
    """Called with nothing, each does its work or says what is missing."""
    if method.name == "WatchEvents":
        feed = db.WatchEvents(streams_pb2.WatchRequest(), timeout=DEADLINE_S)
        assert next(feed).through_serial >= 0
        feed.cancel()
        return
    request = getattr(REQUESTS[method.input_type.file.name], method.input_type.name)()

    def call() -> None:
        answer = getattr(db, method.name)(iter(()) if method.client_streaming else request, timeout=DEADLINE_S)
        if method.server_streaming:
            list(answer)

    if method.name in ("SaveEvent", "DeleteEvent", "CheckForDeleted", "SetMarker", "DeleteMarker"):
        assert refusal(call)[0] is Code.INVALID_ARGUMENT
    else:
        call()


def test_an_event_is_stored_once(db: Any) -> None:
    event = tagged("once")
    before = db.GetLastSerial(EMPTY, timeout=DEADLINE_S).serial
    first = db.SaveEvent(service_pb2.SaveEventRequest(event=message(event)), timeout=DEADLINE_S)
    assert (first.exists, first.outcome, first.reason, first.serial) == (False, streams_pb2.STORED, "", before + 1)
    assert db.GetLastSerial(EMPTY, timeout=DEADLINE_S).serial == before + 1
    again = db.SaveEvent(service_pb2.SaveEventRequest(event=message(event)), timeout=DEADLINE_S)
    assert (again.exists, again.outcome, again.serial) == (True, streams_pb2.DUPLICATE, 0)
    assert again.reason == "duplicate: already have this event"
    answer = db.QueryEvents(Query(filter=types_pb2.Filter(ids=[event.id])), timeout=DEADLINE_S)
    assert list(answer.events) == [message(event)]


def test_an_ephemeral_event_is_told_and_not_stored(db: Any) -> None:
    event = make_event(kind=20_001)
    feed = db.WatchEvents(streams_pb2.WatchRequest(), timeout=DEADLINE_S)
    next(feed)  # where it begins
    answer = db.SaveEvent(service_pb2.SaveEventRequest(event=message(event)), timeout=DEADLINE_S)
    assert (answer.outcome, answer.serial) == (streams_pb2.DELIVERED, 0)
    assert list(next(feed).ephemeral) == [event.raw]
    feed.cancel()
    assert query(db, ids=[event.id]) == []


def test_its_author_may_store_a_protected_event(db: Any) -> None:
    (serial,) = save(db, make_event(tags=[["-"], ["t", "protected"]]))
    assert serial


def test_a_structured_refusal_is_an_answer(db: Any) -> None:
    request = service_pb2.SaveEventRequest(event=message(fake_event(content="forged")), structured=True)
    answer = db.SaveEvent(request, timeout=DEADLINE_S)
    assert (answer.outcome, answer.exists, answer.serial) == (streams_pb2.REFUSED, False, 0)
    assert answer.reason == "invalid: the signature does not match"
    old, new = (make_event(key=7, kind=10_002, created_at=NOW_S + n) for n in range(2))
    save(db, new)
    answer = db.SaveEvent(service_pb2.SaveEventRequest(event=message(old), structured=True), timeout=DEADLINE_S)
    assert (answer.outcome, answer.reason) == (
        streams_pb2.SUPERSEDED,
        "duplicate: a newer version of this event is stored",
    )


@pytest.mark.parametrize("name", ["id", "pubkey", "sig"])
@pytest.mark.parametrize("method", ["SaveEvent", "CheckForDeleted"])
def test_a_wrong_length_is_named(db: Any, method: str, name: str) -> None:
    event = message(make_event(), **{name: bytes(31)})
    kind = {"SaveEvent": service_pb2.SaveEventRequest, "CheckForDeleted": service_pb2.CheckDeletedRequest}[method]
    n_bytes = 64 if name == "sig" else 32
    assert refusal(lambda: getattr(db, method)(kind(event=event), timeout=DEADLINE_S)) == (
        Code.INVALID_ARGUMENT,
        f"invalid: {name} has 31 bytes, not {n_bytes}",
    )


def test_events_come_newest_first_up_to_the_limit(db: Any) -> None:
    events = [tagged("order", created_at=NOW_S + n // 2, content=str(n)) for n in range(9)]
    save(db, *events)
    ordered = [event.id for event in sorted(events, key=lambda event: (-event.event.created_at, event.id))]
    assert query(db, tags=tags(t=[b"order"])) == ordered
    assert query(db, tags=tags(t=[b"order"]), limit=4) == ordered[:4]
    assert query(db, tags=tags(t=[b"order"]), limit=0) == []
    since_until = {"since": NOW_S + 1, "until": NOW_S + 2}
    assert query(db, tags=tags(t=[b"order"]), **since_until) == [
        event_id for event_id in ordered if event_id in {event.id for event in events[2:6]}
    ]


def test_tags_are_joined_by_or_within_a_key_and_by_and_between_keys(db: Any) -> None:
    target = bytes.fromhex("ab" * 32)
    one = make_event(tags=[["t", "joined-a"], ["e", target.hex()]])
    two = make_event(tags=[["t", "joined-b"]])
    save(db, one, two)
    assert set(query(db, tags=tags(t=[b"joined-a", b"joined-b"]))) == {one.id, two.id}
    for key in ("e", "#e"):
        for value in (target + b"\x00", target.hex().encode()):
            wanted = {**tags(t=[b"joined-a", b"joined-b"]), key: types_pb2.TagSet(values=[value])}
            assert query(db, tags=wanted) == [one.id]


def test_an_event_with_binary_tag_values_is_the_same_event(db: Any) -> None:
    event = make_event(tags=[["p", KEYS[3]], ["t", "binary"]])
    binary = message(event)
    binary.tags[0].values[1] = bytes.fromhex(KEYS[3]) + b"\x00"
    assert db.SaveEvent(service_pb2.SaveEventRequest(event=binary), timeout=DEADLINE_S).serial
    answer = db.QueryEvents(Query(filter=types_pb2.Filter(tags=tags(t=[b"binary"]))), timeout=DEADLINE_S)
    assert list(answer.events) == [message(event)]


@pytest.mark.parametrize(
    ("wanted", "code", "text"),
    [
        ({"ids": [bytes(31)]}, Code.INVALID_ARGUMENT, "invalid: filter ids must hold 32 bytes each, not 31"),
        ({"authors": [b""]}, Code.INVALID_ARGUMENT, "invalid: filter authors must hold 32 bytes each, not 0"),
        ({"kinds": [65_536]}, Code.INVALID_ARGUMENT, "invalid: filter kinds must hold integers from 0 to 65535"),
        ({"search": b"cat"}, Code.UNIMPLEMENTED, "unsupported: filter key 'search' is not supported"),
    ],
)
@pytest.mark.parametrize("method", ["QueryEvents", "QueryAllVersions", "CountEvents", "GetSerials"])
def test_a_wrong_filter_is_named(db: Any, method: str, wanted: dict[str, Any], code: Code, text: str) -> None:
    kind = service_pb2.GetSerialsRequest if method == "GetSerials" else Query
    call = lambda: getattr(db, method)(kind(filter=types_pb2.Filter(**wanted)), timeout=DEADLINE_S)  # noqa: E731
    assert refusal(call) == (code, text)


def test_events_are_counted_and_their_serials_told(db: Any) -> None:
    events = [tagged("counted", created_at=NOW_S + n) for n in range(5)]
    serials = save(db, *events)
    wanted = types_pb2.Filter(tags=tags(t=[b"counted"]))
    count = db.CountEvents(Query(filter=wanted), timeout=DEADLINE_S)
    assert (count.count, count.approximate) == (5, False)
    found = db.GetSerials(service_pb2.GetSerialsRequest(filter=wanted), timeout=DEADLINE_S)
    assert list(found.serials) == serials[::-1]
    wanted.limit = 2
    assert db.CountEvents(Query(filter=wanted), timeout=DEADLINE_S).count == 2
    assert list(db.GetSerials(service_pb2.GetSerialsRequest(filter=wanted), timeout=DEADLINE_S).serials) == [
        serials[4],
        serials[3],
    ]


def test_superseded_versions_are_told_when_asked_for(db: Any) -> None:
    versions = [make_event(key=6, kind=30_023, created_at=NOW_S + n, tags=[["d", "v"]]) for n in range(3)]
    save(db, *versions)
    wanted: dict[str, Any] = {"kinds": [30_023], "authors": [versions[0].pubkey]}
    assert query(db, **wanted) == [versions[2].id]
    answer = db.QueryAllVersions(Query(filter=types_pb2.Filter(**wanted)), timeout=DEADLINE_S)
    assert ids(answer) == [version.id for version in versions[::-1]]


def test_an_event_is_removed_for_good_and_may_come_back(db: Any) -> None:
    event = tagged("removed")
    save(db, event)
    request = service_pb2.DeleteEventRequest(event_id=event.id)
    assert db.DeleteEvent(request, timeout=DEADLINE_S).deleted
    assert query(db, ids=[event.id]) == []
    assert not db.DeleteEvent(request, timeout=DEADLINE_S).deleted
    assert save(db, event) != [0]
    assert query(db, ids=[event.id]) == [event.id]


@pytest.mark.parametrize("length", [0, 31, 33])
def test_what_is_no_id_cannot_be_removed(db: Any, length: int) -> None:
    request = service_pb2.DeleteEventRequest(event_id=bytes(length))
    assert refusal(lambda: db.DeleteEvent(request, timeout=DEADLINE_S)) == (
        Code.INVALID_ARGUMENT,
        f"invalid: event_id has {length} bytes, not 32",
    )


def check(db: Any, event: EncodedEvent, *admins: bytes) -> tuple[bool, str]:
    request = service_pb2.CheckDeletedRequest(event=message(event), admins=admins)
    answer = db.CheckForDeleted(request, timeout=DEADLINE_S)
    return answer.deleted, answer.reason


def test_a_deletion_is_told_with_its_reason(db: Any) -> None:
    event = tagged("deleted")
    assert check(db, event) == (False, "")
    save(db, event, delete_event(event, created_at=NOW_S + 1, signed=True))
    assert check(db, event) == (True, "blocked: this event was deleted")
    gone = make_event(key=5, content="gone")
    save(db, vanish_event(key=5, created_at=NOW_S + 1, signed=True))
    assert check(db, gone) == (True, "blocked: its author, or recipient, asked to vanish")
    assert check(db, make_event(key=5, created_at=NOW_S + 2)) == (False, "")


@pytest.mark.parametrize("by", ["id", "address", "short address"])
def test_a_deletion_by_an_administrator_counts_when_it_is_named(db: Any, by: str) -> None:
    admin = bytes.fromhex(KEYS[4])
    kind = 10_050 if by == "short address" else 30_050
    event = make_event(kind=kind, created_at=NOW_S, tags=[["d", by]] if kind == 30_050 else [])
    if by == "id":
        deletion = delete_event(event, key=4, created_at=NOW_S + 1, signed=True)
    else:
        address = address_of(event).removesuffix(":") if by == "short address" else address_of(event)
        deletion = delete_event(key=4, created_at=NOW_S + 1, addresses=[address], signed=True)
    save(db, deletion)
    assert check(db, event) == (False, "")
    assert check(db, event, bytes.fromhex(KEYS[1])) == (False, "")
    assert check(db, event, bytes.fromhex(KEYS[1]), admin) == (
        True,
        "blocked: an administrator asked for its deletion",
    )


def test_an_address_is_not_deleted_after_its_deletion(db: Any) -> None:
    early, late = (make_event(kind=30_051, created_at=NOW_S + n, tags=[["d", "x"]]) for n in (0, 9))
    deletion = delete_event(key=4, created_at=NOW_S + 5, addresses=[address_of(early)], signed=True)
    save(db, deletion)
    assert check(db, early, bytes.fromhex(KEYS[4]))[0]
    assert not check(db, late, bytes.fromhex(KEYS[4]))[0]


def test_what_is_no_key_of_an_administrator_is_named(db: Any) -> None:
    request = service_pb2.CheckDeletedRequest(event=message(make_event()), admins=[bytes(31)])
    assert refusal(lambda: db.CheckForDeleted(request, timeout=DEADLINE_S)) == (
        Code.INVALID_ARGUMENT,
        "invalid: admins has 31 bytes, not 32",
    )
