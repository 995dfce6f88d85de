"""A token bucket; time is an argument."""

__all__ = ["TokenBucket"]


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
