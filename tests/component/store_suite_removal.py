"""Store suite: deletion requests (NIP-09), expiry (NIP-40), requests to vanish (NIP-62)."""

from tests.component.store_world import OWN_URL, Backend, Sink, World, on_store, packed
from tests.factory import (
    KEYS,
    NOW_S,
    address_of,
    delete_event,
    expiring_event,
    fake_event,
    gift_wrap,
    vanish_event,
)

from orly.nostr.event import MAX_CREATED_AT
from orly.nostr.filter import Filter
from orly.store.base import Query, SaveStatus

STORED, DUPLICATE, DELETED = SaveStatus.STORED, SaveStatus.DUPLICATE, SaveStatus.DELETED
VANISHED, EXPIRED = SaveStatus.VANISHED, SaveStatus.EXPIRED


class DeletionSuite:
    backend: Backend

    @on_store()
    async def test_the_author_deletes_by_id(self, world: World) -> None:
        target, other = fake_event(content="a"), fake_event(content="b")
        await world.put(target, other)
        request = delete_event(target, created_at=NOW_S + 1)
        await world.put(request)
        assert sorted(await world.ids()) == sorted([request.event.id, other.event.id])
        assert await world.save(target) == [DELETED]
        assert await world.store.deleted(target) is DELETED
        assert await world.store.deleted(other) is None

    @on_store()
    async def test_a_deletion_by_id_is_not_bounded_by_time(self, world: World) -> None:
        target = fake_event(created_at=NOW_S)
        assert await world.save(target, delete_event(target, created_at=NOW_S - 1), target) == [STORED, STORED, DELETED]

    @on_store()
    async def test_a_deletion_that_arrives_first_stops_its_target(self, world: World) -> None:
        target = fake_event()
        assert await world.save_each(delete_event(target), target) == [STORED, DELETED]
        await world.reopen()
        assert await world.save(target) == [DELETED]

    @on_store()
    async def test_one_batch_deletes_like_single_calls(self, world: World) -> None:
        target, late = fake_event(content="a"), fake_event(content="b")
        assert await world.save(target, delete_event(target, late), late, target) == [STORED, STORED, DELETED, DELETED]

    @on_store()
    async def test_nobody_else_deletes(self, world: World) -> None:
        target, late = fake_event(0, content="a"), fake_event(0, content="b")
        article = fake_event(0, 30_023, tags=[["d", "x"]])
        await world.put(target, article)
        await world.put(delete_event(target, late, article, key=1, addresses=[address_of(article)]))
        assert await world.save(late, target, article) == [STORED, DUPLICATE, DUPLICATE]

    @on_store()
    async def test_a_p_tag_gives_no_right_over_other_kinds(self, world: World) -> None:
        for kind in (1, 4, 1060):
            target = fake_event(0, kind, tags=[["p", KEYS[1]]])
            assert await world.save(target, delete_event(target, key=1), target) == [STORED, STORED, DUPLICATE]

    @on_store()
    async def test_the_recipient_deletes_a_gift_wrap(self, world: World) -> None:
        for key, status in ((0, DELETED), (1, DELETED), (2, DUPLICATE)):
            wrap = gift_wrap(KEYS[1], key=0, content=f"{key}")
            assert await world.save_each(wrap, delete_event(wrap, key=key), wrap) == [STORED, STORED, status]
            late = gift_wrap(KEYS[1], key=0, content=f"late {key}")
            expected = STORED if status is DUPLICATE else DELETED
            assert await world.save_each(delete_event(late, key=key), late) == [STORED, expected]

    @on_store()
    async def test_every_recipient_of_a_gift_wrap_may_delete_it(self, world: World) -> None:
        wrap = fake_event(0, 1059, tags=[["p", "not a key"], ["p"], ["p", KEYS[1]], ["p", KEYS[2]]])
        assert await world.save_each(wrap, delete_event(wrap, key=2), wrap) == [STORED, STORED, DELETED]

    @on_store()
    async def test_deletion_by_address_is_bounded_by_its_time(self, world: World) -> None:
        for kind, tags in ((0, []), (10_002, [["d", "ignored"]]), (30_023, [["d", "x"]]), (30_024, [])):
            at, later = (fake_event(0, kind, NOW_S + t, tags) for t in (10, 11))
            d = "x" if kind == 30_023 else ""
            request = delete_event(addresses=[f"{kind}:{KEYS[0]}:{d}"], created_at=NOW_S + 10)
            assert await world.save_each(at, request, at, later) == [STORED, STORED, DELETED, STORED], kind
            assert await world.save_each(request, at) == [DUPLICATE, DELETED]
            assert later.event.id in await world.ids()

    @on_store()
    async def test_an_address_deletion_spares_a_newer_version(self, world: World) -> None:
        article = fake_event(0, 30_023, NOW_S + 11, [["d", "x"]])
        assert (
            await world.save_each(article, delete_event(addresses=[address_of(article)], created_at=NOW_S + 10))
            == [STORED] * 2
        )
        assert article.event.id in await world.ids()

    @on_store()
    async def test_the_newest_address_deletion_counts(self, world: World) -> None:
        article = fake_event(0, 30_023, NOW_S + 15, [["d", "x"]])
        requests = [delete_event(addresses=[address_of(article)], created_at=NOW_S + t) for t in (10, 20, 12)]
        assert await world.save_each(*requests, article) == [STORED] * 3 + [DELETED]

    @on_store()
    async def test_an_address_of_another_author_is_ignored(self, world: World) -> None:
        article = fake_event(0, 30_023, tags=[["d", "x"]])
        stranger = delete_event(key=1, addresses=[address_of(article)], created_at=NOW_S + 1)
        assert await world.save_each(stranger, article) == [STORED, STORED]

    @on_store()
    async def test_other_addresses_are_spared(self, world: World) -> None:
        events = [fake_event(0, kind, tags=[["d", d]]) for kind, d in ((30_023, "x"), (30_023, "y"), (30_024, "x"))]
        await world.put(*events)
        await world.put(delete_event(addresses=[address_of(events[0])]))
        assert await world.has(*events) == [False, True, True]

    @on_store()
    async def test_broken_targets_are_ignored(self, world: World) -> None:
        target = fake_event(0, 30_023, tags=[["d", "x"]])
        await world.put(target)
        tags = [
            ["e"], ["e", ""], ["e", "zz" * 32], ["e", target.event.id.upper()], ["e", target.event.id[:-1]], ["a"],
            ["a", ""], ["a", "30023"], ["a", f"30023:{KEYS[0].upper()}:x"], ["a", f"030023:{KEYS[0]}:x"],
            ["a", f"99999:{KEYS[0]}:x"], ["a", f"1:{KEYS[0]}:"], ["E", target.event.id], ["x", target.event.id],
        ]  # fmt: skip
        assert await world.save(fake_event(0, 5, NOW_S, tags)) == [STORED]
        assert await world.has(target) == [True]

    @on_store()
    async def test_a_deletion_that_names_only_kinds_deletes_nothing(self, world: World) -> None:
        note, article = fake_event(), fake_event(0, 30_023)
        await world.put(note, article)
        await world.put(fake_event(0, 5, NOW_S + 1, [["k", "1"], ["k", "30023"]]))
        assert await world.has(note, article) == [True, True]
        assert await world.save(fake_event(content="later")) == [STORED]

    @on_store()
    async def test_a_deletion_cannot_be_deleted(self, world: World) -> None:
        target = fake_event()
        request = delete_event(target)
        await world.put(target, request)
        undo = delete_event(request, created_at=NOW_S + 1)
        assert await world.save_each(undo, request, target) == [STORED, DUPLICATE, DELETED]
        again = delete_event(target, created_at=NOW_S + 2)
        assert await world.save_each(delete_event(again, created_at=NOW_S + 3), again) == [STORED, STORED]

    @on_store()
    async def test_a_request_to_vanish_cannot_be_deleted(self, world: World) -> None:
        request = vanish_event()
        await world.put(request)
        assert await world.save(delete_event(request, created_at=NOW_S + 1), request) == [STORED, DUPLICATE]
        assert await world.has(request) == [True]

    @on_store()
    async def test_deleting_the_current_version_lets_an_older_one_in(self, world: World) -> None:
        old, new = (fake_event(kind=0, created_at=NOW_S + t) for t in (0, 1))
        assert await world.save_each(new, delete_event(new), old, new) == [STORED, STORED, STORED, DELETED]

    @on_store()
    async def test_tombstones_outlive_the_deletion_event(self, world: World) -> None:
        target = fake_event()
        request = delete_event(target)
        await world.put(target, request)
        await world.store.delete([request.id])
        await world.reopen()
        assert await world.save(target) == [DELETED]

    @on_store()
    async def test_many_targets_in_one_deletion(self, world: World) -> None:
        events = [fake_event(created_at=NOW_S + n) for n in range(700)]
        await world.put(*events)
        request = delete_event(*events[:600])
        await world.put(request)
        assert await world.count() == 101


class ExpirySuite:
    backend: Backend

    @on_store()
    async def test_an_event_is_gone_from_the_second_it_expires(self, world: World) -> None:
        brief = fake_event(0, 30_023, NOW_S, [["d", "x"], ["expiration", str(NOW_S + 10)]])
        stays = fake_event(1, 30_023, NOW_S, [["d", "x"]])
        await world.put(brief, stays)
        filters = [
            Filter(), Filter(ids=frozenset({brief.event.id, stays.event.id})), Filter(kinds=frozenset({30_023})),
            Filter(authors=frozenset(KEYS[:2])), Filter(tags={"d": frozenset({"x"})}),
            Filter(authors=frozenset(KEYS[:2]), kinds=frozenset({30_023})),
        ]  # fmt: skip
        for now, expected in ((NOW_S + 9, 2), (NOW_S + 10, 1), (NOW_S + 11, 1), (NOW_S + 9, 2), (NOW_S + 10, 1)):
            world.clock.now = now
            for wanted in filters:
                assert len(await world.ids(wanted)) == expected, (now, wanted)
                assert await world.count(wanted) == expected
                assert await world.items(wanted) == packed([brief, stays][2 - expected :])
                assert len(await world.versions(wanted)) == expected
                assert await world.count(wanted, Filter(kinds=frozenset({1}))) == expected
        assert await world.sweep() == 1
        assert await world.ids() == [stays.event.id]
        assert await world.has(brief, stays) == [False, True]
        assert await world.sweep() == 0

    @on_store()
    async def test_an_expired_event_is_refused_from_its_second_on(self, world: World) -> None:
        assert await world.save(
            expiring_event(NOW_S + 1), expiring_event(NOW_S), expiring_event(NOW_S - 1), expiring_event(0)
        ) == [STORED, EXPIRED, EXPIRED, EXPIRED]
        assert await world.save(expiring_event(NOW_S, kind=20_000)) == [EXPIRED]

    @on_store()
    async def test_the_first_tag_counts_and_what_cannot_be_read_never_expires(self, world: World) -> None:
        values = ["", "soon", "-1", "1.5", "1e3", " 1", "0x1", "١", "9" * 20, str(MAX_CREATED_AT), "9" * 21]
        events = [fake_event(tags=[["expiration", value], ["expiration", "1"]]) for value in values]
        events.append(fake_event(tags=[["expiration"], ["expiration", "1"]]))
        await world.put(*events)
        world.clock.now = 2**40
        assert await world.count() == len(events)
        assert await world.sweep() == 0

    @on_store()
    async def test_more_events_come_due_while_others_wait_to_be_purged(self, world: World) -> None:
        events = [expiring_event(NOW_S + n, created_at=NOW_S + n) for n in range(1, 11)]
        await world.put(*events)
        for n in range(12):
            world.clock.now = NOW_S + n
            assert await world.count() == max(0, 10 - n)
        late = expiring_event(NOW_S + 12)
        await world.put(late)
        assert await world.ids() == [late.event.id]
        world.clock.now = NOW_S + 12
        assert await world.ids() == []
        assert await world.sweep() == 11

    @on_store()
    async def test_a_clock_that_was_put_back_hides_nothing_wrong(self, world: World) -> None:
        world.clock.now = NOW_S + 100
        assert await world.count() == 0
        world.clock.now = NOW_S
        await world.put(expiring_event(NOW_S + 50), expiring_event(NOW_S + 100))
        world.clock.now = NOW_S + 100
        assert await world.count() == 0
        world.clock.now = NOW_S + 60
        assert await world.count() == 1

    @on_store()
    async def test_an_expired_version_gives_way_before_it_is_purged(self, world: World) -> None:
        brief = fake_event(0, 0, NOW_S + 5, [["expiration", str(NOW_S + 10)]])
        older = fake_event(0, 0, NOW_S)
        await world.put(brief)
        assert await world.save(older) == [SaveStatus.SUPERSEDED]
        world.clock.now = NOW_S + 10
        assert await world.save(older) == [STORED]
        assert await world.ids() == [older.event.id]
        assert await world.sweep() == 0

    @on_store()
    async def test_what_expires_and_when(self, world: World) -> None:
        assert await world.expirations() == []
        lasting = fake_event(content="for ever")
        seconds = (NOW_S + 30, NOW_S + 10, NOW_S + 20, NOW_S + 20, NOW_S + 20, MAX_CREATED_AT)
        events = [expiring_event(at, created_at=NOW_S + n) for n, at in enumerate(seconds)]
        await world.put(lasting, *events)
        rows = sorted((at, event.event.created_at, event.event.id) for at, event in zip(seconds, events, strict=True))
        cases: tuple[tuple[int, list[tuple[int, int, str]]], ...] = (
            (-1, rows), (0, rows), (NOW_S + 9, rows), (NOW_S + 10, rows[1:]), (NOW_S + 20, rows[4:]),
            (NOW_S + 30, rows[5:]), (MAX_CREATED_AT - 1, rows[5:]), (MAX_CREATED_AT, []), (2**64, []),
        )  # fmt: skip
        for after_s, expected in cases:
            assert await world.expirations(after_s) == expected, after_s
        world.clock.now = NOW_S + 10
        assert await world.expirations() == rows[1:]
        await world.store.delete([events[0].id])
        world.clock.now = NOW_S + 20
        assert await world.expirations() == rows[5:]
        await world.sweep()
        await world.reopen()
        assert await world.expirations() == rows[5:]

    @on_store(keep_versions=True)
    async def test_a_superseded_version_is_not_told_to_expire(self, world: World) -> None:
        old, new = (fake_event(0, 0, NOW_S + n, [["expiration", str(NOW_S + 9 - n)]]) for n in (0, 1))
        other = expiring_event(NOW_S + 9, created_at=NOW_S)
        await world.put(old, new, other)
        assert [row[2] for row in await world.expirations()] == [new.event.id, other.event.id]
        await world.store.delete([new.id])
        assert [row[2] for row in await world.expirations()] == [other.event.id]

    @on_store()
    async def test_thousands_expire_in_the_same_second(self, world: World) -> None:
        events = [expiring_event(NOW_S + 5 + n // 1_500, created_at=NOW_S - n) for n in range(3_000)]
        await world.put(*events)
        found = await world.expirations()
        assert found == sorted(found)
        assert {row[2] for row in found} == {event.event.id for event in events}
        assert found == sorted((NOW_S + 5 + n // 1_500, NOW_S - n, event.event.id) for n, event in enumerate(events))

    @on_store()
    async def test_a_sweep_has_no_upper_bound(self, world: World) -> None:
        await world.put(*(expiring_event(NOW_S + 1, created_at=n) for n in range(1_100)))
        await world.put(fake_event())
        world.clock.now += 1
        assert await world.sweep() == 1_100
        assert await world.count() == 1

    @on_store()
    async def test_what_expires_while_a_reader_holds_back_is_not_sent(self, world: World) -> None:
        content = "x" * 70_000
        brief = fake_event(0, 1, NOW_S, [["expiration", str(NOW_S + 10)]], content)
        await world.put(brief, fake_event(0, 1, NOW_S + 1, content=content))
        sink = Sink(credit=1)
        handle = world.store.query(Query(filters=(Filter(),)), sink)
        await sink.wait(lambda: sink.calls == 1, "the first rows")
        world.clock.now = NOW_S + 10
        handle.resume()
        await sink.over()
        assert len(sink.events) == 1


class VanishSuite:
    backend: Backend

    @on_store()
    async def test_everything_up_to_the_request_vanishes(self, world: World) -> None:
        before, at, after = (fake_event(created_at=NOW_S + t) for t in (-1, 0, 1))
        article = fake_event(0, 30_023, NOW_S - 5, [["d", "x"], ["t", "x"]])
        deletion = delete_event(fake_event(content="gone"), created_at=NOW_S - 2)
        stranger = fake_event(1, created_at=NOW_S - 1)
        await world.put(before, at, after, article, deletion, stranger)
        request = vanish_event()
        await world.put(request)
        assert sorted(await world.ids()) == sorted(event.event.id for event in (after, request, stranger))
        assert await world.save(before, at, article, deletion) == [VANISHED] * 4
        assert await world.store.deleted(before) is VANISHED
        assert await world.store.deleted(after) is None
        await world.reopen()
        assert await world.save(before, request, after) == [VANISHED, DUPLICATE, DUPLICATE]

    @on_store()
    async def test_who_is_addressed(self, world: World) -> None:
        cases: list[tuple[tuple[str, ...], bool]] = [
            (("ALL_RELAYS",), True), ((OWN_URL,), True), ((OWN_URL + "/",), True), (("wss://a.example", OWN_URL), True),
            (("wss://a.example",), False), (("all_relays",), False), (("",), False), (("not a url", "ws://["), False),
        ]  # fmt: skip
        for n, (relays, is_meant) in enumerate(cases):
            target = fake_event(n % 8, created_at=NOW_S - 1, content=f"{n}")
            assert await world.save_each(target, vanish_event(*relays, key=n % 8), target) == [
                STORED,
                STORED,
                VANISHED if is_meant else DUPLICATE,
            ], relays
        bare = fake_event(7, 62, NOW_S + 9, [["relay"], ["r", "ALL_RELAYS"]])
        late = fake_event(7, created_at=NOW_S + 8)
        assert await world.save_each(bare, late) == [STORED, STORED]

    @on_store()
    async def test_gift_wraps_for_the_vanished_go_too(self, world: World) -> None:
        mine, later, other = (
            gift_wrap(KEYS[0], key=1, created_at=NOW_S),
            gift_wrap(KEYS[0], key=1, created_at=NOW_S + 1),
            gift_wrap(KEYS[2], key=1, created_at=NOW_S),
        )
        mention = fake_event(1, 1, NOW_S, [["p", KEYS[0]]])
        await world.put(mine, later, other, mention)
        request = vanish_event()
        await world.put(request)
        assert sorted(await world.ids()) == sorted(event.event.id for event in (later, other, mention, request))
        late = gift_wrap(KEYS[0], key=1, created_at=NOW_S - 7)
        assert await world.save(mine, late) == [VANISHED, VANISHED]

    @on_store()
    async def test_a_late_request_stops_what_arrives_after_it_in_the_same_batch(self, world: World) -> None:
        old, late = fake_event(created_at=NOW_S - 1), fake_event(created_at=NOW_S - 2)
        assert await world.save(old, vanish_event(), late, vanish_event()) == [STORED, STORED, VANISHED, DUPLICATE]

    @on_store()
    async def test_a_second_later_request_moves_the_border(self, world: World) -> None:
        first, second = vanish_event(created_at=NOW_S), vanish_event(created_at=NOW_S + 10)
        between, after = fake_event(created_at=NOW_S + 5), fake_event(created_at=NOW_S + 11)
        await world.put(first)
        await world.put(between, after)
        await world.put(second)
        assert await world.save(between, first, after) == [VANISHED, VANISHED, DUPLICATE]
        assert await world.ids() == [after.event.id, second.event.id]

    @on_store()
    async def test_an_earlier_request_does_not_move_the_border_back(self, world: World) -> None:
        await world.put(vanish_event(created_at=NOW_S + 10))
        earlier, between = vanish_event(created_at=NOW_S), fake_event(created_at=NOW_S + 5)
        assert await world.save_each(earlier, between) == [VANISHED, VANISHED]

    @on_store()
    async def test_deletions_of_the_vanished_still_count(self, world: World) -> None:
        target = fake_event(created_at=NOW_S + 5)
        await world.put(delete_event(target, created_at=NOW_S - 1))
        await world.put(vanish_event())
        assert await world.save(target) == [DELETED]

    @on_store()
    async def test_an_address_is_free_again_for_newer_versions(self, world: World) -> None:
        old, new = (fake_event(kind=0, created_at=NOW_S + t) for t in (-1, 1))
        assert await world.save_each(old, vanish_event(), old, new) == [STORED, STORED, VANISHED, STORED]

    @on_store()
    async def test_thousands_vanish_at_once(self, world: World) -> None:
        await world.put(*(fake_event(created_at=NOW_S - n) for n in range(1_500)))
        await world.put(vanish_event())
        assert await world.count() == 1
