"""What a store that reads the file by itself promises beyond the suite."""

from tests.component.store_suite import StoreSuite
from tests.component.store_world import Sink, World, on_store
from tests.factory import NOW_S, expiring_event, fake_event

from orly.nostr.filter import Filter
from orly.store.base import Query

__all__ = ["DirectSuite"]


class DirectSuite(StoreSuite):
    """The suite, and more."""

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
