"""The messages between client and relay (NIP-01, NIP-42, NIP-45, NIP-77): strict reading, plain writing."""

from collections.abc import Callable
from typing import Final

import msgspec

from orly.nostr.event import DuplicateKeyError, refuse_duplicate_keys
from orly.nostr.filter import Filter, FilterError, FilterLimits, parse_filter
from orly.nostr.reason import Prefix, Refusal

__all__ = [
    "MAX_SUBSCRIPTION_ID_LENGTH",
    "AuthMessage",
    "ClientMessage",
    "CloseMessage",
    "CountMessage",
    "EventMessage",
    "MessageError",
    "NegMessage",
    "ReqMessage",
    "RequestLimits",
    "auth_text",
    "closed_text",
    "count_text",
    "eose_text",
    "event_prefix",
    "event_text",
    "neg_err_text",
    "notice_text",
    "ok_text",
    "parse_message",
]

MAX_SUBSCRIPTION_ID_LENGTH: Final = 64
"""Characters (NIP-01)."""


class EventMessage(msgspec.Struct, frozen=True, gc=False):
    """`["EVENT", <event>]`; the event is not decoded yet."""

    raw: bytes


class AuthMessage(msgspec.Struct, frozen=True, gc=False):
    """`["AUTH", <event>]` (NIP-42)."""

    raw: bytes


class ReqMessage(msgspec.Struct, frozen=True):
    """`["REQ", <sub id>, <filter>...]`."""

    sub_id: str
    filters: tuple[Filter, ...]


class CountMessage(msgspec.Struct, frozen=True):
    """`["COUNT", <query id>, <filter>...]` (NIP-45)."""

    sub_id: str
    filters: tuple[Filter, ...]


class CloseMessage(msgspec.Struct, frozen=True, gc=False):
    """`["CLOSE", <sub id>]`."""

    sub_id: str


class NegMessage(msgspec.Struct, frozen=True, gc=False):
    """A NEG-OPEN, NEG-MSG or NEG-CLOSE (NIP-77)."""

    verb: str
    sub_id: str


ClientMessage = EventMessage | ReqMessage | CloseMessage | CountMessage | AuthMessage | NegMessage


class RequestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large a REQ or COUNT may be."""

    max_filters: int
    filter_limits: FilterLimits


class MessageError(ValueError):
    """A message that cannot be read.

    Attributes:
        refusal: Why.
        sub_id: The subscription it names; the answer is then a CLOSED, otherwise a NOTICE.
    """

    def __init__(self, refusal: Refusal, sub_id: str | None = None) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.sub_id = sub_id


_split: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


def _invalid(detail: str, sub_id: str | None = None) -> MessageError:
    return MessageError(Refusal(Prefix.INVALID, detail), sub_id)


def parse_message(data: bytes, limits: RequestLimits) -> ClientMessage:
    """Read one client message.

    Raises:
        MessageError: It is no message that a relay understands.
    """
    try:
        parts = _split(data)
    except RecursionError:
        raise _invalid("message is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _invalid(f"message is not a JSON array: {error}") from None
    if not parts:
        raise _invalid("message is an empty array")
    verb = bytes(parts[0])
    reader = _READERS.get(verb)
    if reader is None:
        raise _invalid(f"unknown message type {_excerpt(verb)}")
    return reader(data, parts, limits)


def _only_argument(parts: list[msgspec.Raw], verb: str) -> bytes:
    if len(parts) != 2:
        raise _invalid(f"{verb} takes exactly one event, not {len(parts) - 1}")
    return bytes(parts[1])


def _excerpt(raw: bytes) -> str:
    return raw[:40].decode("utf-8", "replace")


def _read_sub_id(parts: list[msgspec.Raw], verb: str) -> str:
    if len(parts) < 2:
        raise _invalid(f"{verb} needs a subscription id")
    try:
        sub_id = _decode(parts[1])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        sub_id = None
    if not isinstance(sub_id, str):
        raise _invalid(f"the subscription id of {verb} must be a string")
    if not 1 <= len(sub_id) <= MAX_SUBSCRIPTION_ID_LENGTH:
        raise _invalid(f"the subscription id of {verb} must have 1 to {MAX_SUBSCRIPTION_ID_LENGTH} characters")
    return sub_id


def _read_filters(data: bytes, sub_id: str, limits: RequestLimits, verb: str) -> tuple[Filter, ...]:
    try:
        _, _, *items = message = _decode(data)
        if len(_encode(message)) != len(data):
            refuse_duplicate_keys(data)
    except RecursionError:
        raise _invalid("filter is nested too deeply", sub_id) from None
    except (msgspec.DecodeError, UnicodeError, DuplicateKeyError) as error:
        raise _invalid(str(error), sub_id) from None
    if not items:
        raise _invalid(f"{verb} needs at least one filter", sub_id)
    if len(items) > limits.max_filters:
        raise _invalid(f"{len(items)} filters, the maximum is {limits.max_filters}", sub_id)
    try:
        return tuple(parse_filter(item, limits.filter_limits) for item in items)
    except FilterError as error:
        prefix = Prefix.UNSUPPORTED if error.unsupported else Prefix.INVALID
        raise MessageError(Refusal(prefix, str(error)), sub_id) from None


def _read_req(data: bytes, parts: list[msgspec.Raw], limits: RequestLimits) -> ReqMessage:
    sub_id = _read_sub_id(parts, "REQ")
    return ReqMessage(sub_id, _read_filters(data, sub_id, limits, "REQ"))


def _read_count(data: bytes, parts: list[msgspec.Raw], limits: RequestLimits) -> CountMessage:
    sub_id = _read_sub_id(parts, "COUNT")
    return CountMessage(sub_id, _read_filters(data, sub_id, limits, "COUNT"))


def _read_close(data: bytes, parts: list[msgspec.Raw], limits: RequestLimits) -> CloseMessage:
    del data, limits
    return CloseMessage(_read_sub_id(parts, "CLOSE"))


def _read_auth(data: bytes, parts: list[msgspec.Raw], limits: RequestLimits) -> AuthMessage:
    del data, limits
    return AuthMessage(_only_argument(parts, "AUTH"))


def _read_event(data: bytes, parts: list[msgspec.Raw], limits: RequestLimits) -> EventMessage:
    del data, limits
    return EventMessage(_only_argument(parts, "EVENT"))


def _read_neg(data: bytes, parts: list[msgspec.Raw], limits: RequestLimits) -> NegMessage:
    del data, limits
    verb = _decode(parts[0])
    return NegMessage(verb, _read_sub_id(parts, verb))


_Reader = Callable[[bytes, list[msgspec.Raw], RequestLimits], ClientMessage]
_READERS: Final[dict[bytes, _Reader]] = {
    b'"EVENT"': _read_event,
    b'"REQ"': _read_req,
    b'"CLOSE"': _read_close,
    b'"COUNT"': _read_count,
    b'"AUTH"': _read_auth,
    b'"NEG-OPEN"': _read_neg,
    b'"NEG-MSG"': _read_neg,
    b'"NEG-CLOSE"': _read_neg,
}


def event_prefix(sub_id: str) -> bytes:
    """What stands before the event's JSON in an EVENT message; a `]` follows it."""
    return b'["EVENT",' + _encode(sub_id) + b","


def event_text(sub_id: str, raw: bytes) -> bytes:
    """`["EVENT", <sub id>, <event>]`."""
    return event_prefix(sub_id) + raw + b"]"


def ok_text(event_id: str, refusal: Refusal | None = None, *, accepted: bool | None = None) -> bytes:
    """`["OK", <id>, <accepted>, <reason>]`; accepted unless there is a refusal, or as said."""
    if accepted is None:
        accepted = refusal is None
    return _encode(["OK", event_id, accepted, "" if refusal is None else str(refusal)])


def eose_text(sub_id: str) -> bytes:
    """`["EOSE", <sub id>]`: everything stored was sent."""
    return _encode(["EOSE", sub_id])


def closed_text(sub_id: str, refusal: Refusal) -> bytes:
    """`["CLOSED", <sub id>, <reason>]`: the relay refuses or ends a subscription or count."""
    return _encode(["CLOSED", sub_id, str(refusal)])


def notice_text(text: str) -> bytes:
    """`["NOTICE", <text>]`, for people."""
    return _encode(["NOTICE", text])


def auth_text(challenge: str) -> bytes:
    """`["AUTH", <challenge>]` (NIP-42)."""
    return _encode(["AUTH", challenge])


def count_text(sub_id: str, count: int) -> bytes:
    """`["COUNT", <query id>, {"count": n}]` (NIP-45)."""
    return _encode(["COUNT", sub_id, {"count": count}])


def neg_err_text(sub_id: str, refusal: Refusal) -> bytes:
    """`["NEG-ERR", <sub id>, <reason>]` (NIP-77)."""
    return _encode(["NEG-ERR", sub_id, str(refusal)])
