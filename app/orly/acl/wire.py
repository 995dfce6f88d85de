"""How the lists travel from the process that keeps them to those that follow."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from orly.access.commands import Command, Entry, Member
from orly.access.control import Listed, Use, UseMark
from orly.access.keyset import KEY_BYTES, KeySet
from orly.access.snapshot import (
    KEY_LISTS,
    KIND_LISTS,
    AddressChange,
    Change,
    CuratingChange,
    DayChange,
    InfoChange,
    KeyChange,
    KindChange,
    ListName,
    Rules,
    Snapshot,
    UseChange,
)
from orly.pb.orlyacl.v1 import watch_pb2

__all__ = [
    "PLACE",
    "SnapshotReader",
    "changes_part",
    "decode_changes",
    "decode_commands",
    "decode_entry",
    "decode_listed",
    "decode_mark",
    "decode_member",
    "decode_uses",
    "encode",
    "snapshot_parts",
]

PLACE: Final = "orly-acl-place"
"""Metadata that says how far the lists had got: with the start of a stream, and with the answer to a change."""

PART_KEYS: Final = 32_768
"""Keys in one message: 1 MiB."""

PART_CHANGES: Final = 5_000
"""Changes in one message: a few milliseconds for who writes it, and for who reads it."""

MAX_MEMBER: Final = 64
"""Bytes, or characters, of a member; no address is that long."""


class _AnyUse(msgspec.Struct, frozen=True, tag="UseChange"):
    """`UseChange` as it is decoded: msgspec takes no union of bytes and text."""

    who: Any
    n_events: int


class _AnyListed(msgspec.Struct, frozen=True):
    """The same for `Listed`."""

    member: Any
    entry: Entry


encode: Final = msgspec.msgpack.Encoder().encode
decode_commands: Final = msgspec.msgpack.Decoder(list[Command]).decode
decode_entry: Final = msgspec.msgpack.Decoder(Entry).decode
decode_mark: Final = msgspec.msgpack.Decoder(UseMark).decode
decode_uses: Final = msgspec.msgpack.Decoder(list[Use]).decode
_decode_any: Final = msgspec.msgpack.Decoder().decode
_decode_listed: Final = msgspec.msgpack.Decoder(list[_AnyListed]).decode
_decode_rules: Final = msgspec.msgpack.Decoder(Rules).decode
_decode_changes: Final = msgspec.msgpack.Decoder(
    list[KeyChange | KindChange | AddressChange | CuratingChange | InfoChange | DayChange | _AnyUse]
).decode


def decode_member(raw: bytes) -> Member:
    """A member of a list.

    Raises:
        MsgspecError: It is none.
    """
    return _checked_member(_decode_any(raw))


def decode_listed(raw: bytes) -> list[Listed]:
    """Members of a list, and what is known of them.

    Raises:
        MsgspecError: They are not that.
    """
    return [Listed(_checked_member(each.member), each.entry) for each in _decode_listed(raw)]


def decode_changes(raw: bytes) -> list[Change]:
    """Changes of a snapshot.

    Raises:
        MsgspecError: They are not that.
    """
    return [
        UseChange(_checked_who(each.who), each.n_events) if isinstance(each, _AnyUse) else each
        for each in _decode_changes(raw)
    ]


def _checked_member(found: object) -> Member:
    if not isinstance(found, bytes | int | str):
        raise msgspec.ValidationError(f"a member is no {type(found).__name__}")
    if not isinstance(found, int) and len(found) > MAX_MEMBER:
        raise msgspec.ValidationError(f"a member of {len(found)} characters is too long")
    return found


def _checked_who(found: object) -> bytes | str:
    if isinstance(found, bytes | str):
        return found
    raise msgspec.ValidationError(f"nobody is a {type(found).__name__}")


def changes_part(changes: Sequence[Change]) -> watch_pb2.SnapshotPart:
    """The message for changes."""
    return watch_pb2.SnapshotPart(changes=encode(changes))


def snapshot_parts(snapshot: Snapshot) -> Iterator[watch_pb2.SnapshotPart]:
    """The messages for all that a snapshot holds now; each is made when it is asked for, whatever has changed then."""
    rows = {name: snapshot.keys[name].rows() for name in KEY_LISTS}
    return _parts(snapshot.rules, rows, list(_others(snapshot)), list(snapshot.used.items()))


def _parts(
    rules: Rules, rows: Mapping[ListName, bytes], others: Sequence[Change], used: Sequence[tuple[bytes | str, int]]
) -> Iterator[watch_pb2.SnapshotPart]:
    yield watch_pb2.SnapshotPart(rules=encode(rules))
    step = PART_KEYS * KEY_BYTES
    for name, keys in rows.items():
        for start in range(0, len(keys), step):
            yield watch_pb2.SnapshotPart(list=name.value, keys=keys[start : start + step])
    for start in range(0, len(others), PART_CHANGES):
        yield changes_part(others[start : start + PART_CHANGES])
    for start in range(0, len(used), PART_CHANGES):
        yield changes_part([UseChange(who, count) for who, count in used[start : start + PART_CHANGES]])
    yield watch_pb2.SnapshotPart(is_complete=True)


def _others(snapshot: Snapshot) -> Iterator[Change]:
    """All but keys and what was used."""
    for name in KIND_LISTS:
        yield from (KindChange(name, kind, True) for kind in snapshot.kinds[name])
    yield from (AddressChange(address, True) for address in snapshot.blocked)
    if snapshot.curating is not None:
        yield CuratingChange(snapshot.curating)
    yield from (InfoChange(field, text) for field, text in snapshot.info.items())
    yield DayChange(snapshot.day)


class SnapshotReader:
    """Puts a snapshot together from its messages, then keeps it up to date.

    Attributes:
        snapshot: None until it is whole.
    """

    def __init__(self, version: int) -> None:
        """`version` is that of an earlier snapshot; this one's is higher."""
        self.snapshot: Snapshot | None = None
        self._version = version
        self._rules: Rules | None = None
        self._rows: dict[ListName, list[bytes]] = {name: [] for name in KEY_LISTS}
        self._changes: list[Change] = []
        self._used: dict[bytes | str, int] = {}

    def take(self, part: watch_pb2.SnapshotPart) -> None:
        """The next message.

        Raises:
            ValueError: It makes no sense.
        """
        try:
            self._take(part)
        except (msgspec.MsgspecError, KeyError) as error:
            raise ValueError(f"the lists cannot be read: {error}") from error

    def _take(self, part: watch_pb2.SnapshotPart) -> None:
        if part.changes and self.snapshot is not None:
            for change in decode_changes(part.changes):
                self.snapshot.apply(change)
        elif part.changes:
            self._gather(decode_changes(part.changes))
        elif part.rules:
            self._rules = _decode_rules(part.rules)
        elif part.keys:
            self._rows[ListName(part.list)].append(part.keys)
        elif part.is_complete:
            self._complete()

    def _gather(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if isinstance(change, UseChange):
                self._used[change.who] = change.n_events
            else:
                self._changes.append(change)

    def _complete(self) -> None:
        if self.snapshot is not None:
            raise ValueError("the lists came whole a second time")
        if self._rules is None:
            raise ValueError("the lists came without rules")
        snapshot = Snapshot(self._rules, self._version + 1)
        for name, rows in self._rows.items():
            snapshot.put(name, KeySet(b"".join(rows)))
        for change in self._changes:
            snapshot.apply(change)
        snapshot.used = self._used
        self._rows.clear()
        self._changes.clear()
        self.snapshot = snapshot
