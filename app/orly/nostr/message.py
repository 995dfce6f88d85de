"""The messages between client and relay (NIP-01, NIP-42, NIP-45, NIP-77): strict reading, plain writing."""

from binascii import Error as HexError
from binascii import hexlify, unhexlify
from collections.abc import Callable
from typing import Any, Final

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
    "NegCloseMessage",
    "NegMsgMessage",
    "NegOpenMessage",
    "ReqMessage",
    "RequestLimits",
    "auth_text",
    "closed_text",
    "count_text",
    "eose_text",
    "event_prefix",
    "event_text",
    "neg_err_text",
    "neg_msg_text",
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


class NegOpenMessage(msgspec.Struct, frozen=True):
    """`["NEG-OPEN", <sub id>, <filter>, <hex>]` (NIP-77); the message is decoded from its hex, and no further."""

    sub_id: str
    filter: Filter
    message: bytes


class NegMsgMessage(msgspec.Struct, frozen=True, gc=False):
    """`["NEG-MSG", <sub id>, <hex>]` (NIP-77)."""

    sub_id: str
    message: bytes


class NegCloseMessage(msgspec.Struct, frozen=True, gc=False):
    """`["NEG-CLOSE", <sub id>]` (NIP-77)."""

    sub_id: str


ClientMessage = (
    EventMessage
    | ReqMessage
    | CloseMessage
    | CountMessage
    | AuthMessage
    | NegOpenMessage
    | NegMsgMessage
    | NegCloseMessage
)


class RequestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large a REQ or COUNT may be."""

    max_filters: int
    filter_limits: FilterLimits


class MessageError(ValueError):
    """A message that cannot be read.

    Attributes:
        refusal: Why.
        sub_id: The subscription it names; the answer is then a CLOSED, otherwise a NOTICE.
        is_negentropy: Whether it is one of NIP-77's; the answer is then a NEG-ERR instead of a CLOSED.
    """

    def __init__(self, refusal: Refusal, sub_id: str | None = None, *, is_negentropy: bool = False) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.sub_id = sub_id
        self.is_negentropy = is_negentropy


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
    _, _, *items = _decode_uniquely(data, sub_id)
    if not items:
        raise _invalid(f"{verb} needs at least one filter", sub_id)
    if len(items) > limits.max_filters:
        raise _invalid(f"{len(items)} filters, the maximum is {limits.max_filters}", sub_id)
    return tuple(_read_filter(item, sub_id, limits) for item in items)


def _decode_uniquely(data: bytes, sub_id: str) -> Any:
    """JSON in which no object has a key twice."""
    try:
        found = _decode(data)
        if len(_encode(found)) != len(data):
            refuse_duplicate_keys(data)
    except RecursionError:
        raise _invalid("filter is nested too deeply", sub_id) from None
    except (msgspec.DecodeError, UnicodeError, DuplicateKeyError) as error:
        raise _invalid(str(error), sub_id) from None
    return found


def _read_filter(item: object, sub_id: str, limits: RequestLimits) -> Filter:
    try:
        return parse_filter(item, limits.filter_limits)
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


def _read_neg(data: bytes, parts: list[msgspec.Raw], limits: RequestLimits) -> ClientMessage:
    """One of NIP-77's; whatever is wrong with it is said under its subscription id, if it has one."""
    del data
    verb: str = _decode(parts[0])
    try:
        sub_id = _read_sub_id(parts, verb)
        match verb:
            case "NEG-OPEN":
                return _read_neg_open(parts, sub_id, limits)
            case "NEG-MSG":
                _expect_parts(parts, 3, "a subscription id and a message", sub_id)
                return NegMsgMessage(sub_id, _read_hex(parts[2], verb, sub_id))
            case _:
                _expect_parts(parts, 2, "a subscription id", sub_id)
                return NegCloseMessage(sub_id)
    except MessageError as error:
        named = error.sub_id or _any_text(parts)
        raise MessageError(error.refusal, named, is_negentropy=named is not None) from None


def _any_text(parts: list[msgspec.Raw]) -> str | None:
    """What stands in the place of the subscription id, if it is text at all."""
    try:
        found = _decode(parts[1]) if len(parts) > 1 else None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return found if isinstance(found, str) and found else None


def _read_neg_open(parts: list[msgspec.Raw], sub_id: str, limits: RequestLimits) -> NegOpenMessage:
    if len(parts) == 5:
        raise _invalid(
            "NEG-OPEN with five elements, an id size among them, is a form from before NIP-77; "
            "it takes a subscription id, a filter and a message",
            sub_id,
        )
    if len(parts) == 3:
        raise _invalid("NEG-OPEN needs an initial message after the filter", sub_id)
    _expect_parts(parts, 4, "a subscription id, a filter and a message", sub_id)
    wanted = _decode_uniquely(bytes(parts[2]), sub_id)
    if not isinstance(wanted, dict):
        raise _invalid("the filter of NEG-OPEN must be one object", sub_id)
    return NegOpenMessage(sub_id, _read_filter(wanted, sub_id, limits), _read_hex(parts[3], "NEG-OPEN", sub_id))


def _expect_parts(parts: list[msgspec.Raw], count: int, what: str, sub_id: str) -> None:
    if len(parts) != count:
        raise _invalid(f"{_decode(parts[0])} takes {what}, {count} elements in all, not {len(parts)}", sub_id)


def _read_hex(part: msgspec.Raw, verb: str, sub_id: str) -> bytes:
    try:
        text = _decode(part)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise _invalid(f"the message of {verb} must be a string", sub_id)
    if not text:
        raise _invalid(f"the message of {verb} is empty", sub_id)
    try:
        return unhexlify(text)
    except (HexError, ValueError):
        raise _invalid(f"the message of {verb} is not hex, or has an odd number of digits", sub_id) from None


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


def neg_msg_text(sub_id: str, message: bytes) -> bytes:
    """`["NEG-MSG", <sub id>, <hex>]` (NIP-77)."""
    return b'["NEG-MSG",%b,"%b"]' % (_encode(sub_id), hexlify(message))


def neg_err_text(sub_id: str, reason: str, max_items: int | None = None) -> bytes:
    """`["NEG-ERR", <sub id>, <reason>]` (NIP-77); the fourth element is the most events that a set may have."""
    parts: list[object] = ["NEG-ERR", sub_id, reason]
    return _encode(parts if max_items is None else [*parts, max_items])
