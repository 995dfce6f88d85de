"""What one client reads: its subscriptions, their turns at the store, and its counts."""

import asyncio
from collections import deque
from typing import Final

from orly.nostr.filter import Filter
from orly.nostr.kinds import PRIVATE_KINDS
from orly.nostr.message import closed_text, count_text
from orly.nostr.reason import Prefix, Refusal
from orly.relay.context import SessionContext
from orly.relay.peer import Peer
from orly.relay.subscription import Subscription
from orly.store.base import Query, ReadScope, StoreError

__all__ = ["MAX_COUNTS", "MAX_LOADING", "Reading"]

MAX_LOADING: Final = 8
"""Stored answers of one connection being sent at once; further subscriptions wait their turn."""

MAX_COUNTS: Final = 4


class Reading:
    """The reading side of a session, for a client that may ask: access is decided by the session.

    Attributes:
        scope: What the client may see, also in what is open already.
        held_bytes: Live events held back until stored answers end.
    """

    __slots__ = (
        "_context",
        "_counts",
        "_load_scheduled",
        "_loading",
        "_n_values",
        "_subscriptions",
        "_waiting",
        "held_bytes",
        "peer",
        "scope",
    )

    def __init__(self, peer: Peer, context: SessionContext) -> None:
        self.peer = peer
        self.held_bytes = 0
        self._context = context
        self._subscriptions: dict[str, Subscription] = {}
        self._n_values = 0
        self._waiting: deque[Subscription] = deque()
        self._loading: set[Subscription] = set()
        self._load_scheduled = False
        self._counts: dict[asyncio.Task[None], str] = {}
        self.let_see(frozenset(), sees_hidden=False)

    def let_see(self, keys: frozenset[str], *, sees_hidden: bool) -> None:
        """Show what these keys (hex) may read, from now on, and what is hidden from others or not."""
        rules = self._context.rules
        sees_all = rules.privileged_open or not keys.isdisjoint(rules.full_sync_pubkeys)
        private = frozenset() if sees_all else PRIVATE_KINDS
        self.scope = ReadScope(private_kinds=private, readers=keys, sees_hidden=sees_hidden)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open or under way."""
        return not (self._subscriptions or self._counts)

    def writable(self) -> None:
        """Go on with the stored answers that were held back."""
        for subscription in tuple(self._loading):
            subscription.resume()

    def end(self) -> None:
        """The connection is gone."""
        for subscription in self._subscriptions.values():
            self._context.live.index.remove(subscription)
            subscription.cancel()
        self._subscriptions.clear()
        self._n_values = 0
        self._loading.clear()
        self._waiting.clear()
        for task in self._counts:
            task.cancel()

    # Subscriptions

    def open(self, sub_id: str, filters: tuple[Filter, ...]) -> Refusal | None:
        """Open a subscription under an id that is free; the refusal if the connection or the relay has too many."""
        subscription = Subscription(self, sub_id, filters)
        refusal = self._refuse(subscription)
        if refusal is not None:
            return refusal
        self._subscriptions[sub_id] = subscription
        self._n_values += subscription.n_values
        self._context.live.index.add(subscription)
        if filters[0].limit == 0 and all(wanted.limit == 0 for wanted in filters):
            self._load(subscription)  # nothing stored is wanted: there is no answer to wait a turn for
        else:
            self._waiting.append(subscription)
            self._load_next()
        return None

    def _refuse(self, subscription: Subscription) -> Refusal | None:
        rules = self._context.rules
        if len(self._subscriptions) >= rules.max_subscriptions:
            return Refusal(Prefix.BLOCKED, f"this connection has {rules.max_subscriptions} subscriptions, the maximum")
        n_values = self._n_values + subscription.n_values
        if n_values > rules.max_open_values:
            return Refusal(
                Prefix.BLOCKED,
                f"the open subscriptions of this connection would name {n_values} ids, authors, kinds and tag values, "
                f"the maximum is {rules.max_open_values}",
            )
        if len(self._context.live.index) >= rules.max_total_subscriptions:
            return Refusal(Prefix.BLOCKED, "the relay has as many subscriptions as it takes, try again later")
        return None

    def close(self, sub_id: str) -> None:
        """Close a subscription; one that is not open is no error."""
        subscription = self._subscriptions.pop(sub_id, None)
        if subscription is None:
            return
        self._n_values -= subscription.n_values
        self._context.live.index.remove(subscription)
        if subscription in self._waiting:
            self._waiting.remove(subscription)
        subscription.cancel()
        self.loaded(subscription)

    def refuse_all(self, refusal: Refusal) -> None:
        """End every subscription and every count under way, and say of each why."""
        for sub_id in tuple(self._subscriptions):
            self.close(sub_id)
            self.peer.send(closed_text(sub_id, refusal))
        counts, self._counts = self._counts, {}
        for task, query_id in counts.items():
            if task.cancel():  # else it has just been answered
                self.peer.send(closed_text(query_id, refusal))

    def loaded(self, subscription: Subscription) -> None:
        """A stored answer is over: the next may begin."""
        self._loading.discard(subscription)
        self._schedule_load()

    def ended(self, subscription: Subscription) -> None:
        """The relay ended a subscription."""
        self.close(subscription.sub_id)

    def _load_next(self) -> None:
        """Start waiting subscriptions while fewer than `MAX_LOADING` are being answered.

        A store that searches as soon as it is asked is asked once in a turn of the loop.
        """
        while self._waiting and len(self._loading) < MAX_LOADING:
            self._load(self._waiting.popleft())
            if not self._context.store.ANSWERS_LATER:
                self._schedule_load()
                return

    def _load(self, subscription: Subscription) -> None:
        self._loading.add(subscription)
        subscription.load(self._context.store, self._make_query)

    def _schedule_load(self) -> None:
        if self._waiting and not self._load_scheduled and len(self._loading) < MAX_LOADING:
            self._load_scheduled = True
            self._context.loop.call_soon(self._load_in_turn)

    def _load_in_turn(self) -> None:
        self._load_scheduled = False
        self._load_next()

    def _make_query(self, filters: tuple[Filter, ...], scope: ReadScope) -> Query:
        rules = self._context.rules
        return Query(
            filters=filters,
            scope=scope,
            default_limit=rules.default_limit,
            max_limit=rules.max_limit,
            timeout_s=rules.query_timeout_s,
        )

    # Counts

    def count(self, query_id: str, filters: tuple[Filter, ...]) -> Refusal | None:
        """Start to count; the refusal if too many counts are under way."""
        if len(self._counts) >= MAX_COUNTS:
            return Refusal(Prefix.RATE_LIMITED, f"{MAX_COUNTS} counts are under way, wait for one to end")
        query = Query(filters=filters, scope=self.scope, timeout_s=self._context.rules.query_timeout_s)
        task = self._context.loop.create_task(self._answer_count(query_id, query))
        self._counts[task] = query_id
        task.add_done_callback(self._count_is_over)
        return None

    def _count_is_over(self, task: asyncio.Task[None]) -> None:
        self._counts.pop(task, None)

    async def _answer_count(self, query_id: str, query: Query) -> None:
        try:
            total = await self._context.store.count(query)
        except StoreError as error:
            self.peer.send(closed_text(query_id, Refusal(Prefix.ERROR, str(error))))
        else:
            self.peer.send(count_text(query_id, total))
