"""The lines that a relay and its write policy exchange: the protocol of strfry's plugins. Pure.

A program that was written for strfry's `writePolicy.plugin` runs unchanged: it reads one JSON object per line and
writes one per line.
"""

from enum import Enum, StrEnum
from typing import Final, TypeAlias

import msgspec

from orly.nostr.event import EncodedEvent
from orly.nostr.reason import Prefix, Refusal

__all__ = [
    "MAX_REASON_CHARS",
    "NO_REASON",
    "Asked",
    "Judgement",
    "LineCutter",
    "PluginLineError",
    "Ruling",
    "SourceType",
    "parse_answer",
    "question",
]

MAX_REASON_CHARS: Final = 500
"""Of what a plugin has a client told; the rest is cut. It is a sentence, and every client that publishes gets it."""

NO_REASON: Final = "refused by this relay's write policy"

_SPLITTERS: Final = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""Legal in JSON text, but node's readline (version 24 on) ends a line there: anybody could break a plugin with one."""

_PREFIXES: Final = {prefix.value: prefix for prefix in Prefix}


class SourceType(StrEnum):
    """Where an event came from, in strfry's words."""

    IP4 = "IP4"
    IP6 = "IP6"
    IMPORT = "Import"
    STREAM = "Stream"
    SYNC = "Sync"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a plugin is to judge.

    Attributes:
        event: Well-formed, its signature verified.
        received_at_s: When it came, in Unix seconds.
        source_type: By which way.
        source_info: From where: an IP address, or the URL of a relay.
        authed: The key (hex) that the connection has proven, if it has.
    """

    event: EncodedEvent
    received_at_s: int
    source_type: SourceType
    source_info: str
    authed: str | None = None


class Ruling(Enum):
    """What a plugin can decide beside a refusal."""

    ACCEPTED = "accepted"
    SHADOWED = "shadowed"
    """The client is told that all is well, and nothing is stored."""


Judgement: TypeAlias = Ruling | Refusal


class PluginLineError(ValueError):
    """A line is no answer; the text says why.

    Attributes:
        event_id: The event that it speaks about, if it names one.
    """

    def __init__(self, detail: str, event_id: str | None = None) -> None:
        super().__init__(detail)
        self.event_id = event_id


class _Line(msgspec.Struct, frozen=True, gc=False):
    """An answer as it is written; what is not checked here is checked when it is known which event it is about."""

    id: str
    action: object = None
    msg: object = None


_decoder: Final = msgspec.json.Decoder(_Line)
_encode_text: Final = msgspec.json.Encoder().encode


def question(asked: Asked) -> bytes:
    """The line that asks a plugin about an event, with its line break."""
    raw = asked.event.raw
    if b"\xe2\x80" in raw:
        for character, escape in _SPLITTERS:
            raw = raw.replace(character, escape)
    return b'{"type":"new","event":%b,"receivedAt":%d,"sourceType":"%b","sourceInfo":%b%b}\n' % (
        raw,
        asked.received_at_s,
        asked.source_type.value.encode(),
        _encode_text(asked.source_info),
        b"" if asked.authed is None else b',"authed":' + _encode_text(asked.authed),
    )


def parse_answer(line: bytes) -> tuple[str, Judgement]:
    """The id of an event as the plugin gives it, and what becomes of that event.

    Raises:
        PluginLineError: It is no JSON object with an id, names no action we know, or gives a reason that is no text.
    """
    try:
        answer = _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise PluginLineError(f"no answer: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PluginLineError(f"no JSON: {error}") from None
    match answer.action:
        case "accept":
            return answer.id, Ruling.ACCEPTED
        case "shadowReject":
            return answer.id, Ruling.SHADOWED
        case "reject":
            return answer.id, _refusal(answer)
        case None:
            raise PluginLineError("an answer without an action", answer.id)
        case _:
            raise PluginLineError(f"unknown action {_shown(answer.action)}", answer.id)


def _refusal(answer: _Line) -> Refusal:
    """What the client is told: the plugin's words, under a prefix of NIP-01 whatever they are."""
    if answer.msg is None:
        return Refusal(Prefix.BLOCKED, NO_REASON)
    if not isinstance(answer.msg, str):
        raise PluginLineError(f"msg is no text: {_shown(answer.msg)}", answer.id)
    reason = answer.msg[:MAX_REASON_CHARS]
    word, colon, detail = reason.partition(":")
    prefix = _PREFIXES.get(word) if colon else None
    if prefix is None:
        prefix, detail = Prefix.BLOCKED, reason
    else:
        detail = detail.removeprefix(" ")
    return Refusal(prefix, detail if detail.strip() else NO_REASON)


def _shown(value: object) -> str:
    return repr(value)[:100]


class LineCutter:
    """Cuts output into lines and keeps an unfinished one, of which it holds a bounded part.

    Args:
        max_bytes: Of a line; one byte more is kept, which tells that there were more.
    """

    def __init__(self, max_bytes: int) -> None:
        self._kept_bytes = max_bytes + 1
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next output; returns the lines that it ends, without their breaks."""
        parts = data.split(b"\n")
        parts[0] = self._rest + parts[0][: self._kept_bytes - len(self._rest)]
        self._rest = parts.pop()[: self._kept_bytes]
        return [part[: self._kept_bytes] for part in parts]

    @property
    def rest(self) -> bytes:
        """The line that has no end yet."""
        return self._rest
