"""Plain calls to an `orly-db`, as a tool in any language makes them: the generated stub and nothing of ours."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc
import pytest
from tests.process import DbProcess

from orly.nostr.event import EncodedEvent
from orly.pb.orlydb.v1 import service_pb2, service_pb2_grpc, types_pb2
from orly.rpc.events import to_pb

__all__ = [
    "DEADLINE_S",
    "await_log",
    "calling",
    "chunks_of",
    "ids",
    "import_all",
    "jsonl",
    "message",
    "refusal",
    "save",
]

DEADLINE_S: Final = 30.0
"""How long any call of a test may take."""

_MAX_BYTES: Final = 64 * 1024 * 1024

_make_stub: Final[Callable[[grpc.Channel], Any]] = service_pb2_grpc.DatabaseServiceStub


@contextmanager
def calling(address: str) -> Iterator[Any]:
    """The generated stub of the service at an address."""
    options = [
        ("grpc.max_receive_message_length", _MAX_BYTES),
        ("grpc.max_send_message_length", _MAX_BYTES),
        # What is not read is not sent: a window that grows, as it does by default, may take in all that a test has.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 64 * 1024),
    ]
    with grpc.insecure_channel(address, options=options) as channel:
        yield _make_stub(channel)


def message(event: EncodedEvent, **changes: Any) -> types_pb2.Event:
    """The event as a message with fields replaced; nothing makes the result valid."""
    made = to_pb(event.event)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def save(db: Any, *events: EncodedEvent) -> list[int]:
    """Stores each; returns their serials."""
    return [
        db.SaveEvent(service_pb2.SaveEventRequest(event=message(event)), timeout=DEADLINE_S).serial for event in events
    ]


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """The status and the text of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status: Any = caught.value
    return status.code(), status.details()


def ids(response: service_pb2.QueryEventsResponse) -> list[bytes]:
    """The ids of an answer, in its order."""
    return [event.id for event in response.events]


def jsonl(events: Iterable[EncodedEvent]) -> bytes:
    """The events, each with its line feed."""
    return b"".join(event.raw + b"\n" for event in events)


def chunks_of(data: bytes, n_bytes: int) -> Sequence[bytes]:
    """The data cut anywhere."""
    return [data[start : start + n_bytes] for start in range(0, len(data), n_bytes)]


def import_all(db: Any, chunks: Iterable[bytes], *, skip_signatures: bool = False) -> service_pb2.ImportResponse:
    """Imports chunks in one call."""
    requests = (service_pb2.ImportRequest(data=chunk, skip_signatures=skip_signatures) for chunk in chunks)
    response: service_pb2.ImportResponse = db.Import(requests, timeout=DEADLINE_S)
    return response


def await_log(process: DbProcess, text: str) -> None:
    """Waits until the service has logged a text."""
    end_s = time.monotonic() + DEADLINE_S
    while text not in process.logs():
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s for {text!r}"
        time.sleep(0.01)
