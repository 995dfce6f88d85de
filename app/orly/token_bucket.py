"""Token buckets; time is an argument."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

__all__ = ["MAX_BUCKETS", "KeyedBuckets", "TokenBucket"]

MAX_BUCKETS: Final = 100_000
"""Buckets kept; of more, those that were not used the longest are full again: about 25 MB."""


class TokenBucket:
    """Allows `per_second` on average and `burst` at once.

    Args:
        per_second: Tokens that come back each second; 0 = no limit.
        burst: The most that may be taken at once, and what it starts with.
        now_s: The current time of any steady clock.
    """

    __slots__ = ("_burst", "_per_second", "_tokens", "_updated_s")

    def __init__(self, per_second: float, burst: float, now_s: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._updated_s = now_s

    def take(self, now_s: float) -> bool:
        """Take one token; False if there is none."""
        if not self._per_second:
            return True
        gained = max(now_s - self._updated_s, 0.0) * self._per_second
        self._tokens = min(self._tokens + gained, self._burst)
        self._updated_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """Undo one `take`."""
        self._tokens = min(self._tokens + 1, self._burst)


class KeyedBuckets:
    """A bucket for each of many, made when it is first asked for.

    Args:
        per_minute: Tokens that come back each minute, and the most that may be taken at once; 0 = no limit.
        most: See `MAX_BUCKETS`.
    """

    __slots__ = ("_buckets", "_most", "_per_minute")

    def __init__(self, per_minute: float, *, most: int = MAX_BUCKETS) -> None:
        self._per_minute = per_minute
        self._most = most
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def are_on(self) -> bool:
        """Whether there is a limit."""
        return bool(self._per_minute)

    def take(self, who: Hashable, now_s: float) -> bool:
        """Take one token of somebody's; False if there is none."""
        if not self._per_minute:
            return True
        bucket = self._buckets.get(who)
        if bucket is None:
            bucket = self._buckets[who] = TokenBucket(self._per_minute / 60, self._per_minute, now_s)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(who)
        return bucket.take(now_s)

    def give_back(self, who: Hashable) -> None:
        """Undo one `take` of somebody's."""
        bucket = self._buckets.get(who)
        if bucket is not None:
            bucket.give_back()
