"""The two sides of a reconciliation: who asks, and who answers."""

from dataclasses import dataclass

import numpy as np

from orly.negentropy.answer import AnswerWriter
from orly.negentropy.errors import NegentropyError
from orly.negentropy.itemset import ItemSet
from orly.negentropy.ranges import ID_BYTES, PROTOCOL_VERSION, check_version

__all__ = ["Initiator", "Responder", "Step"]


class Responder:
    """Answers messages; keeps nothing between them but its set."""

    __slots__ = ("_items", "_max_frame_bytes")

    def __init__(self, items: ItemSet, *, max_frame_bytes: int = 0) -> None:
        """Make a responder.

        Args:
            items: What this side has.
            max_frame_bytes: The longest answer; 0 for any length.

        Raises:
            ValueError: The limit is below 512 and not 0.
        """
        AnswerWriter(items, max_frame_bytes)
        self._items = items
        self._max_frame_bytes = max_frame_bytes

    def answer(self, message: bytes) -> bytes:
        """The answer to a message; to one of another version, the byte of the version that is understood.

        Raises:
            NegentropyError: The message is malformed.
        """
        if check_version(message) != PROTOCOL_VERSION:
            return bytes((PROTOCOL_VERSION,))
        return AnswerWriter(self._items, self._max_frame_bytes).answer(message, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one answer has brought.

    Attributes:
        next: The message to send; None if the reconciliation is done.
        have: Ids only this side has, which were not reported before.
        need: Ids only the other side has, which were not reported before.
    """

    next: bytes | None
    have: list[bytes]
    need: list[bytes]


class Initiator:
    """Asks, and learns what differs.

    No id is reported twice, although a range may come up again because a frame was full or because the other side's
    set has changed meanwhile. For that a byte for each own item and the ids needed are kept.
    """

    __slots__ = ("_items", "_max_frame_bytes", "_needed", "_reported")

    def __init__(self, items: ItemSet, *, max_frame_bytes: int = 0) -> None:
        """Make an initiator.

        Args:
            items: What this side has.
            max_frame_bytes: The longest message; 0 for any length.

        Raises:
            ValueError: The limit is below 512 and not 0.
        """
        AnswerWriter(items, max_frame_bytes)
        self._items = items
        self._max_frame_bytes = max_frame_bytes
        self._reported = bytearray(len(items))
        self._needed: set[bytes] = set()

    def initiate(self) -> bytes:
        """The first message."""
        return AnswerWriter(self._items, self._max_frame_bytes).first()

    def reconcile(self, message: bytes) -> Step:
        """Take an answer.

        Raises:
            NegentropyError: It is malformed, or of a version that is not understood.
        """
        if check_version(message) != PROTOCOL_VERSION:
            raise NegentropyError(
                f"the other side wants version {message[0] - 0x60} of the protocol (0x{message[0]:02x}); "
                f"only version {PROTOCOL_VERSION - 0x60} is understood"
            )
        have: list[bytes] = []
        need: list[bytes] = []

        def on_ids(lower: int, upper: int, start: int, count: int) -> None:
            self._compare(lower, upper, message[start : start + count * ID_BYTES], have, need)

        answer = AnswerWriter(self._items, self._max_frame_bytes).answer(message, on_ids)
        return Step(next=answer if len(answer) > 1 else None, have=have, need=need)

    def reported(self) -> set[bytes]:
        """All ids that were reported so far."""
        indices = np.flatnonzero(np.frombuffer(self._reported, dtype=np.uint8))
        return self._needed.union(_ids(self._items.rows_at(indices)[:, -ID_BYTES:].tobytes()))

    def _compare(self, lower: int, upper: int, theirs: bytes, have: list[bytes], need: list[bytes]) -> None:
        """Compare a range with the ids the other side has there."""
        ours = self._items.ids_between(lower, upper)
        if ours == theirs:
            return
        own = _ids(ours)
        other = _ids(theirs)
        known = set(own)
        for wanted in other:
            if wanted not in known and wanted not in self._needed:
                self._needed.add(wanted)
                need.append(wanted)
        known = set(other)
        for index, found in enumerate(own, lower):
            if found not in known and not self._reported[index]:
                self._reported[index] = 1
                have.append(found)


def _ids(packed: bytes) -> list[bytes]:
    """Packed ids one by one."""
    return [packed[at : at + ID_BYTES] for at in range(0, len(packed), ID_BYTES)]
