"""Which open subscriptions an event matches: an inverted index over their filters."""

from collections.abc import Collection
from typing import Final, Generic, Protocol, TypeVar

from orly.nostr.event import MAX_CREATED_AT, Event
from orly.nostr.filter import Filter, matches
from orly.nostr.tags import indexed

__all__ = ["Matchable", "SubscriptionIndex"]


class Matchable(Protocol):
    """What can be indexed: a subscription with its filters and a mark that the index keeps on it."""

    filters: tuple[Filter, ...]
    stamp: int


S = TypeVar("S", bound=Matchable)


class _Entry(Generic[S]):
    """One filter of one subscription.

    Attributes:
        table: Where it hangs.
        keys: Under which keys of that.
        exact: The key under which it hangs is its only condition.
    """

    __slots__ = ("exact", "keys", "subscription", "table", "wanted")

    def __init__(
        self, subscription: S, wanted: Filter, table: "_Table[S]", keys: "Collection[_Key]", *, exact: bool
    ) -> None:
        self.subscription = subscription
        self.wanted = wanted
        self.table = table
        self.keys = keys
        self.exact = exact


_Key = tuple[str, str] | str | int
_Table = dict[_Key, dict[_Entry[S], None]]
_CATCH_ALL: Final = "*"


class SubscriptionIndex(Generic[S]):
    """Each filter hangs under its ids, else its authors, else its smallest tag set, else its kinds, else apart."""

    def __init__(self) -> None:
        self._by_id: _Table[S] = {}
        self._by_author: _Table[S] = {}
        self._by_tag: _Table[S] = {}
        self._by_kind: _Table[S] = {}
        self._others: _Table[S] = {}
        self._entries: dict[int, list[_Entry[S]]] = {}
        self._stamp = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, subscription: S) -> None:
        """Index a subscription; it must not change while it is in here."""
        entries = []
        for wanted in subscription.filters:
            if wanted.matches_nothing():
                continue
            table, wanted_keys, n_conditions = self._place(wanted)
            exact = n_conditions <= 1 and wanted.since == 0 and wanted.until == MAX_CREATED_AT
            entry = _Entry(subscription, wanted, table, wanted_keys, exact=exact)
            for key in wanted_keys:
                table.setdefault(key, {})[entry] = None
            entries.append(entry)
        self._entries[id(subscription)] = entries

    def remove(self, subscription: S) -> None:
        """Forget a subscription; one that is not in here is no error."""
        for entry in self._entries.pop(id(subscription), ()):
            table = entry.table
            for key in entry.keys:
                entries = table[key]
                del entries[entry]
                if not entries:
                    del table[key]

    def _place(self, wanted: Filter) -> tuple[_Table[S], Collection[_Key], int]:
        """The table and keys for a filter, and how many conditions it has besides time."""
        count = (wanted.ids is not None) + (wanted.authors is not None) + (wanted.kinds is not None) + len(wanted.tags)
        if wanted.ids is not None:
            return self._by_id, wanted.ids, count
        if wanted.authors is not None:
            return self._by_author, wanted.authors, count
        if wanted.tags:
            letter = min(wanted.tags, key=lambda name: (len(wanted.tags[name]), name))
            return self._by_tag, [(letter, value) for value in wanted.tags[letter]], count
        if wanted.kinds is not None:
            return self._by_kind, wanted.kinds, count
        return self._others, (_CATCH_ALL,), count

    def match(self, event: Event) -> list[S]:
        """The subscriptions that want the event, each once."""
        self._stamp += 1
        found: list[S] = []
        if self._by_id:
            self._collect(self._by_id.get(event.id), event, found)
        if self._by_author:
            self._collect(self._by_author.get(event.pubkey), event, found)
        if self._by_tag and event.tags:
            for key in indexed(event):
                self._collect(self._by_tag.get(key), event, found)
        if self._by_kind:
            self._collect(self._by_kind.get(event.kind), event, found)
        if self._others:
            self._collect(self._others.get(_CATCH_ALL), event, found)
        return found

    def _collect(self, entries: dict[_Entry[S], None] | None, event: Event, found: list[S]) -> None:
        if entries is None:
            return
        stamp = self._stamp
        for entry in entries:
            subscription = entry.subscription
            if subscription.stamp != stamp and (entry.exact or matches(entry.wanted, event)):
                subscription.stamp = stamp
                found.append(subscription)
