"""The limits of a day (mode `curating`): who has published how much, and which addresses went over them. Pure."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from orly.access.control import Use
from orly.access.curating import CuratingConfig
from orly.access.snapshot import UseChange

__all__ = ["DAY_S", "MAX_COUNTED", "MAX_OFFENDERS", "DailyUse", "Offenders"]

DAY_S: Final = 24 * 60 * 60
HOUR_S: Final = 60 * 60

MAX_COUNTED: Final = 1_000_000
"""Keys and addresses counted on one day; of more, the newcomers are not counted: about 150 MB."""

MAX_OFFENDERS: Final = 100_000
"""Addresses whose offences are remembered; of more, the longest ago are forgotten."""


class DailyUse:
    """Counts of one day of Unix time."""

    def __init__(self, day: int) -> None:
        self.day = day
        self.counts: dict[bytes | str, int] = {}

    def add(self, uses: Iterable[Use]) -> Iterator[UseChange]:
        """Count events; gives the new counts."""
        counts = self.counts
        for use in uses:
            for who in (use.pubkey, use.address):
                if not who or not use.n_events or (who not in counts and len(counts) >= MAX_COUNTED):
                    continue
                counts[who] = counts.get(who, 0) + use.n_events
                yield UseChange(who, counts[who])

    def begin(self, day: int) -> None:
        """Forget the day before."""
        self.day = day
        self.counts = {}


class Offenders:
    """How often each address went over a limit."""

    def __init__(self) -> None:
        self._offences: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._offences)

    def remember(self, address: str, offences: int) -> list[str]:
        """Note what an address has done, the latest last; gives the addresses that are forgotten for it."""
        self._offences[address] = offences
        self._offences.move_to_end(address)
        n_too_many = len(self._offences) - MAX_OFFENDERS
        return [self._offences.popitem(last=False)[0] for _ in range(n_too_many)]

    def next_offence(self, address: str, config: CuratingConfig) -> tuple[int, int]:
        """Which offence of an address comes next, from 1 on, and for how many seconds it is to be blocked."""
        count = self._offences.get(address, 0) + 1
        hours = config.first_ban_hours if count == 1 else config.second_ban_hours
        return count, hours * HOUR_S
