"""How much each address and each key may do in a minute, over all connections of this process."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from orly.access.addresses import place_of
from orly.token_bucket import KeyedBuckets

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["Rates", "rate_key"]


def rate_key(address: str) -> str | None:
    """By what an address is limited: itself, or its /64 if it is IPv6; None for loopback, which is not."""
    return place_of(address) or None


class Rates:
    """Token buckets; used from one event loop.

    Args:
        events_per_ip, events_per_key, requests_per_ip, requests_per_key, auths_per_ip: In a minute; 0 = no limit.
        monotonic_s: Steady seconds.
    """

    def __init__(
        self,
        *,
        events_per_ip: int = 0,
        events_per_key: int = 0,
        requests_per_ip: int = 0,
        requests_per_key: int = 0,
        auths_per_ip: int = 0,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._monotonic_s = monotonic_s
        self._events_ip = KeyedBuckets(events_per_ip)
        self._events_key = KeyedBuckets(events_per_key)
        self._requests_ip = KeyedBuckets(requests_per_ip)
        self._requests_key = KeyedBuckets(requests_per_key)
        self._auths_ip = KeyedBuckets(auths_per_ip)

    @classmethod
    def from_settings(cls, settings: "Settings", monotonic_s: Callable[[], float]) -> "Rates":
        """The rates of the settings."""
        return cls(
            events_per_ip=settings.events_per_ip_per_minute,
            events_per_key=settings.events_per_key_per_minute,
            requests_per_ip=settings.reqs_per_ip_per_minute,
            requests_per_key=settings.reqs_per_key_per_minute,
            auths_per_ip=settings.auths_per_ip_per_minute,
            monotonic_s=monotonic_s,
        )

    @property
    def limit_authors(self) -> bool:
        """Whether authors are limited."""
        return self._events_key.are_on

    def take_event_from(self, place: str | None) -> bool:
        """Whether one more event may come from a place (`rate_key`); counts it."""
        return place is None or self._events_ip.take(place, self._monotonic_s())

    def take_event_of(self, author: bytes) -> bool:
        """Whether one more event of an author may be stored; counts it. Its signature must be valid."""
        return self._events_key.take(author, self._monotonic_s())

    def give_back_event_of(self, author: bytes) -> None:
        """An event that was counted for an author has not been stored."""
        self._events_key.give_back(author)

    def take_request(self, place: str | None, keys: frozenset[str]) -> bool:
        """Whether one more REQ, COUNT, NEG-OPEN or HTTP request may come from a place, and of the keys it has proven.

        A place is a `rate_key`.
        """
        now_s = self._monotonic_s()
        if place is not None and not self._requests_ip.take(place, now_s):
            return False
        return all(self._requests_key.take(key, now_s) for key in keys)

    def take_auth(self, place: str | None) -> bool:
        """Whether one more AUTH may come from a place."""
        return place is None or self._auths_ip.take(place, self._monotonic_s())
