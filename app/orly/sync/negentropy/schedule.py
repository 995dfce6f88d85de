"""When the next round with a peer is due, and how far back it looks. Pure: time and chance are arguments."""

from dataclasses import dataclass
from typing import Final

__all__ = [
    "BACKOFF_CEILING_S",
    "COSTLY_S",
    "FIRST_DELAY_S",
    "FULL_EVERY",
    "JITTER",
    "MOVE_S",
    "OVERLAP_S",
    "Cursor",
    "first_delay_s",
    "next_delay_s",
]

BACKOFF_CEILING_S: Final = 15 * 60
"""A peer that fails again and again is tried at least this often, or at the interval where that is longer."""

JITTER: Final = 0.1
"""A pause is up to a tenth shorter or longer, so that relays that started together do not stay together."""

FIRST_DELAY_S: Final = 1.0
"""The first rounds after a start begin within this time, or within the interval where that is shorter."""

OVERLAP_S: Final = 60 * 60
"""How far before the last settled round the next one begins: clocks differ, and events travel for a while."""

COSTLY_S: Final = 1.0
"""A comparison of everything that takes longer is not made in every round."""

MOVE_S: Final = 0.001
"""What carrying an event may take; the time beyond that is the comparison's."""

FULL_EVERY: Final = 10
"""Of so many rounds one compares everything: it finds what is older than the overlap and came later."""


def first_delay_s(interval_s: float, chance: float) -> float:
    """The pause before the first round.

    Args:
        interval_s: The pause between two rounds.
        chance: A random number of 0 to 1.
    """
    return min(FIRST_DELAY_S, interval_s) * chance


def next_delay_s(interval_s: float, failures: int, chance: float) -> float:
    """The pause after a round: the interval, doubled with every failure in a row up to a ceiling, and jittered.

    Args:
        interval_s: The pause between two rounds that succeed.
        failures: How many have failed in a row.
        chance: A random number of 0 to 1.
    """
    ceiling_s = max(interval_s, BACKOFF_CEILING_S)
    delay_s = min(interval_s * 2.0 ** min(failures, 32), ceiling_s)
    return delay_s * (1 - JITTER + 2 * JITTER * chance)


@dataclass(frozen=True, slots=True)
class Cursor:
    """What the rounds with one peer have compared.

    Comparing everything costs a peer that keeps no index of its set a scan of its whole store. With a peer that takes
    long over it, the rounds after a settled one look at new events only, and one of `FULL_EVERY` looks at everything.

    Attributes:
        covered_s: When the last settled round began, in Unix seconds; 0 = none did.
        is_costly: Whether the last full round took long.
        since_full: Rounds since everything was compared.
    """

    covered_s: int = 0
    is_costly: bool = False
    since_full: int = 0

    def since_s(self) -> int | None:
        """The lowest created_at that the next round compares; None = everything."""
        if not self.covered_s or not self.is_costly or self.since_full + 1 >= FULL_EVERY:
            return None
        return max(self.covered_s - OVERLAP_S, 0)

    def after(self, *, began_s: int, took_s: float, moved: int, was_full: bool, is_settled: bool) -> "Cursor":
        """The state after a round that came to its end.

        A round that left something out which the next may bring does not move the cursor, and the next one is full.

        Args:
            began_s: When it began, in Unix seconds.
            took_s: How long it took.
            moved: Events that were carried in it, whose time is not counted.
            was_full: Whether it compared everything.
            is_settled: Whether nothing is missing but what the next one would not bring either.
        """
        if not is_settled:
            return Cursor()
        if not was_full:
            return Cursor(covered_s=began_s, is_costly=self.is_costly, since_full=self.since_full + 1)
        return Cursor(covered_s=began_s, is_costly=took_s - moved * MOVE_S >= COSTLY_S)
