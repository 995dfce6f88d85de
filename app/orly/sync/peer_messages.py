"""What another relay says (NIP-01, NIP-42, NIP-77), read from its text messages.

Pure. An event is cut out of its message without being decoded: whoever stores it decodes it once.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import orjson

__all__ = [
    "Answer",
    "Challenge",
    "Closed",
    "EndOfStored",
    "Events",
    "Junk",
    "Notice",
    "PeerMessage",
    "ReconcileAnswer",
    "ReconcileEnd",
    "bare_reason",
    "read_messages",
]

_EVENT_START: Final = b'["EVENT","'
_EVENT_END: Final = b"}]"
_NO_START: Final = b"\xff"
"""Stands at the start of no message, since messages are UTF-8."""
_EVENT: Final = re.compile(rb'\s*\[\s*"EVENT"\s*,\s*("(?:[^"\\]|\\.)*")\s*,\s*(\{.*\})\s*\]\s*', re.DOTALL)
_OK: Final = re.compile(rb'\["OK","([0-9a-f]{64})",(true|false),"([^"\\]*)"\]')
_ERROR_PREFIX: Final = "ERROR: "
_MAX_EXCERPT_BYTES: Final = 80


class Events(msgspec.Struct, frozen=True, gc=False):
    """Events of one subscription, each as the JSON that came; nothing about them is checked."""

    sub_id: str
    rows: list[bytes]


class EndOfStored(msgspec.Struct, frozen=True, gc=False):
    """`["EOSE", <subscription>]`."""

    sub_id: str


class Closed(msgspec.Struct, frozen=True, gc=False):
    """`["CLOSED", <subscription>, <reason>]`."""

    sub_id: str
    reason: str


class Answer(msgspec.Struct, frozen=True, gc=False):
    """`["OK", <event id>, <accepted>, <reason>]`; the id is hex in lower case."""

    event_id: str
    accepted: bool
    reason: str


class Notice(msgspec.Struct, frozen=True, gc=False):
    """`["NOTICE", <text>]`."""

    text: str


class Challenge(msgspec.Struct, frozen=True, gc=False):
    """`["AUTH", <challenge>]`."""

    text: str


class ReconcileAnswer(msgspec.Struct, frozen=True, gc=False):
    """`["NEG-MSG", <subscription>, <hex>]`."""

    sub_id: str
    message: bytes


class ReconcileEnd(msgspec.Struct, frozen=True, gc=False):
    """`["NEG-ERR", <subscription>, <reason>]`, with the largest set that is reconciled if there is a fourth element."""

    sub_id: str
    reason: str
    max_items: int | None


class Junk(msgspec.Struct, frozen=True, gc=False):
    """No message of NIP-01; `excerpt` is its beginning."""

    excerpt: str


PeerMessage = Events | EndOfStored | Closed | Answer | Notice | Challenge | ReconcileAnswer | ReconcileEnd | Junk


def read_messages(messages: Iterable[bytes]) -> list[PeerMessage]:
    """Reads text messages in their order; events of one subscription that nothing else interrupts are gathered."""
    read: list[PeerMessage] = []
    rows_of: dict[bytes, list[bytes]] = {}
    rows: list[bytes] = []
    start = _NO_START  # of the event before: the next one is likely of the same subscription, and goes to the same rows
    for message in messages:
        if message.startswith(start) and message.endswith(_EVENT_END):
            rows.append(message[len(start) - 1 : -1])
            continue
        event = _cut_event(message)
        if event is not None:
            sub_id, row, is_plain = event
            rows = rows_of.setdefault(sub_id, [])
            rows.append(row)
            start = b'["EVENT",' + sub_id + b",{" if is_plain else _NO_START
            continue
        if rows_of:
            read += _gathered(rows_of)
            rows_of = {}
            start = _NO_START
        read.append(_read(message))
    return read + _gathered(rows_of)


def _cut_event(message: bytes) -> tuple[bytes, bytes, bool] | None:
    """Subscription id (as JSON) and event of an EVENT message, and whether it has no white space around them.

    None if it is none.
    """
    if message.startswith(_EVENT_START) and message.endswith(_EVENT_END):
        end = message.find(b'",{', len(_EVENT_START))
        sub_id = message[len(_EVENT_START) - 1 : end + 1]
        if end > 0 and b"\\" not in sub_id and sub_id.count(b'"') == 2:
            return sub_id, message[end + 2 : -1], True
    found = _EVENT.fullmatch(message)
    return None if found is None else (found[1], found[2], False)


def _gathered(rows_of: dict[bytes, list[bytes]]) -> list[PeerMessage]:
    gathered: list[PeerMessage] = []
    for sub_id, rows in rows_of.items():
        try:
            gathered.append(Events(orjson.loads(sub_id), rows))
        except orjson.JSONDecodeError:
            gathered += [_junk(row) for row in rows]
    return gathered


def _read(message: bytes) -> PeerMessage:
    ok = _OK.fullmatch(message)
    if ok is not None:  # as nearly every relay writes it
        return Answer(ok[1].decode(), ok[2] == b"true", ok[3].decode())
    try:
        parts = orjson.loads(message)
    except orjson.JSONDecodeError:
        return _junk(message)
    match parts:
        case ["OK", str(event_id), bool(accepted), *rest]:
            return Answer(event_id.lower(), accepted, _text(rest))
        case ["EOSE", str(sub_id), *_]:
            return EndOfStored(sub_id)
        case ["CLOSED", str(sub_id), *rest]:
            return Closed(sub_id, _text(rest))
        case ["NEG-MSG", str(sub_id), str(text), *_]:
            return _reconcile_answer(message, sub_id, text)
        case ["NEG-ERR", str(sub_id), *rest]:
            return ReconcileEnd(sub_id, _text(rest), _max_items(rest))
        case ["NOTICE", str(text), *_]:
            return Notice(text)
        case ["AUTH", str(text), *_]:
            return Challenge(text)
        case _:
            return _junk(message)


def _reconcile_answer(message: bytes, sub_id: str, text: str) -> PeerMessage:
    try:
        return ReconcileAnswer(sub_id, bytes.fromhex(text))
    except ValueError:
        return _junk(message)


def _text(rest: list[Any]) -> str:
    return rest[0] if rest and isinstance(rest[0], str) else ""


def _max_items(rest: list[Any]) -> int | None:
    return rest[1] if len(rest) > 1 and type(rest[1]) is int and rest[1] >= 0 else None


def _junk(message: bytes) -> Junk:
    return Junk(message[:_MAX_EXCERPT_BYTES].decode(errors="replace"))


def bare_reason(reason: str) -> str:
    """A reason without the `ERROR: ` that strfry puts before some of NIP-01's prefixes."""
    return reason.removeprefix(_ERROR_PREFIX)
