"""Store suite: saving, replacing, versions, administrative deletion, serials."""

from itertools import permutations

from tests.component.store_world import Backend, World, on_store
from tests.factory import KEYS, NOW_S, delete_event, expiring_event, fake_event, vanish_event

from orly.nostr.filter import Filter
from orly.store.base import SaveResult, SaveStatus

STORED, DUPLICATE, SUPERSEDED = SaveStatus.STORED, SaveStatus.DUPLICATE, SaveStatus.SUPERSEDED


class SavingSuite:
    backend: Backend

    @on_store()
    async def test_what_comes_out_is_byte_for_byte_what_went_in(self, world: World) -> None:
        odd = '\x00\x01\b\t\n\f\r\x1f"\\/\x7f\u2028\ufeff\U0001f600'
        events = [fake_event(0, 1, NOW_S + n, [["t", odd], ["long"], ["", ""]], odd * n) for n in range(5)]
        await world.put(*events)
        assert await world.raw() == [event.raw for event in reversed(events)]
        await world.reopen()
        assert await world.raw() == [event.raw for event in reversed(events)]

    @on_store()
    async def test_large_and_much_tagged_events_are_stored(self, world: World) -> None:
        large = fake_event(0, 1, NOW_S, [["t", "x" * 100_000]], "c" * 1_000_000)
        tagged = fake_event(1, 1, NOW_S, [["p" if n % 2 else "t", f"{n:064x}"] for n in range(5_000)])
        await world.put(large, tagged)
        assert await world.raw(Filter(tags={"t": frozenset({"x" * 100_000})})) == [large.raw]
        assert await world.raw(Filter(tags={"p": frozenset({f"{4_999:064x}"})})) == [tagged.raw]

    @on_store()
    async def test_an_event_is_stored_once(self, world: World) -> None:
        event = fake_event()
        assert await world.save(event, event) == [STORED, DUPLICATE]
        assert await world.save(event) == [DUPLICATE]
        await world.reopen()
        assert await world.save(event) == [DUPLICATE]
        assert await world.ids() == [event.event.id]

    @on_store()
    async def test_only_stored_events_have_a_serial(self, world: World) -> None:
        event = fake_event()
        stored, duplicate, ephemeral = await world.store.save([event, event, fake_event(kind=20_000)])
        assert stored == SaveResult(STORED, 1)
        assert duplicate == SaveResult(DUPLICATE, 0)
        assert ephemeral == SaveResult(SaveStatus.DELIVERED, 0)

    @on_store()
    async def test_nothing_to_save_is_no_work(self, world: World) -> None:
        assert await world.store.save([]) == []
        assert await world.store.last_serial() == 0

    @on_store()
    async def test_a_long_batch_keeps_its_order(self, world: World) -> None:
        events = [fake_event(created_at=NOW_S + n) for n in range(1_100)]
        results = await world.store.save([*events, events[0]])
        assert [result.serial for result in results] == [*range(1, 1_101), 0]

    @on_store()
    async def test_nothing_is_known_that_is_not_stored(self, world: World) -> None:
        stored, other = fake_event(), fake_event(1)
        await world.put(stored)
        assert world.store.known([other.id, stored.id])[0] is False
        assert world.store.known([]) == []

    @on_store()
    async def test_ephemeral_events_are_not_stored(self, world: World) -> None:
        events = [fake_event(kind=20_000), fake_event(kind=29_999)]
        assert await world.save(*events) == [SaveStatus.DELIVERED] * 2
        assert await world.ids() == []
        assert await world.store.last_serial() == 0

    # Replaceable and addressable kinds

    @on_store()
    async def test_the_newest_version_stays_in_any_order_of_arrival(self, world: World) -> None:
        for kind in (0, 3, 10_000, 19_999, 30_000, 39_999):
            for key, order in enumerate(permutations(range(3))):
                versions = [fake_event(key, kind, NOW_S + t, [["d", "x"]]) for t in range(3)]
                await world.save_each(*(versions[t] for t in order))
                wanted = Filter(authors=frozenset({KEYS[key]}), kinds=frozenset({kind}))
                assert await world.ids(wanted) == [versions[2].event.id], (kind, order)

    @on_store()
    async def test_of_one_second_the_lowest_id_stays_in_any_order_of_arrival(self, world: World) -> None:
        for key, kind in enumerate((0, 10_002, 30_023)):
            versions = [fake_event(key, kind, NOW_S, [["d", "x"]], f"{n}") for n in range(4)]
            lowest = min(version.event.id for version in versions)
            for n, order in enumerate(permutations(range(4))):
                if n % 2:
                    await world.save_each(*(versions[i] for i in order))
                else:
                    await world.save(*(versions[i] for i in order))
                assert await world.ids(Filter(kinds=frozenset({kind}))) == [lowest]
                await world.store.delete([bytes.fromhex(lowest)])

    @on_store()
    async def test_results_of_replacement(self, world: World) -> None:
        old, new = fake_event(kind=0, created_at=NOW_S), fake_event(kind=0, created_at=NOW_S + 1)
        assert await world.save_each(old, new, old, new) == [STORED, STORED, SUPERSEDED, DUPLICATE]

    @on_store()
    async def test_a_batch_replaces_like_single_calls(self, world: World) -> None:
        versions = [fake_event(kind=30_000, created_at=NOW_S + t, tags=[["d", "x"]]) for t in range(3)]
        batch = [versions[0], versions[2], versions[1], versions[2]]
        assert await world.save(*batch) == [STORED, STORED, SUPERSEDED, DUPLICATE]
        assert await world.ids() == [versions[2].event.id]

    @on_store()
    async def test_missing_bare_and_empty_d_are_one_address(self, world: World) -> None:
        forms: list[list[list[str]]] = [[], [["d"]], [["d", ""]], [["d", "", "x"], ["d", "other"]], [["e", "d"]]]
        for n, tags in enumerate(forms):
            assert await world.save(fake_event(0, 30_023, NOW_S + n, tags)) == [STORED]
            assert await world.count() == 1
        assert await world.save(fake_event(0, 30_023, NOW_S, [["d", "other"]])) == [STORED]
        assert await world.count() == 2

    @on_store()
    async def test_kind_author_and_d_each_make_another_address(self, world: World) -> None:
        events = [
            fake_event(key, kind, NOW_S, [["d", d]]) for key in (0, 1) for kind in (30_000, 30_001) for d in ("", "x")
        ]
        assert await world.save(*events) == [STORED] * 8
        assert await world.count() == 8

    @on_store()
    async def test_a_replaceable_kind_ignores_its_d_tag(self, world: World) -> None:
        assert await world.save(
            fake_event(kind=10_000, tags=[["d", "x"]]), fake_event(kind=10_000, created_at=NOW_S + 1, tags=[["d", "y"]])
        ) == [STORED, STORED]
        assert await world.count() == 1

    # Versions

    @on_store(keep_versions=True)
    async def test_superseded_versions_are_kept_on_request(self, world: World) -> None:
        versions = [fake_event(kind=30_023, created_at=NOW_S + t, tags=[["d", "x"]]) for t in range(4)]
        await world.put(*versions[:2])
        await world.put(*versions[2:])
        other = fake_event(1)
        await world.put(other)
        newest_first = [version.event.id for version in reversed(versions)]
        kind = Filter(kinds=frozenset({30_023}))
        assert await world.ids(kind) == newest_first[:1]
        assert await world.count(kind) == 1
        assert len(await world.items(kind)) == 40
        assert await world.versions(kind) == newest_first
        assert await world.versions(Filter(authors=frozenset({KEYS[1]}))) == [other.event.id]
        assert await world.versions(Filter(kinds=frozenset({30_023}), limit=2)) == newest_first[:2]
        assert await world.versions(Filter(kinds=frozenset({30_023}), limit=2), Filter(limit=0)) == newest_first[:2]
        assert await world.versions(Filter(kinds=frozenset({30_023}), until=NOW_S + 1)) == newest_first[2:]

    @on_store(keep_versions=False)
    async def test_superseded_versions_are_dropped_otherwise(self, world: World) -> None:
        versions = [fake_event(kind=0, created_at=NOW_S + t) for t in range(3)]
        await world.put(*versions)
        assert await world.versions() == [versions[2].event.id]

    @on_store(keep_versions=True)
    async def test_a_late_older_version_is_not_kept(self, world: World) -> None:
        old, new = fake_event(kind=0, created_at=NOW_S), fake_event(kind=0, created_at=NOW_S + 1)
        assert await world.save_each(new, old) == [STORED, SUPERSEDED]
        assert await world.versions() == [new.event.id]

    @on_store(keep_versions=True)
    async def test_a_kept_version_may_become_current_again(self, world: World) -> None:
        old, new = fake_event(kind=0, created_at=NOW_S), fake_event(kind=0, created_at=NOW_S + 1)
        await world.put(old)
        await world.put(new)
        assert await world.store.delete([new.id]) == 1
        assert await world.ids() == []
        assert await world.save(old, old) == [STORED, DUPLICATE]
        assert await world.versions() == [old.event.id]
        assert await world.save(new) == [STORED]
        assert await world.versions() == [new.event.id, old.event.id]

    @on_store(keep_versions=True)
    async def test_kept_versions_obey_deletion_vanish_expiry_and_scope(self, world: World) -> None:
        versions = [fake_event(0, 30_023, NOW_S + t, [["d", "x"]]) for t in range(4)]
        await world.put(*versions)
        await world.put(delete_event(versions[1], created_at=NOW_S + 10))
        kind = Filter(kinds=frozenset({30_023}))
        assert await world.versions(kind) == [versions[n].event.id for n in (3, 2, 0)]
        await world.put(delete_event(addresses=[f"30023:{KEYS[0]}:x"], created_at=NOW_S + 2))
        assert await world.versions(kind) == [versions[3].event.id]
        brief = fake_event(0, 30_023, NOW_S + 5, [["d", "x"], ["expiration", str(NOW_S + 20)]])
        await world.put(brief)
        await world.put(newest := fake_event(0, 30_023, NOW_S + 6, [["d", "x"]]))
        assert await world.versions(kind) == [newest.event.id, brief.event.id, versions[3].event.id]
        world.clock.now = NOW_S + 20
        assert await world.versions(kind) == [newest.event.id, versions[3].event.id]
        assert await world.sweep() == 1
        await world.put(vanish_event(created_at=NOW_S + 5))
        assert await world.versions(kind) == [newest.event.id]
        assert await world.store.delete([versions[3].id]) == 0

    # Administrative deletion

    @on_store()
    async def test_delete_removes_and_forgets(self, world: World) -> None:
        events = [fake_event(created_at=NOW_S + n, tags=[["t", "x"]]) for n in range(3)]
        await world.put(*events)
        assert await world.store.delete([events[0].id, events[0].id, events[2].id, b"\x00" * 32]) == 2
        assert await world.ids() == [events[1].event.id]
        assert await world.count(Filter(tags={"t": frozenset({"x"})})) == 1
        assert await world.has(events[0]) == [False]
        assert await world.store.deleted(events[0]) is None
        assert await world.save(events[0]) == [STORED]

    @on_store(keep_versions=True)
    async def test_delete_reaches_kept_versions(self, world: World) -> None:
        versions = [fake_event(kind=0, created_at=NOW_S + t) for t in range(3)]
        await world.put(*versions)
        assert await world.store.delete([versions[0].id]) == 1
        assert await world.versions() == [versions[2].event.id, versions[1].event.id]

    @on_store()
    async def test_delete_of_a_current_version_frees_its_address(self, world: World) -> None:
        old, new = fake_event(kind=0, created_at=NOW_S), fake_event(kind=0, created_at=NOW_S + 1)
        await world.put(new)
        await world.store.delete([new.id])
        assert await world.save(old) == [STORED]

    # Serials

    @on_store()
    async def test_serials_go_on_after_the_newest_is_deleted_and_the_store_reopened(self, world: World) -> None:
        first = await world.put(fake_event(content="1"), fake_event(content="2"))
        assert [result.serial for result in first] == [1, 2]
        await world.store.delete([fake_event(content="2").id])
        assert await world.store.last_serial() == 2
        await world.reopen()
        assert await world.store.last_serial() == 2
        assert [result.serial for result in await world.put(fake_event(content="2"))] == [3]

    @on_store()
    async def test_sweeping_everything_does_not_bring_serials_back(self, world: World) -> None:
        await world.put(expiring_event(NOW_S + 1))
        world.clock.now += 1
        assert await world.sweep() == 1
        await world.reopen()
        assert [result.serial for result in await world.put(fake_event())] == [2]
