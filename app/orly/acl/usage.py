"""The limits of a day (mode `curating`): who has published how much, and which addresses went over them. Pure."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

from orly.access import snapshot
from orly.access.control import Use, UseMark
from orly.access.curating import CuratingConfig

__all__ = ["MAX_OFFENDERS", "MAX_REPORTERS", "Offenders", "Reporters", "count_uses"]

HOUR_S: Final = 60 * 60

MAX_OFFENDERS: Final = 100_000
"""Addresses whose offences are remembered; of more, the longest ago are forgotten."""

MAX_REPORTERS: Final = 1_000
"""Processes whose last report is remembered; of more, those that were quiet the longest are forgotten."""


def count_uses(used: Mapping[bytes | str, int], uses: Iterable[Use]) -> dict[bytes | str, int]:
    """The new counts of those who have used something; newcomers beyond `MAX_COUNTED` are left out."""
    counts: dict[bytes | str, int] = {}
    room = snapshot.MAX_COUNTED - len(used)
    for use in uses:
        for who in (use.pubkey, use.address):
            if not who or not use.n_events:
                continue
            known = counts.get(who)
            if known is None:
                known = used.get(who)
                if known is None:
                    if room <= 0:
                        continue
                    room -= 1
                    known = 0
            counts[who] = known + use.n_events
    return counts


class Reporters:
    """The last report of each process that has told what was used."""

    def __init__(self) -> None:
        self._numbers: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._numbers)

    def is_new(self, mark: UseMark) -> bool:
        """Whether a report was not heard before; notes it."""
        if self._numbers.get(mark.reporter, -1) >= mark.number:
            return False
        self._numbers[mark.reporter] = mark.number
        self._numbers.move_to_end(mark.reporter)
        if len(self._numbers) > MAX_REPORTERS:
            self._numbers.popitem(last=False)
        return True


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
