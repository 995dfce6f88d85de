"""A line-oriented adapter for conformance tests against other implementations: `python -m orly.negentropy.harness`.

Input, a line each: `item,<created_at>,<id>`, then `seal`, then `initiate` for who asks, then `msg,<hex>` for every
message of the other side. Output: `msg,<hex>` to be sent to it, and for who asks `have,<id>`, `need,<id>` and at the
end `done`. FRAMESIZELIMIT limits the messages; 0 or nothing is no limit.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from orly.negentropy.errors import NegentropyError
from orly.negentropy.itemset import ItemSet
from orly.negentropy.ranges import ID_BYTES
from orly.negentropy.roles import Initiator, Responder

__all__ = ["Harness", "main"]


@dataclass(slots=True, kw_only=True)
class Harness:
    """One side of a reconciliation, by lines.

    Attributes:
        max_frame_bytes: The limit of a message; 0 for none.
    """

    max_frame_bytes: int = 0
    _rows: list[bytes] = field(default_factory=list)
    _items: ItemSet | None = None
    _initiator: Initiator | None = None

    def lines(self, line: str) -> Iterator[str]:
        """Take a line of input; gives the lines of output.

        Raises:
            NegentropyError: The line or the message in it is malformed, or comes at the wrong time.
        """
        command, *fields = line.split(",")
        match command, fields:
            case "item", [created_at, event_id]:
                self._item(created_at, event_id)
            case "seal", []:
                self._items = ItemSet.from_rows(b"".join(self._rows))
                self._rows = []
            case "initiate", []:
                self._initiator = Initiator(self._sealed(), max_frame_bytes=self.max_frame_bytes)
                yield f"msg,{self._initiator.initiate().hex()}"
            case "msg", [message]:
                yield from self._message(_unhexed(message))
            case _:
                raise NegentropyError(f"not a line of this protocol: {line!r}")

    def _sealed(self) -> ItemSet:
        if self._items is None:
            raise NegentropyError("the items are not sealed")
        return self._items

    def _item(self, created_at: str, event_id: str) -> None:
        packed = _unhexed(event_id)
        if self._items is not None or len(packed) != ID_BYTES or not created_at.isdecimal():
            raise NegentropyError("an item is a time and an id of 32 bytes, and comes before the seal")
        try:
            self._rows.append(int(created_at).to_bytes(8, "big") + packed)
        except OverflowError:
            raise NegentropyError(f"the time {created_at} has more than 64 bits") from None

    def _message(self, message: bytes) -> Iterator[str]:
        items = self._sealed()
        if self._initiator is None:
            yield f"msg,{Responder(items, max_frame_bytes=self.max_frame_bytes).answer(message).hex()}"
            return
        step = self._initiator.reconcile(message)
        yield from (f"have,{event_id.hex()}" for event_id in step.have)
        yield from (f"need,{event_id.hex()}" for event_id in step.need)
        yield "done" if step.next is None else f"msg,{step.next.hex()}"


def _unhexed(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise NegentropyError("not hexadecimal") from None


def main(source: Iterable[str]) -> int:
    """Answer line by line until the input ends; returns the exit status."""
    try:
        harness = Harness(max_frame_bytes=int(os.environ.get("FRAMESIZELIMIT") or 0))
        for line in source:
            if not line.strip():
                continue
            for answer in harness.lines(line.strip()):
                sys.stdout.write(answer + "\n")
            sys.stdout.flush()
    except ValueError as error:
        sys.stderr.write(f"negentropy: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.stdin))
