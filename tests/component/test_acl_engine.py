"""The engine of access control on a real store: lists, rules from events, hiding, limits, restarts and failures."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.component.acl_world import (
    ADMIN,
    ANYBODY,
    BY,
    OTHER,
    OWNER,
    AclWorld,
    FaultyStore,
    acl_world,
    config_event,
    follow_list,
    key,
    put_markers,
    rules,
)
from tests.component.async_test import async_test
from tests.factory import KEYS, NOW_S, delete_event, fake_event, vanish_event
from tests.wsclient import DEADLINE_S, until

from orly.access.commands import (
    AddKey,
    AllowKind,
    BlockAddress,
    Command,
    CommandError,
    DisallowKind,
    DropKey,
    Entry,
    SetInfo,
    UnblockAddress,
)
from orly.access.control import ControlError, Use, UseMark
from orly.access.curating import CuratingConfig
from orly.access.levels import Mode
from orly.access.snapshot import EVENT_LISTS, KEY_LISTS, KeyChange, ListName, Rules, Snapshot
from orly.acl import board, hider, limits, lists, sourced, usage
from orly.acl.board import Board
from orly.acl.engine import AclEngine
from orly.acl.hider import Hider
from orly.acl.kept import marker_prefix
from orly.acl.lists import KEPT_LISTS, MAX_COMMANDS, Lists
from orly.nostr.event import EncodedEvent
from orly.nostr.kinds import MAX_KIND
from orly.store.base import MAX_MARKERS, HiddenKey, SaveStatus, StoreError

ADDRESS, ELSEWHERE = "192.0.2.1", "2001:db8::1"
BANNED, BLACKLISTED = ListName.BANNED_PUBKEYS, ListName.BLACKLISTED_PUBKEYS
DAY_S, HOUR_S = 86_400, 3_600
CURATING = rules(Mode.CURATING)
FOLLOWS = rules(Mode.FOLLOWS)
FULL = StoreError("the disk is full")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens once in a while happens soon."""
    monkeypatch.setattr(limits, "TICK_S", 0.01)
    monkeypatch.setattr(sourced, "PAUSE_S", 0.01)
    monkeypatch.setattr(hider, "FIRST_PAUSE_S", 0.01)


def ids(*events: EncodedEvent) -> list[str]:
    return sorted(event.event.id for event in events)


def followed(world: AclWorld) -> set[bytes]:
    return set(world.lists.keys[ListName.FOLLOWED_PUBKEYS])


def keys(*numbers: int) -> set[bytes]:
    return {key(number) for number in numbers}


# Lists


@async_test
async def test_lists_survive_a_restart(tmp_path: Path) -> None:
    commands: list[Command] = [
        AddKey(name, bytes([n]) * 32, f"reason {n}") for n, name in enumerate(KEPT_LISTS) if name in KEY_LISTS
    ]
    commands += [AddKey(ListName.SPAM_EVENTS, b"\xaa" * 32, "buy", KEYS[OTHER])]
    commands += [DisallowKind(7), DisallowKind(40_000), AllowKind(1), AllowKind(MAX_KIND)]
    commands += [BlockAddress(ADDRESS, "rude"), BlockAddress("::ffff:192.0.2.9", "for now", NOW_S + 1_000)]
    commands += [SetInfo("name", "Große Relais"), SetInfo("icon", "https://example.com/i.png")]
    async with acl_world(tmp_path, CURATING) as world:
        await world.change(*commands)
        before = {name: await world.members(name) for name in ListName}
        snapshot = world.lists
        world.clock.now += 100
        await world.restart()
        assert {name: await world.members(name) for name in ListName} == before
        assert world.lists == snapshot
        assert world.lists is not snapshot
        assert before[ListName.SPAM_EVENTS][b"\xaa" * 32] == Entry(
            reason="buy", added_s=NOW_S, by=BY, pubkey=KEYS[OTHER]
        )
        assert before[ListName.BLOCKED_IPS] == {
            ADDRESS: Entry(reason="rude", added_s=NOW_S, by=BY),
            "192.0.2.9": Entry(reason="for now", added_s=NOW_S, by=BY, until_s=NOW_S + 1_000),
        }
        assert list(before[ListName.ALLOWED_KINDS]) == [1, MAX_KIND]
        assert all(before[name] for name in KEPT_LISTS)
        assert world.lists.info == {"name": "Große Relais", "icon": "https://example.com/i.png"}
        assert world.engine.describe() == (
            "access: mode curating, 1 owners, 1 admins, 1 allowed-pubkeys, 1 banned-pubkeys, 1 trusted-pubkeys, "
            "1 blacklisted-pubkeys, 1 allowed-events, 1 banned-events, 2 spam-events, 2 allowed-kinds, "
            "2 disallowed-kinds, 2 blocked-ips"
        )


@async_test
async def test_what_is_taken_off_stays_off(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world:
        await world.change(AddKey(BANNED, key(OTHER)), BlockAddress(ADDRESS), AllowKind(1), SetInfo("name", "x"))
        await world.change(DropKey(BANNED, key(OTHER)), UnblockAddress(ADDRESS), SetInfo("name", ""))
        await world.change(DisallowKind(1), AllowKind(1))
        await world.restart()
        empty = Snapshot(world.rules)
        empty.day = NOW_S // DAY_S
        assert world.lists == empty
        assert await world.kept("acl/") == []
        assert world.engine.describe().endswith("empty lists")


@async_test
async def test_commands_at_once_are_carried_out_in_order(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world:
        await world.change(
            AddKey(BANNED, key(OTHER), "first"),
            AddKey(ListName.ALLOWED_PUBKEYS, key(OTHER), "second"),
            AllowKind(1),
            DisallowKind(1),
            BlockAddress(ADDRESS),
            UnblockAddress(ADDRESS),
            SetInfo("name", "a"),
            SetInfo("name", "b"),
        )
        for _ in range(2):
            assert await world.members(BANNED) == {}
            assert list(world.lists.keys[BANNED]) == []
            assert await world.members(ListName.ALLOWED_PUBKEYS) == {
                key(OTHER): Entry(reason="second", added_s=NOW_S, by=BY)
            }
            assert world.lists.kinds == {ListName.ALLOWED_KINDS: set(), ListName.DISALLOWED_KINDS: {1}}
            assert world.lists.blocked == set()
            assert world.lists.info == {"name": "b"}
            await world.restart()


@async_test
async def test_how_many_commands_are_taken_at_once(tmp_path: Path) -> None:
    def allow(count: int, start: int) -> list[Command]:
        return [AddKey(ListName.ALLOWED_PUBKEYS, n.to_bytes(32, "big"), "ß" * 500) for n in range(start, start + count)]

    async with acl_world(tmp_path) as world:
        await world.change(*(AddKey(BANNED, n.to_bytes(32, "big")) for n in range(MAX_COMMANDS)))
        with pytest.raises(CommandError, match="401 commands are more than the 400 that are taken at once"):
            await world.change(*allow(MAX_COMMANDS + 1, 0))
        assert list(world.lists.keys[ListName.ALLOWED_PUBKEYS]) == []
        await world.change(*allow(MAX_COMMANDS, 0))
        assert len(world.lists.keys[ListName.ALLOWED_PUBKEYS]) == MAX_COMMANDS
        assert len(world.lists.keys[BANNED]) == 0
        await world.change()


@async_test
async def test_one_command_that_cannot_be_done_stops_all(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world:
        version = world.lists.version
        with pytest.raises(CommandError, match="an owner's"):
            await world.change(AddKey(BANNED, key(OTHER)), SetInfo("name", "x"), AddKey(BANNED, key(OWNER)))
        with pytest.raises(CommandError, match="has 70030 bytes, the maximum is 65536"):
            await world.change(AddKey(BANNED, key(OTHER)), by="x" * 70_000)
        assert world.lists.version == version
        assert await world.kept("acl/") == []


@async_test
async def test_pages_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [n.to_bytes(32, "big") for n in range(2_500)]
    async with acl_world(tmp_path, is_started=False) as world:
        await put_markers(world.store, ListName.ALLOWED_EVENTS, members)
        await put_markers(world.store, ListName.DISALLOWED_KINDS, [3, 20, 100, 40_000])
        await put_markers(world.store, ListName.BLOCKED_IPS, ["192.0.2.1", "192.0.2.10", "::1"])
        await world.engine.start()

        async def page(name: ListName, **options: Any) -> list[Any]:
            return [row.member for row in await world.engine.listed(name, **options)]

        assert await page(ListName.ALLOWED_EVENTS) == members[:1_000]
        assert await page(ListName.ALLOWED_EVENTS, limit=3_000) == members
        assert await page(ListName.ALLOWED_EVENTS, after=members[2_397], limit=100) == members[2_398:2_498]
        assert await page(ListName.ALLOWED_EVENTS, after=members[-1]) == []
        assert await page(ListName.ALLOWED_EVENTS, limit=0) == []
        assert await page(ListName.DISALLOWED_KINDS, after=20) == [100, 40_000]
        assert await page(ListName.BLOCKED_IPS, after="192.0.2.1") == ["192.0.2.10", "::1"]
        monkeypatch.setattr(lists, "MAX_LISTED_BYTES", 1_500)
        assert await page(ListName.ALLOWED_EVENTS, limit=3_000) == members[:1_000], "2 bytes are known of each"
        monkeypatch.setattr(lists, "MAX_LISTED_BYTES", 2_000)
        assert await page(ListName.ALLOWED_EVENTS, limit=3_000) == members[:2_000]


@async_test
async def test_an_entry_that_cannot_be_read_is_there_all_the_same(tmp_path: Path) -> None:
    async with acl_world(tmp_path, is_started=False) as world:
        await put_markers(world.store, BANNED, [key(OTHER)], b"{")
        await put_markers(world.store, ListName.BLOCKED_IPS, [ADDRESS], b'{"until_s":"x"}')
        await world.engine.start()
        assert await world.members(BANNED) == {key(OTHER): Entry()}
        assert await world.engine.entry_of(ListName.BLOCKED_IPS, ADDRESS) == Entry()
        assert world.lists.blocked == {ADDRESS}


@async_test
async def test_what_is_known_of_members(tmp_path: Path) -> None:
    async with acl_world(tmp_path, FOLLOWS) as world:
        await world.change(AddKey(BANNED, key(OTHER), "rude"), BlockAddress("192.0.2.10", "ten"), DisallowKind(17))
        assert await world.engine.entry_of(BANNED, key(OTHER)) == Entry(reason="rude", added_s=NOW_S, by=BY)
        assert await world.engine.entry_of(BANNED, key(ANYBODY)) is None
        assert await world.engine.entry_of(ListName.TRUSTED_PUBKEYS, key(OTHER)) is None
        assert await world.engine.entry_of(ListName.BLOCKED_IPS, "192.0.2.1") is None
        assert await world.engine.entry_of(ListName.DISALLOWED_KINDS, 17) == Entry(added_s=NOW_S, by=BY)
        assert await world.engine.entry_of(ListName.DISALLOWED_KINDS, 1) is None
        await world.put(follow_list(OWNER, KEYS[ANYBODY]))
        await until(lambda: followed(world) == keys(ANYBODY), "the follow list")
        assert await world.engine.entry_of(ListName.FOLLOWED_PUBKEYS, key(ANYBODY)) == Entry()
        assert await world.engine.entry_of(ListName.FOLLOWED_PUBKEYS, key(OTHER)) is None
        assert await world.engine.entry_of(ListName.FOLLOWED_PUBKEYS, 1) is None


@async_test
async def test_nothing_is_known_before_the_start(tmp_path: Path) -> None:
    async with acl_world(tmp_path, is_started=False) as world:
        assert world.engine.snapshot is None
        for call in (
            world.change(AddKey(BANNED, key(OTHER))),
            world.engine.used([Use(key(OTHER), ADDRESS, 1)]),
            world.engine.listed(ListName.PEER_PUBKEYS),
        ):
            with pytest.raises(ControlError, match="access control is not ready yet"):
                await call
        await world.engine.start()
        assert world.lists.used == {}


@async_test
async def test_a_store_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world:
        version = world.lists.version
        world.store.change_error = FULL
        for command in (AddKey(BANNED, key(OTHER)), AllowKind(1), BlockAddress(ADDRESS), SetInfo("name", "x")):
            with pytest.raises(ControlError, match="the store did not take the change: the disk is full"):
                await world.change(command)
        assert world.lists.version == version
        world.store.read_error = StoreError("it is gone")
        for call in (world.engine.listed(BANNED), world.engine.entry_of(BANNED, key(OTHER))):
            with pytest.raises(ControlError, match="the list cannot be read: it is gone"):
                await call
        world.store.change_error = world.store.read_error = None
        await world.change(AddKey(BANNED, key(OTHER)))
        assert list(world.lists.keys[BANNED]) == [key(OTHER)]


@async_test
async def test_a_change_is_made_whole_though_who_asked_is_gone(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world:
        event = fake_event(OTHER)
        await world.put(event)
        world.store.hold_changes()
        asking = asyncio.create_task(world.change(AddKey(BANNED, key(OTHER))))
        await until(lambda: world.store.n_waiting == 1, "the change")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        world.store.let_changes()
        await until(lambda: key(OTHER) in world.lists.keys[BANNED], "the ban")
        await world.restart()
        assert list(world.lists.keys[BANNED]) == [key(OTHER)]
        world.store.hold_changes()
        asking = asyncio.create_task(world.change(DropKey(BANNED, key(OTHER))))
        await until(lambda: world.store.n_waiting == 1, "the change")
        asking.cancel()
        closing = asyncio.create_task(world.engine.aclose())
        await asyncio.wait((asking,))
        assert not closing.done()
        world.store.let_changes()
        await asyncio.wait_for(closing, DEADLINE_S)
        assert list(world.lists.keys[BANNED]) == []


@async_test
async def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    async with acl_world(tmp_path, FOLLOWS, is_started=False) as world:
        world.store.read_error = StoreError("it is gone")
        with pytest.raises(StoreError, match="it is gone"):
            await world.engine.start()
        await world.engine.aclose()
        world.store.read_error = None
        world.engine = AclEngine(world.store, FOLLOWS, now_s=world.clock.now_s)
        world.store.after_fetch = [asyncio.Event()]
        starting = asyncio.create_task(world.engine.start())
        await until(lambda: not world.store.after_fetch, "the first read")
        assert world.store.n_feeds == 1
        starting.cancel()
        await asyncio.wait((starting,))
        assert world.store.n_feeds == 0


# Watching


@async_test
async def test_who_watches_hears_of_every_change(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world:
        heard: list[None] = []
        leave = world.engine.listen(lambda: heard.append(None))
        with world.engine.watching() as watcher:
            await world.change(AddKey(BANNED, key(OTHER)))
            assert list(await watcher.next()) == [KeyChange(BANNED, key(OTHER), True)]
            reading = asyncio.ensure_future(watcher.next())
            await world.change(DropKey(BANNED, key(OTHER)), AddKey(BANNED, key(ANYBODY)))
            assert list(await asyncio.wait_for(reading, DEADLINE_S)) == [
                KeyChange(BANNED, key(OTHER), False),
                KeyChange(BANNED, key(ANYBODY), True),
            ]
            assert len(heard) == 2
            leave()
            leave()
            await world.change(AddKey(BANNED, key(OTHER)))
            assert len(heard) == 2
            await world.engine.aclose()
            assert list(await watcher.next()) == []
            assert watcher.is_cut


@async_test
async def test_who_reads_too_slowly_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MAX_UNREAD", 3)
    async with acl_world(tmp_path) as world:
        with world.engine.watching() as slow, world.engine.watching() as quick:
            for n in range(3):
                await world.change(AllowKind(n))
                assert len(await quick.next()) == 1
            cut = [slow.is_cut]
            await world.change(AllowKind(3))
            cut.append(slow.is_cut)
            assert list(await slow.next()) == []
            await world.change(AllowKind(4))
            assert list(await slow.next()) == []
            assert len(await quick.next()) == 2
            assert (cut, quick.is_cut) == ([False, True], False)
        assert world.lists.kinds[ListName.ALLOWED_KINDS] == set(range(5))


@async_test
async def test_peers_are_those_that_were_named_last(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world:
        peers = world.lists.keys[ListName.PEER_PUBKEYS]
        with world.engine.watching() as watcher:
            world.engine.set_peers([key(ANYBODY), key(OTHER), key(OTHER)])
            assert set(peers) == keys(ANYBODY, OTHER)
            assert len(await watcher.next()) == 2
            world.engine.set_peers(keys(OTHER, 4))
            assert set(peers) == keys(OTHER, 4)
            assert set(await watcher.next()) == {
                KeyChange(ListName.PEER_PUBKEYS, key(ANYBODY), False),
                KeyChange(ListName.PEER_PUBKEYS, key(4), True),
            }
            version = world.lists.version
            world.engine.set_peers(keys(OTHER, 4))
            assert world.lists.version == version
        rows = await world.engine.listed(ListName.PEER_PUBKEYS)
        assert [row.member for row in rows] == sorted(keys(OTHER, 4))
        assert [row.entry for row in rows] == [Entry(), Entry()]
        first, second = (row.member for row in rows)
        assert [row.member for row in await world.engine.listed(ListName.PEER_PUBKEYS, limit=1)] == [first]
        assert [row.member for row in await world.engine.listed(ListName.PEER_PUBKEYS, after=first)] == [second]
        await world.restart()
        assert list(world.lists.keys[ListName.PEER_PUBKEYS]) == []


# Whom the moderators follow


@async_test
async def test_follow_lists_of_owners_and_admins_count(tmp_path: Path) -> None:
    async with acl_world(tmp_path, FOLLOWS, is_started=False) as world:
        await world.put(follow_list(OWNER, KEYS[2], KEYS[3]), follow_list(ANYBODY, KEYS[7]))
        await world.engine.start()
        assert followed(world) == keys(2, 3)
        with world.engine.watching() as watcher:
            await world.put(follow_list(ADMIN, KEYS[3], KEYS[4]))
            assert list(await asyncio.wait_for(watcher.next(), DEADLINE_S)) == [
                KeyChange(ListName.FOLLOWED_PUBKEYS, key(4), True)
            ]
            newer = follow_list(OWNER, KEYS[5], created_at=NOW_S + 1)
            await world.put(newer)
            await until(lambda: followed(world) == keys(3, 4, 5), "the newer list")
            await world.put(delete_event(newer, key=OWNER, created_at=NOW_S + 2))
            await until(lambda: followed(world) == keys(3, 4), "the deletion")
            await world.put(vanish_event(key=ADMIN, created_at=NOW_S + 2))
            await until(lambda: not followed(world), "that it vanished")
        await world.put(follow_list(OWNER, KEYS[6], created_at=NOW_S + 3))
        await until(lambda: followed(world) == keys(6), "one more list")
        await world.restart()
        assert followed(world) == keys(6)


@async_test
async def test_whose_lists_do_not_count(tmp_path: Path) -> None:
    async with acl_world(tmp_path, FOLLOWS) as world:
        await world.put(follow_list(OWNER, KEYS[2]))
        await until(lambda: followed(world) == keys(2), "the first list")
        older = follow_list(OWNER, KEYS[3], created_at=NOW_S - 1)
        (result,) = await world.store.save([older])
        assert result.status is SaveStatus.SUPERSEDED, "what is not stored says nothing"
        await world.put(
            follow_list(ANYBODY, KEYS[4]),
            fake_event(OWNER, kind=10_000, tags=[("p", KEYS[5])]),
            fake_event(OWNER, kind=1, tags=[("p", KEYS[6])]),
            follow_list(ADMIN, KEYS[7]),
        )
        await until(lambda: key(7) in followed(world), "what was stored last")
        assert followed(world) == keys(2, 7)


@async_test
async def test_tags_that_name_nobody_are_passed_over(tmp_path: Path) -> None:
    upper = KEYS[2].upper()
    assert upper != KEYS[2]
    bad = ["", "x", upper, KEYS[3][1:], KEYS[3] + "0", "z" * 64, "٣" * 64, KEYS[3][:-1] + "\n"]
    tags = [("p",), *(("p", each) for each in bad), ("P", KEYS[4]), ("p", KEYS[5], "wss://x", "name"), ("p", KEYS[5])]
    async with acl_world(tmp_path, FOLLOWS) as world:
        await world.put(fake_event(ADMIN, kind=3, tags=tags))
        await until(lambda: followed(world), "the list")
        assert followed(world) == keys(5)


@async_test
async def test_other_modes_follow_nobody(tmp_path: Path) -> None:
    async with acl_world(tmp_path, rules(Mode.MANAGED)) as world:
        await world.put(follow_list(OWNER, KEYS[2]))
        await world.restart()
        assert followed(world) == set()
        assert world.store.n_feeds == 0
        await world.restart(FOLLOWS)
        assert followed(world) == keys(2)
        assert world.store.n_feeds == 1
        await world.restart(Rules(mode=Mode.FOLLOWS))
        assert followed(world) == set()


# The configuration of `curating`


async def until_config(world: AclWorld, config: CuratingConfig | None, event: EncodedEvent | None) -> None:
    await until(lambda: world.lists.curating == config, "the configuration")
    assert world.engine.config_event == (None if event is None else event.event)


@async_test
async def test_the_newest_configuration_of_a_moderator_counts(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        assert world.lists.curating is None
        owners = config_event(OWNER, ("daily_limit", "1"))
        await world.put(owners)
        await until_config(world, CuratingConfig(daily_limit=1), owners)
        admins = config_event(ADMIN, ("daily_limit", "2"), created_at=NOW_S + 1)
        older = config_event(OWNER, ("daily_limit", "9"), d="other", created_at=NOW_S + 9)
        two_names = fake_event(
            OWNER,
            kind=30_078,
            tags=[("d", "else"), ("d", "curating-config"), ("daily_limit", "9")],
            created_at=NOW_S + 9,
        )
        anybodys = config_event(ANYBODY, ("daily_limit", "3"), created_at=NOW_S + 9)
        await world.put(older, two_names, anybodys, admins)
        await until_config(world, CuratingConfig(daily_limit=2), admins)
        invalid = config_event(OWNER, ("daily_limit", "many"), created_at=NOW_S + 2)
        await world.put(invalid)
        with world.engine.watching() as watcher:
            newest = config_event(ADMIN, content='{"dailyLimit": 4, "allowedKinds": [1]}', created_at=NOW_S + 3)
            await world.put(newest)
            await until_config(world, CuratingConfig(daily_limit=4, kinds=(1,)), newest)
            assert len(await watcher.next()) == 1, "the invalid one was no change"
        await world.restart()
        await until_config(world, CuratingConfig(daily_limit=4, kinds=(1,)), newest)
        await world.put(config_event(ADMIN, ("kind", "-1"), created_at=NOW_S + 4))
        await until_config(world, None, None)


@async_test
async def test_a_configuration_that_is_deleted_is_none(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING, is_started=False) as world:
        owners = config_event(OWNER, ("daily_limit", "1"))
        admins = config_event(ADMIN, ("daily_limit", "2"), created_at=NOW_S + 1)
        await world.put(owners, admins)
        await world.engine.start()
        await until_config(world, CuratingConfig(daily_limit=2), admins)
        await world.put(delete_event(admins, key=ADMIN, created_at=NOW_S + 2))
        await until_config(world, CuratingConfig(daily_limit=1), owners)
        address = f"30078:{KEYS[OWNER]}:curating-config"
        await world.put(delete_event(key=OWNER, created_at=NOW_S + 2, addresses=[address]))
        await until_config(world, None, None)


@async_test
async def test_what_a_failing_store_could_not_tell_is_read_later(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        world.store.read_error = StoreError("it is busy")
        await world.put(config_event(OWNER, ("daily_limit", "7")))
        await until(lambda: world.store.n_refused >= 3, "several attempts")
        assert world.lists.curating is None
        world.store.read_error = None
        await until(lambda: world.lists.curating == CuratingConfig(daily_limit=7), "the configuration")
        assert world.store.n_feeds == 1
        await world.put(config_event(OWNER, ("daily_limit", "8"), created_at=NOW_S + 1))
        await until(lambda: world.lists.curating == CuratingConfig(daily_limit=8), "the next one")


@async_test
async def test_what_was_read_first_is_not_published_last(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        gate = asyncio.Event()
        world.store.after_fetch = [gate]
        early = asyncio.create_task(world.engine.refresh())
        await until(lambda: not world.store.after_fetch, "a read that has its answer")
        await world.put(config_event(OWNER, ("daily_limit", "7")))
        late = asyncio.create_task(world.engine.refresh())
        done, _ = await asyncio.wait((late,), timeout=0.05)
        assert not done
        gate.set()
        await asyncio.wait_for(asyncio.gather(early, late), DEADLINE_S)
        assert world.lists.curating == CuratingConfig(daily_limit=7)


# Hiding


@async_test
async def test_bans_hide_what_is_stored_and_what_comes(tmp_path: Path) -> None:
    mine, theirs, later = fake_event(ANYBODY), fake_event(OTHER), fake_event(OTHER, created_at=NOW_S + 1)
    async with acl_world(tmp_path) as world:
        await world.put(mine, theirs)
        await world.change(AddKey(BANNED, key(OTHER)))
        assert await world.seen() == ids(mine)
        await world.put(later)
        assert await world.seen() == ids(mine)
        await world.change(AddKey(ListName.BANNED_EVENTS, mine.id))
        assert await world.seen() == []
        await world.change(AddKey(ListName.ALLOWED_PUBKEYS, key(OTHER)))
        assert await world.seen() == ids(theirs, later)
        await world.change(AddKey(ListName.ALLOWED_EVENTS, mine.id))
        assert await world.seen() == ids(mine, theirs, later)


@async_test
async def test_an_event_that_is_banned_twice_is_shown_when_both_bans_are_lifted(tmp_path: Path) -> None:
    event, other = fake_event(OTHER), fake_event(OTHER, created_at=NOW_S + 1)
    async with acl_world(tmp_path, CURATING) as world:
        await world.put(event, other)
        await world.change(AddKey(BANNED, key(OTHER)), AddKey(ListName.BANNED_EVENTS, event.id))
        await world.change(AddKey(BLACKLISTED, key(OTHER)), AddKey(ListName.SPAM_EVENTS, event.id))
        for step in (
            DropKey(BANNED, key(OTHER)),
            DropKey(ListName.BANNED_EVENTS, event.id),
        ):
            await world.change(step)
            assert await world.seen() == []
        await world.change(DropKey(BLACKLISTED, key(OTHER)))
        assert await world.seen() == ids(other)
        await world.change(DropKey(ListName.SPAM_EVENTS, event.id))
        assert await world.seen() == ids(event, other)
        assert await world.store.hidden() == []


@async_test
async def test_lists_of_another_mode_hide_nothing(tmp_path: Path) -> None:
    listed, banned, spam = fake_event(OTHER), fake_event(ANYBODY), fake_event(4)
    async with acl_world(tmp_path, CURATING) as world:
        await world.put(listed, banned, spam)
        await world.change(
            AddKey(BLACKLISTED, key(OTHER)), AddKey(BANNED, key(ANYBODY)), AddKey(ListName.SPAM_EVENTS, spam.id)
        )
        assert await world.seen() == []
        for rules_now, wanted in ((rules(), ids(listed, spam)), (CURATING, []), (FOLLOWS, ids(listed, spam))):
            await world.restart(rules_now)
            await until_seen(world, wanted)
        await world.change(DropKey(BLACKLISTED, key(OTHER)), AddKey(BLACKLISTED, key(4)))
        assert await world.seen() == ids(listed, spam)
        await world.restart(CURATING)
        await until_seen(world, ids(listed))


async def until_seen(world: AclWorld, wanted: list[str]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await world.seen() != wanted:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


@async_test
async def test_who_becomes_an_owner_is_shown_again(tmp_path: Path) -> None:
    events = [fake_event(OTHER), fake_event(ANYBODY)]
    async with acl_world(tmp_path, CURATING) as world:
        await world.put(*events)
        await world.change(AddKey(BANNED, key(OTHER)), AddKey(BLACKLISTED, key(ANYBODY)))
        await world.restart(rules(Mode.CURATING, owners=frozenset(keys(OTHER)), admins=frozenset(keys(ANYBODY))))
        await until_seen(world, ids(*events))
        assert await world.members(BANNED) != {}
        await world.restart()
        assert await world.seen() == ids(*events)
        await world.restart(CURATING)
        await until_seen(world, [])


@async_test
async def test_what_was_not_hidden_before_a_restart_is_hidden_after_it(tmp_path: Path) -> None:
    many = [fake_event(n % 2 + 2, created_at=NOW_S + n) for n in range(20)]
    async with acl_world(tmp_path, is_started=False) as world:
        await world.put(*many)
        await world.store.hide([HiddenKey(key(ANYBODY), True), HiddenKey(many[1].id, False)])
        await put_markers(world.store, BANNED, [key(OTHER), key(OWNER)])
        await put_markers(world.store, ListName.BANNED_EVENTS, [many[0].id])
        await world.engine.start()
        await until_seen(world, ids(*many[2::2]))
        assert await world.store.hidden() == [(HiddenKey(key(OTHER), True), True), (HiddenKey(many[0].id, False), True)]


@async_test
async def test_hiding_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "HIDE_WAIT_S", 0.01)
    events = [fake_event(OTHER), fake_event(ANYBODY)]
    async with acl_world(tmp_path) as world:
        await world.put(*events)
        world.store.hide_error = FULL
        await world.change(AddKey(BANNED, key(OTHER)))
        assert key(OTHER) in world.lists.keys[BANNED], "the ban holds all the same"
        await until(lambda: world.store.n_refused >= 2, "further attempts")
        await world.change(AddKey(BANNED, key(ANYBODY)))
        await world.change(DropKey(BANNED, key(OTHER)))
        assert await world.seen() == ids(*events)
        world.store.hide_error = None
        await until_seen(world, ids(events[0]))
        assert await world.store.hidden() == [(HiddenKey(key(ANYBODY), True), True)]


class _HeldHiding(FaultyStore):
    """Hides nothing; every call waits for a future."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.calls: list[tuple[str, set[HiddenKey], asyncio.Future[None]]] = []

    async def _hold(self, what: str, wanted: Any) -> None:
        let: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.calls.append((what, set(wanted), let))
        await let

    async def hide(self, wanted: Any) -> None:
        await self._hold("hide", wanted)

    async def show(self, wanted: Any) -> None:
        await self._hold("show", wanted)


@async_test
async def test_what_changes_while_it_is_hidden() -> None:
    first, second = HiddenKey(key(ANYBODY), True), HiddenKey(key(OTHER), True)
    store, wanted = _HeldHiding(), {first}
    hiding = Hider(store, wanted.__contains__)
    hiding.settle([first])
    await until(lambda: len(store.calls) == 1, "hiding")
    wanted.clear()
    hiding.settle([first])
    store.calls[0][2].set_result(None)
    await until(lambda: len(store.calls) == 2, "showing")
    assert store.calls[1][:2] == ("show", {first})
    assert not await hiding.settled(0.01)

    # A key that comes just when the work is done, and nobody knows it yet, is not left lying.
    loop = asyncio.get_running_loop()
    store.calls[1][2].set_result(None)
    wanted.add(second)
    loop.call_soon(hiding.settle, [second])
    await until(lambda: len(store.calls) == 3, "the next key")
    assert store.calls[2][:2] == ("hide", {second})
    store.calls[2][2].set_result(None)
    assert await hiding.settled(DEADLINE_S)
    await hiding.close()


@async_test
async def test_who_bans_does_not_wait_for_a_million_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hider, "MAX_HIDDEN_KEYS", 2)
    store = _HeldHiding()
    hiding = Hider(store, lambda _: True)
    many = [HiddenKey(bytes([n]) * 32, False) for n in range(6)]
    hiding.settle(many)
    await until(lambda: len(store.calls) == 1, "hiding")
    hiding.settle([many[0], HiddenKey(key(OTHER), True)])
    store.calls[0][2].set_result(None)
    await until(lambda: len(store.calls) == 2, "more hiding")
    assert store.calls[1][1] == {many[0], HiddenKey(key(OTHER), True)}
    await hiding.close()
    assert await hiding.settled(DEADLINE_S)


# Limits


async def use(world: AclWorld, number: int, count: int, *, address: str = ADDRESS, was_over: bool = False) -> None:
    await world.engine.used([Use(key(number), address, count, was_over)])


async def over(world: AclWorld, number: int, count: int = 0, *, address: str = ADDRESS) -> None:
    """Tell that an address went over a limit, and wait for what comes of it."""
    await use(world, number, count, address=address, was_over=True)
    await punished(world)


async def punished(world: AclWorld) -> None:
    """Wait until nobody is to be blocked."""
    await until(lambda: world.engine._limits._punishing is None, "the blocks")


async def curating(world: AclWorld, *tags: tuple[str, ...]) -> None:
    """Set the relay up."""
    await world.put(config_event(OWNER, ("daily_limit", "5"), *tags))
    await until(lambda: world.lists.curating is not None, "the configuration")


def until_s(world: AclWorld, found: Entry | None) -> int:
    """For how long an address is blocked from now on."""
    assert found is not None
    return found.until_s - world.clock.now


@async_test
async def test_counts_survive_a_restart(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        with world.engine.watching() as watcher:
            await use(world, ANYBODY, 2)
            await use(world, OTHER, 1)
            await use(world, OTHER, 4, address="")
            assert len(await watcher.next()) == 5
        counts = {key(ANYBODY): 2, key(OTHER): 5, ADDRESS: 3}
        assert world.lists.used == counts
        assert world.lists.day == NOW_S // DAY_S
        whos = [f"a/{ADDRESS}", *(f"k/{each}" for each in sorted((KEYS[2], KEYS[3])))]
        await world.until_kept("acl/use/", *(f"{NOW_S // DAY_S}/{each}" for each in whos))
        await use(world, OTHER, 1)
        await world.restart()
        assert world.lists.used == {key(ANYBODY): 2, key(OTHER): 6, ADDRESS: 4}
        await use(world, OTHER, 1)
        assert world.lists.used[key(OTHER)] == 7


@async_test
async def test_another_day_begins_with_nothing(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        await use(world, ANYBODY, 2)
        await world.until_kept("acl/use/", *(f"{NOW_S // DAY_S}/{each}" for each in (f"a/{ADDRESS}", f"k/{KEYS[2]}")))
        midnight = (NOW_S // DAY_S + 1) * DAY_S
        world.clock.now = midnight - 1
        await use(world, ANYBODY, 1)
        assert world.lists.used == {key(ANYBODY): 3, ADDRESS: 3}
        with world.engine.watching() as watcher:
            world.clock.now = midnight
            await asyncio.wait_for(watcher.next(), DEADLINE_S)
        assert (world.lists.day, world.lists.used) == (midnight // DAY_S, {})
        await world.until_kept("acl/use/")
        await use(world, OTHER, 1)
        await world.restart()
        assert world.lists.used == {key(OTHER): 1, ADDRESS: 1}
        await world.engine.aclose()
        world.clock.now += DAY_S
        await world.restart()
        assert (world.lists.day, world.lists.used) == (midnight // DAY_S + 1, {})
        await world.until_kept("acl/use/")


@async_test
async def test_a_use_is_the_first_to_notice_another_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TICK_S", 1_000)
    async with acl_world(tmp_path, CURATING) as world:
        await use(world, ANYBODY, 2)
        world.clock.now += DAY_S
        await use(world, ANYBODY, 1)
        assert world.lists.used == {key(ANYBODY): 1, ADDRESS: 1}
        assert world.lists.day == NOW_S // DAY_S + 1
        await world.restart()
        assert world.lists.used == {key(ANYBODY): 1, ADDRESS: 1}


@async_test
async def test_offences_block_an_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with acl_world(tmp_path, CURATING) as world:
        await curating(world, ("first_ban_hours", "2"), ("second_ban_hours", "30"))
        await over(world, ANYBODY)
        entry = await world.engine.entry_of(ListName.BLOCKED_IPS, ADDRESS)
        assert until_s(world, entry) == 2 * HOUR_S
        assert entry == Entry(
            reason=f"over the daily limit (offence 1), last with key {KEYS[ANYBODY]}",
            added_s=NOW_S,
            by="limits",
            until_s=NOW_S + 2 * HOUR_S,
        )
        await over(world, OTHER)
        assert await world.engine.entry_of(ListName.BLOCKED_IPS, ADDRESS) == entry, "it is blocked already"
        world.clock.now += 2 * HOUR_S - 1
        await world.restart()
        assert world.lists.blocked == {ADDRESS}
        world.clock.now += 1
        await until(lambda: not world.lists.blocked, "the end of the block")
        assert await world.members(ListName.BLOCKED_IPS) == {}
        for offence in (2, 3):
            await world.restart()
            await over(world, ANYBODY)
            entry = await world.engine.entry_of(ListName.BLOCKED_IPS, ADDRESS)
            assert until_s(world, entry) == 30 * HOUR_S
            assert entry is not None
            assert f"(offence {offence})" in entry.reason
            world.clock.now += 30 * HOUR_S
            await until(lambda: not world.lists.blocked, "the end of the block")
        await over(world, ANYBODY, address=ELSEWHERE)
        assert until_s(world, await world.engine.entry_of(ListName.BLOCKED_IPS, ELSEWHERE)) == 2 * HOUR_S
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("audit: by=limits ")]
    assert len(told) == 7, "a block and its end, three times, and a block"


@async_test
async def test_what_is_no_offence(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        await over(world, ANYBODY)
        assert world.lists.blocked == set(), "the relay is not set up"
        await curating(world, ("first_ban_hours", "0"))
        await over(world, ANYBODY, address="")
        await use(world, ANYBODY, 9, address=ELSEWHERE)
        await over(world, ANYBODY)
        assert world.lists.blocked == set(), "the first time is free"
        await over(world, ANYBODY)
        assert world.lists.blocked == {ADDRESS}
        await over(world, ANYBODY, 1, address="nowhere")
        assert world.lists.used["nowhere"] == 1
        assert world.lists.blocked == {ADDRESS}


@async_test
async def test_what_two_processes_tell_at_once_is_one_offence(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        await curating(world)
        world.store.hold_changes()
        for number in (ANYBODY, OTHER, 4):
            await asyncio.wait_for(use(world, number, 1, was_over=True), DEADLINE_S)
            await until(lambda: world.store.n_waiting >= 1, "the block")
        assert len(world.lists.used) == 4, "nobody waits for blocks"
        world.store.let_changes()
        await punished(world)
        assert until_s(world, await world.engine.entry_of(ListName.BLOCKED_IPS, ADDRESS)) == HOUR_S
        await world.until_kept("acl/offence/", ADDRESS)
        assert await world.store.marker("acl/offence/" + ADDRESS) == b"1"


@async_test
async def test_many_offenders_are_blocked_together(tmp_path: Path) -> None:
    addresses = [f"198.51.{n // 250}.{n % 250}" for n in range(MAX_COMMANDS + 1)]
    async with acl_world(tmp_path, CURATING) as world:
        await curating(world)
        blocked: list[int] = []

        async def count(changes: Any) -> None:
            n_blocks = sum(marker.startswith(marker_prefix(ListName.BLOCKED_IPS)) for marker in changes)
            blocked.extend([n_blocks] if n_blocks else [])

        world.store.on_change = count
        await world.engine.used([Use(key(ANYBODY), address, 0, was_over=True) for address in addresses])
        await punished(world)
        world.store.on_change = None
        assert world.lists.blocked == set(addresses)
        assert blocked == [MAX_COMMANDS, 1]


@async_test
async def test_an_offence_that_could_not_be_punished_does_not_count(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        await curating(world)
        world.store.change_error = FULL
        await over(world, ANYBODY, 3)
        assert world.lists.blocked == set()
        assert world.lists.used == {key(ANYBODY): 3, ADDRESS: 3}, "it is counted once, and not reported again"
        world.store.change_error = None
        await over(world, ANYBODY)
        assert until_s(world, await world.engine.entry_of(ListName.BLOCKED_IPS, ADDRESS)) == HOUR_S


@async_test
async def test_offences_that_are_forgotten_are_kept_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_OFFENDERS", 2)
    async with acl_world(tmp_path, CURATING) as world:
        await curating(world)
        for address in ("192.0.2.3", "192.0.2.1", "192.0.2.2"):
            await over(world, ANYBODY, address=address)
        await world.until_kept("acl/offence/", "192.0.2.1", "192.0.2.2")
        monkeypatch.setattr(usage, "MAX_OFFENDERS", 1)
        await world.restart()
        await world.until_kept("acl/offence/", "192.0.2.2")


@async_test
async def test_a_report_that_is_repeated_counts_once(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        today = NOW_S // DAY_S
        uses = [Use(key(ANYBODY), ADDRESS, 2)]
        for mark in (UseMark(b"one", 1, today), UseMark(b"one", 1, today), UseMark(b"one", 2, today - 1)):
            await world.engine.used(uses, mark=mark)
        assert world.lists.used == {key(ANYBODY): 2, ADDRESS: 2}
        await world.engine.used(uses, mark=UseMark(b"one", 2, today))
        await world.engine.used(uses, mark=UseMark(b"other", 1, today + 1))
        assert world.lists.used == {key(ANYBODY): 6, ADDRESS: 6}


@async_test
async def test_counts_are_no_news(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        heard: list[int] = []
        leave = world.engine.listen(lambda: heard.append(world.lists.version))
        revision, version = world.lists.revision, world.lists.version
        await use(world, ANYBODY, 2)
        world.clock.now += DAY_S
        await use(world, ANYBODY, 2)
        assert world.lists.version > version
        assert (world.lists.revision, heard) == (revision, [])
        await world.change(BlockAddress(ADDRESS))
        assert world.lists.revision > revision
        assert heard == [world.lists.version]
        leave()


@async_test
async def test_counts_of_other_days_are_removed_little_by_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TICK_S", 1_000)
    today = NOW_S // DAY_S
    async with acl_world(tmp_path, CURATING, is_started=False) as world:
        for start in range(0, MAX_MARKERS + 1, MAX_MARKERS):
            some = range(start, min(start + MAX_MARKERS, MAX_MARKERS + 1))
            await world.store.change_markers({f"acl/use/{today - 1}/a/{n:05}": b"1" for n in some})
        await world.store.change_markers({f"acl/use/{today}/a/{ADDRESS}": b"7", f"acl/use/{today + 1}/a/x": b"1"})
        await world.engine.start()
        assert world.lists.used == {ADDRESS: 7}
        left = []
        for _ in range(4):
            await world.engine._limits.tick()
            left.append(len(await world.kept(f"acl/use/{today - 1}/")))
        assert left == [1, 0, 0, 0]
        assert await world.kept("acl/use/") == [f"acl/use/{today}/a/{ADDRESS}"]


@async_test
async def test_counts_wait_for_a_store_that_fails(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        world.store.change_error = FULL
        await use(world, ANYBODY, 2, address="")
        await until(lambda: world.store.n_refused >= 2, "further attempts")
        world.store.change_error = None
        await world.until_kept("acl/use/", f"{NOW_S // DAY_S}/k/{KEYS[ANYBODY]}")


@async_test
async def test_counts_that_never_rest_hold_nothing_up(tmp_path: Path) -> None:
    async with acl_world(tmp_path, CURATING) as world:
        saved: list[None] = []

        async def count(changes: Any) -> None:
            if any(marker.startswith("acl/use/") for marker in changes):
                saved.append(None)
                await use(world, ANYBODY, 1)

        await use(world, ANYBODY, 1)
        world.store.on_change = count
        await world.change(BlockAddress(ELSEWHERE, "for now", NOW_S + 10))
        await until(lambda: len(saved) > 3, "counts on their way to the disk")
        world.clock.now += 10
        await until(lambda: not world.lists.blocked, "the end of the block")
        world.store.on_change = None


@async_test
async def test_many_blocks_end_at_once(tmp_path: Path) -> None:
    addresses = [f"2001:db8::{n:x}" for n in range(1, 2 * MAX_COMMANDS + 2)]
    async with acl_world(tmp_path, is_started=False) as world:
        await put_markers(world.store, ListName.BLOCKED_IPS, addresses, b'{"until_s":%d}' % (NOW_S + 5))
        await put_markers(world.store, ListName.BLOCKED_IPS, [ADDRESS])
        await world.engine.start()
        assert len(world.lists.blocked) == len(addresses) + 1
        world.clock.now += 5
        await until(lambda: world.lists.blocked == {ADDRESS}, "the end of the blocks")
        assert await world.kept(marker_prefix(ListName.BLOCKED_IPS)) == [marker_prefix(ListName.BLOCKED_IPS) + ADDRESS]


@async_test
async def test_blocks_end_once_the_store_takes_it(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world:
        await world.change(BlockAddress(ADDRESS, "for now", NOW_S + 5))
        world.store.change_error = FULL
        world.clock.now += 5
        await until(lambda: world.store.n_refused >= 2, "further attempts")
        assert world.lists.blocked == {ADDRESS}
        world.store.change_error = None
        await until(lambda: not world.lists.blocked, "the end of the block")


@async_test
async def test_a_block_that_is_made_longer_just_when_it_ends_goes_on(tmp_path: Path) -> None:
    async with acl_world(tmp_path, is_started=False) as world:
        shown = Board()
        shown.snapshot = Snapshot(world.rules)
        kept = Lists(world.store, shown, world.clock.now_s)
        await kept.change([BlockAddress(ADDRESS, "for now", NOW_S + 5)], by=BY)
        world.clock.now += 5
        world.store.hold_changes()
        blocking = asyncio.create_task(kept.change([BlockAddress(ADDRESS, "for good")], by=BY))
        await until(lambda: world.store.n_waiting == 1, "the longer block")
        ending = asyncio.create_task(kept.end_blocks())
        for _ in range(10):
            await asyncio.sleep(0)
        world.store.let_changes()
        await asyncio.wait_for(asyncio.gather(blocking, ending), DEADLINE_S)
        assert shown.snapshot.blocked == {ADDRESS}
        assert await kept.entry_of(ListName.BLOCKED_IPS, ADDRESS) == Entry(reason="for good", added_s=NOW_S + 5, by=BY)
        await kept.close()


@async_test
async def test_a_block_for_good_replaces_one_for_a_while(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world:
        await world.change(BlockAddress(ADDRESS, "", NOW_S + 5), BlockAddress(ELSEWHERE, "", NOW_S + 5))
        await world.change(BlockAddress(ADDRESS))
        world.clock.now += 5
        await until(lambda: world.lists.blocked == {ADDRESS}, "the end of the other block")


def test_lists_that_hide_are_kept() -> None:
    assert set(lists.HIDING_LISTS) <= set(KEPT_LISTS)
    assert {name for name in lists.HIDING_LISTS if name in EVENT_LISTS} == {
        ListName.BANNED_EVENTS,
        ListName.SPAM_EVENTS,
    }
