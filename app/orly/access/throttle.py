"""How long strangers wait who may write slowly (mode `follows`): each event makes the next wait longer. Pure."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

__all__ = ["Throttle"]

MAX_REMEMBERED: Final = 100_000
"""Keys and addresses remembered; of more, those that were quiet the longest are forgotten: 15 MB."""


class Throttle:
    """One accumulator for each key and each address. An event adds to both, and waits for the larger."""

    def __init__(self, increment_s: float, max_s: float) -> None:
        self._increment_s = increment_s
        self._max_s = max_s
        self._owed: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._owed)

    def delay_s(self, pubkey: bytes, address: str, now_s: float) -> float:
        """How long an event of a key, from an address, has to wait; counts it.

        Args:
            pubkey: 32 bytes.
            address: Empty if it is not known.
            now_s: Of a steady clock.
        """
        return max(self._add(who, now_s) for who in (pubkey, address) if who)

    def take_back(self, pubkey: bytes) -> None:
        """An event that was counted for a key has not been stored: whoever else sent it shall not make the key wait."""
        owed = self._owed.get(pubkey)
        if owed is not None:
            self._owed[pubkey] = (max(owed[0] - self._increment_s, 0.0), owed[1])

    def _add(self, who: Hashable, now_s: float) -> float:
        owed_s, since_s = self._owed.pop(who, (0.0, now_s))
        owed_s = min(max(owed_s - max(now_s - since_s, 0.0), 0.0) + self._increment_s, self._max_s)
        self._owed[who] = (owed_s, now_s)
        if len(self._owed) > MAX_REMEMBERED:
            self._owed.popitem(last=False)
        return owed_s
