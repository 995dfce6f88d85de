"""The store suite on LMDB, and what only this store promises."""

from tests.component.lmdb_backend import LmdbBackend
from tests.component.store_suite import StoreSuite
from tests.component.store_world import Sink, World, on_store
from tests.factory import NOW_S, expiring_event, fake_event

from orly.nostr.filter import Filter
from orly.store.base import Query


class TestLmdbStore(StoreSuite):
    backend = LmdbBackend()

    @on_store()
    async def test_known_is_exact(self, world: World) -> None:
        stored, deleted, absent = fake_event(0), fake_event(1), fake_event(2)
        await world.put(stored, deleted)
        await world.store.delete([deleted.id])
        assert world.store.known([absent.id, stored.id, deleted.id]) == [False, True, False]

    @on_store()
    async def test_a_small_query_is_answered_before_the_call_returns(self, world: World) -> None:
        await world.put(fake_event())
        sink = Sink()
        world.store.query(Query(filters=(Filter(),)), sink)
        assert (len(sink.events), sink.through_serial) == (1, 1)

    @on_store()
    async def test_what_is_committed_after_its_expiry_is_never_shown(self, world: World) -> None:
        """The clock moves on while a commit is under way, and a query has looked at the later second already."""
        await world.put(expiring_event(NOW_S + 1))
        world.clock.now = NOW_S + 1
        assert await world.ids() == []
        world.clock.now = NOW_S
        await world.put(expiring_event(NOW_S + 1, key=1))
        world.clock.now = NOW_S + 1
        assert await world.ids() == []
        world.clock.now = NOW_S + 2
        assert await world.ids() == []
        assert await world.sweep() == 2


class TestLmdbStoreWithSmallGenerations(StoreSuite):
    """The same with index rows that are partly in memory, partly in the tables, and partly in both."""

    backend = LmdbBackend(generation_events=2)
