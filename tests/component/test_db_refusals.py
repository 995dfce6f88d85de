"""The same event is refused in the same words, whether a client sends it to a relay or a tool to the service."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from msgspec import structs
from tests.component.db_calls import DEADLINE_S, calling, message, refusal
from tests.component.relay_client import NostrClient
from tests.factory import NOW_S, delete_event, expiring_event, fake_event, make_event, mined_event, vanish_event
from tests.process import running_db, running_relay
from tests.wsclient import connect

from orly.nostr.event import EncodedEvent, encode_event
from orly.pb.orlydb.v1 import service_pb2, streams_pb2

Code = grpc.StatusCode

SETTINGS = {"ORLY_MAX_EVENT_SIZE": "2KiB", "ORLY_MAX_EVENT_TAGS": "4", "ORLY_MAX_CREATED_AT_PAST": "30000h"}
IN_A_CENTURY_S = NOW_S + 100 * 365 * 24 * 60 * 60

TAKEN_BACK = make_event(content="taken back")
BEFORE = (
    make_event(content="wanted"),
    make_event(kind=10_002, created_at=NOW_S + 1),
    delete_event(TAKEN_BACK, created_at=NOW_S + 1, signed=True),
    vanish_event(key=2, created_at=NOW_S + 1, signed=True),
)
"""What is stored first."""


def changed(event: EncodedEvent, **changes: Any) -> EncodedEvent:
    """The event with fields changed, and nothing made right for it."""
    fields = structs.replace(event.event, **changes)
    return structs.replace(event, event=fields, raw=encode_event(fields))


REFUSED = {
    "its signature is forged": (fake_event(content="forged"), Code.INVALID_ARGUMENT),
    "its id is of another event": (changed(make_event(), content="changed"), Code.INVALID_ARGUMENT),
    "a tag is empty": (changed(make_event(), tags=[["t", "x"], []]), Code.INVALID_ARGUMENT),
    "its kind is too large": (changed(make_event(), kind=65_536), Code.INVALID_ARGUMENT),
    "its time is negative": (changed(make_event(), created_at=-1), Code.INVALID_ARGUMENT),
    "it is too large": (make_event(content="x" * 2048), Code.INVALID_ARGUMENT),
    "it has too many tags": (make_event(tags=[["t", str(n)] for n in range(5)]), Code.INVALID_ARGUMENT),
    "it is of the future": (make_event(created_at=IN_A_CENTURY_S), Code.INVALID_ARGUMENT),
    "it is too old": (make_event(created_at=1), Code.INVALID_ARGUMENT),
    "it is a credential": (make_event(kind=22_242), Code.INVALID_ARGUMENT),
    "it names no relay to vanish from": (make_event(kind=62), Code.INVALID_ARGUMENT),
    "it has expired": (expiring_event(NOW_S + 1, signed=True), Code.INVALID_ARGUMENT),
    "it reposts a protected event": (
        make_event(kind=6, content=make_event(key=1, tags=[["-"]]).raw.decode()),
        Code.PERMISSION_DENIED,
    ),
    "it was deleted": (TAKEN_BACK, Code.PERMISSION_DENIED),
    "its author vanished": (make_event(key=2, content="gone"), Code.PERMISSION_DENIED),
    "a newer version is stored": (make_event(kind=10_002), Code.ALREADY_EXISTS),
}


def told_by_a_relay(before: Sequence[EncodedEvent], refused: Sequence[EncodedEvent], **settings: str) -> list[str]:
    """What a client hears."""

    async def publish(url: str) -> list[str]:
        async with connect(url) as socket:
            client = NostrClient(socket)
            await client.accept(*before)
            return [await client.refusal(event) for event in refused]

    with running_relay(**settings) as relay:
        return asyncio.run(publish(relay.url))


def told_by_the_service(
    before: Sequence[EncodedEvent], refused: Sequence[EncodedEvent], **settings: str
) -> list[tuple[Code, str]]:
    """What a tool is told; a structured answer says the same."""
    Request = service_pb2.SaveEventRequest
    told = []
    with running_db(**settings) as process, calling(process.address) as db:
        for event in before:
            db.SaveEvent(Request(event=message(event)), timeout=DEADLINE_S)
        for event in refused:
            status = refusal(lambda event=event: db.SaveEvent(Request(event=message(event)), timeout=DEADLINE_S))  # type: ignore[misc]
            told.append(status)
            answer = db.SaveEvent(Request(event=message(event), structured=True), timeout=DEADLINE_S)
            assert answer.reason == status[1]
            assert answer.outcome not in (streams_pb2.STORED, streams_pb2.DUPLICATE, streams_pb2.DELIVERED)
    return told


def test_both_doors_refuse_in_the_same_words() -> None:
    events = [event for event, _ in REFUSED.values()]
    told = told_by_the_service(BEFORE, events, **SETTINGS)
    words = dict(zip(REFUSED, told, strict=True))
    assert {name: code for name, (code, _) in words.items()} == {name: code for name, (_, code) in REFUSED.items()}
    relay = dict(zip(REFUSED, told_by_a_relay(BEFORE, events, **SETTINGS), strict=True))
    assert {name: text for name, (_, text) in words.items()} == relay


def test_work_that_is_missing_is_told_in_the_same_words() -> None:
    events, settings = [mined_event(3, signed=True)], {"ORLY_MIN_POW_DIFFICULTY": "4"}
    ((code, text),) = told_by_the_service([], events, **settings)
    assert code is Code.FAILED_PRECONDITION
    assert text.startswith("pow: ")
    assert told_by_a_relay([], events, **settings) == [text]


@pytest.mark.parametrize("setting", ["ORLY_AUTH_REQUIRED", "ORLY_AUTH_TO_WRITE"])
def test_a_tool_publishes_in_the_place_of_the_author(setting: str) -> None:
    assert told_by_the_service([make_event(), make_event(tags=[["-"]])], [], **{setting: "true"}) == []
