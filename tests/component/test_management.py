"""Management over HTTP, on real lists in a real store: who may call, what it changes, and what is left of it."""

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.component.acl_world import FaultyStore
from tests.component.api_world import ADMIN, HOST, OWNER, PEER, STRANGER, ApiWorld, api_world, own_rules
from tests.component.async_test import async_test
from tests.component.store_world import ids_of
from tests.factory import KEYS, NOW_S, fake_event, make_event
from tests.wsclient import DEADLINE_S, until

from orly.access.commands import AddKey
from orly.access.control import Use
from orly.access.levels import Mode
from orly.access.snapshot import ListName
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.relay.api import RPC_TYPE
from orly.relay.management import methods_in
from orly.store.base import Query, ReadScope, StoreError

SPAMMER = 3
LOG = "orly.relay.management"
ID = "ab" * 32
PUBLIC = ReadScope()


def audits(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOG]


async def seen(world: ApiWorld, **wanted: Any) -> list[str]:
    """The ids that the public sees."""
    return ids_of(await world.store.fetch(Query(filters=(Filter(**wanted),), scope=PUBLIC)))


def config_event(*, at: int = NOW_S) -> EncodedEvent:
    tags = [("d", "curating-config"), ("daily_limit", "7"), ("kind", "1"), ("kind_range", "5-9"), ("kind", "30078")]
    return make_event(OWNER, 30_078, at, [*tags, ("kind_category", "social")])


# Who may call


@pytest.mark.parametrize("mode", Mode)
def test_owners_and_admins_manage_in_every_mode(tmp_path: Path, mode: Mode) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path, own_rules(mode)) as world:
            for key in (OWNER, ADMIN):
                assert await world.call("supportedmethods", key=key) == methods_in(mode)
            reply = await world.managed("supportedmethods", key=STRANGER)
            assert reply.status == 403
            assert reply.error.startswith("this needs the level admin")

    main()


@pytest.mark.parametrize("path", ["/", "/api/nip86"])
@pytest.mark.parametrize(
    "content_type", [RPC_TYPE, f"{RPC_TYPE}; charset=utf-8", "Application/Nostr+JSON+RPC", "application/json"]
)
def test_the_type_of_a_call(tmp_path: Path, path: str, content_type: str) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path) as world:
            body = b'{"method":"listallowedkinds","params":[]}'
            reply = await world.signed(OWNER, "POST", path, body, content_type=content_type)
            if path == "/" and content_type == "application/json":
                assert reply.status == 415
                assert RPC_TYPE in reply.error
            else:
                assert (reply.status, reply.json) == (200, {"result": []})
                assert reply.headers["content-type"] == "application/json"
            assert reply.headers["access-control-allow-origin"] == "*"
            assert reply.headers["cache-control"] == "no-store"
            assert (await world.signed(OWNER, "POST", path, body, content_type="text/plain")).status == 415
            assert (await world.signed(OWNER, "POST", path, body)).status == 415

    main()


@async_test
async def test_the_page_of_the_relay_is_where_it_was(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        assert (await world.ask("GET", "/", headers={"Accept": "application/nostr+json"})).json["name"] == "Test relay"
        assert b"<html" in (await world.ask("GET", "/")).body
        assert (await world.ask("DELETE", "/")).status == 405


@pytest.mark.parametrize("pieces", [[b"x" * 65_537], [b"x" * 40_000, b"x" * 40_000]])
def test_a_call_that_is_too_large(tmp_path: Path, pieces: list[bytes]) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path) as world:
            reply = await world.ask("POST", "/", pieces=pieces, headers={"Content-Type": RPC_TYPE})
            assert (reply.status, reply.error) == (413, "the body has more than 65536 bytes")
            headers = {"Content-Type": RPC_TYPE, "Content-Length": "65537"}
            assert (await world.ask("POST", "/", pieces=[None], headers=headers)).status == 413
            body = b'{"method":"supportedmethods"}'.ljust(65_536)
            assert (await world.signed(OWNER, "POST", "/", body, content_type=RPC_TYPE)).status == 200

    main()


# The lists


@pytest.mark.parametrize(
    ("mode", "put", "take", "show", "field"),
    [
        (Mode.NONE, "banpubkey", "unbanpubkey", "listbannedpubkeys", "pubkey"),
        (Mode.FOLLOWS, "allowpubkey", "unallowpubkey", "listallowedpubkeys", "pubkey"),
        (Mode.MANAGED, "allowpubkey", "unallowpubkey", "listallowedpubkeys", "pubkey"),
        (Mode.MANAGED, "banevent", "unbanevent", "listbannedevents", "id"),
        (Mode.CURATING, "allowevent", "unallowevent", "listallowedevents", "id"),
        (Mode.CURATING, "trustpubkey", "untrustpubkey", "listtrustedpubkeys", "pubkey"),
        (Mode.CURATING, "blacklistpubkey", "unblacklistpubkey", "listblacklistedpubkeys", "pubkey"),
    ],
)
def test_a_list_of_keys(tmp_path: Path, mode: Mode, put: str, take: str, show: str, field: str) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path, own_rules(mode)) as world:
            assert await world.call(put, KEYS[SPAMMER], "for a reason") is True
            entry = {field: KEYS[SPAMMER], "reason": "for a reason", "added": world.clock.now}
            note = {"note": "for a reason"} if show == "listtrustedpubkeys" else {}
            assert await world.call(show) == [entry | note]
            assert await world.call(put, ID) is True
            assert [each["reason"] for each in await world.call(show)] == ["", "for a reason"]
            assert await world.call(take, KEYS[SPAMMER], "no more") is True
            assert await world.call(take, KEYS[SPAMMER]) is True
            assert [each[field] for each in await world.call(show)] == [ID]

    main()


@async_test
async def test_opposite_lists(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        await world.call("allowpubkey", KEYS[SPAMMER])
        await world.call("banpubkey", KEYS[SPAMMER])
        assert await world.call("listallowedpubkeys") == []
        await world.call("allowpubkey", KEYS[SPAMMER])
        assert await world.call("listbannedpubkeys") == []


@async_test
async def test_a_long_list_is_told_whole(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        ids = [fake_event(created_at=n).event.id for n in range(2500)]
        commands = [AddKey(ListName.BANNED_EVENTS, bytes.fromhex(event_id)) for event_id in ids]
        for start in range(0, len(commands), 400):
            await world.engine.change(commands[start : start + 400], by="")
        assert [each["id"] for each in await world.call("listbannedevents")] == sorted(ids)


@async_test
async def test_a_ban_hides_and_outlives_the_process(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        bad, good = make_event(SPAMMER), make_event(STRANGER)
        await world.store.save([bad, good])
        assert await world.call("banpubkey", KEYS[SPAMMER], "spam", key=ADMIN) is True
        assert await seen(world) == [good.event.id]
        banned = await world.call("listbannedpubkeys")
        await world.restart()
        assert await world.call("listbannedpubkeys") == banned
        assert [each["reason"] for each in banned] == ["spam"]
        assert await seen(world) == [good.event.id]
        reply = await world.managed("supportedmethods", key=SPAMMER)
        assert (reply.status, reply.error) == (403, "the key you authenticated with is banned on this relay")
        await world.call("unbanpubkey", KEYS[SPAMMER])
        async with asyncio.timeout(DEADLINE_S):  # one that takes long goes on after the answer
            while sorted(await seen(world)) != sorted([bad.event.id, good.event.id]):
                await world.call("supportedmethods")


@async_test
async def test_owners_and_admins_cannot_be_banned(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        assert "owner's (ORLY_OWNERS)" in await world.fails("banpubkey", KEYS[OWNER], key=ADMIN)
        assert "admin's (ORLY_ADMINS)" in await world.fails("banpubkey", KEYS[ADMIN])
        assert await world.call("listbannedpubkeys") == []


@async_test
async def test_kinds(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        assert await world.call("disallowkind", 4) is True
        assert await world.call("listdisallowedkinds") == [4]
        assert await world.call("allowkind", 7) is True
        assert await world.call("allowkind", 1) is True
        assert await world.call("listallowedkinds") == [1, 7]
        await world.call("disallowkind", 7)
        assert (await world.call("listallowedkinds"), await world.call("listdisallowedkinds")) == ([1], [4, 7])


@async_test
async def test_addresses(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        await world.call("blockip", "::ffff:198.51.100.9", "noise")
        entry = {"ip": "198.51.100.9", "reason": "noise", "expires_at": 0, "added": world.clock.now}
        assert await world.call("listblockedips") == [entry]
        role = f"http://{HOST}/api/role"
        reply = await world.signed(STRANGER, "GET", "/api/role", url=role, peer="198.51.100.9")
        assert (reply.status, reply.error) == (403, "your address is blocked on this relay")
        assert (await world.signed(ADMIN, "GET", "/api/role", peer="198.51.100.9")).json == {"role": "admin"}
        await world.call("unblockip", "198.51.100.9")
        assert (await world.signed(STRANGER, "GET", "/api/role", peer="198.51.100.9")).json == {"role": "read"}


@async_test
async def test_what_the_relay_says_of_itself(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        for method, field in (("name", "name"), ("description", "description"), ("icon", "icon")):
            await world.call(f"changerelay{method}", f"new {field}")
        snapshot = world.engine.snapshot
        assert snapshot is not None
        assert snapshot.info == {"name": "new name", "description": "new description", "icon": "new icon"}
        await world.call("changerelayname", "")
        assert "name" not in snapshot.info


# Events


@async_test
async def test_what_was_reported(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        ids = [fake_event(created_at=n).event.id for n in range(6)]
        old = fake_event(2, 1984, NOW_S, [("e", ids[0], "spam"), ("p", KEYS[SPAMMER])], "so it is")
        new = fake_event(
            2, 1984, NOW_S + 1, [("e", ids[0], "nudity"), ("e", ids[1]), ("e", "x"), ("e", ids[2], "spam")]
        )
        other = fake_event(2, 1, NOW_S, [("e", ids[3], "spam")])
        of_banned = fake_event(SPAMMER, 1984, NOW_S, [("e", ids[4], "spam")])
        long = fake_event(2, 1984, NOW_S - 1, [("e", ids[5], "other")], "x" * 600)
        await world.store.save([old, new, other, of_banned, long])
        await world.call("banpubkey", KEYS[SPAMMER])
        await world.call("banevent", ids[1])
        await world.call("allowevent", ids[2])
        assert await world.call("listeventsneedingmoderation") == [
            {"id": ids[0], "reason": "nudity"},
            {"id": ids[5], "reason": ("other: " + "x" * 600)[:500]},
        ]


@async_test
async def test_deleting_an_event(tmp_path: Path) -> None:
    async with api_world(tmp_path, own_rules(Mode.NONE)) as world:
        event = make_event(SPAMMER)
        await world.store.save([event])
        await world.call("allowevent", event.event.id)
        for _ in range(2):
            assert await world.call("deleteevent", event.event.id, key=ADMIN) is True
        assert await world.store.count(Query(filters=(Filter(),))) == 0
        banned = {"id": event.event.id, "reason": "deleted", "added": world.clock.now - 1}
        assert await world.call("listbannedevents") == [banned]


@async_test
async def test_a_deleted_event_does_not_come_back(tmp_path: Path) -> None:
    async with api_world(tmp_path, own_rules(Mode.NONE)) as world:
        stored, unknown = make_event(SPAMMER), make_event(OWNER)
        await world.store.save([stored])
        for event in (stored, unknown):
            await world.call("deleteevent", event.event.id)
        body = stored.raw + b"\n" + unknown.raw
        reply = await world.signed(OWNER, "POST", "/api/import", body)
        assert (reply.json["stored"], reply.json["refused"]) == (0, 2)
        assert await world.store.count(Query(filters=(Filter(),))) == 0
        await world.call("unbanevent", stored.event.id)
        assert (await world.signed(ADMIN, "POST", "/api/import", body)).json["stored"] == 1
        assert await seen(world) == [stored.event.id]


@async_test
async def test_deleting_leaves_the_reason_of_a_ban(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        event = make_event(SPAMMER)
        await world.store.save([event])
        await world.call("banevent", event.event.id, "ads")
        await world.call("deleteevent", event.event.id)
        assert [each["reason"] for each in await world.call("listbannedevents")] == ["ads"]
        assert await world.store.count(Query(filters=(Filter(),))) == 0


@async_test
async def test_an_event_that_cannot_be_banned_is_not_deleted(tmp_path: Path) -> None:
    async with api_world(tmp_path, wrap=FaultyStore) as world:
        await world.store.save([make_event(SPAMMER)])
        assert isinstance(world.store, FaultyStore)

        async def fill(changes: Mapping[str, bytes | None]) -> None:
            if any(key.startswith("acl/list/") for key in changes):
                raise StoreError("the disk is full")

        world.store.on_change = fill
        assert "the disk is full" in await world.fails("deleteevent", make_event(SPAMMER).event.id)
        assert await world.store.count(Query(filters=(Filter(),))) == 1


@async_test
async def test_the_events_of_a_key(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        events = [fake_event(SPAMMER, 1, NOW_S - n) for n in range(700)]
        await world.store.save([*events, fake_event(STRANGER), fake_event(SPAMMER, 1059, NOW_S - 1000)])
        await world.call("banpubkey", KEYS[SPAMMER])
        found = await world.call("geteventsforpubkey", KEYS[SPAMMER])
        assert found["total"] == 701
        assert found["events"] == [json.loads(event.raw) for event in events[:100]]
        found = await world.call("geteventsforpubkey", KEYS[SPAMMER], 500, 650)
        assert [each["id"] for each in found["events"][:-1]] == [event.event.id for event in events[650:]]
        assert found["events"][-1]["kind"] == 1059
        assert (await world.call("geteventsforpubkey", KEYS[SPAMMER], 1, 701))["events"] == []
        assert "params[1] must be a whole number from 1 to 500" in await world.fails(
            "geteventsforpubkey", KEYS[SPAMMER], 501
        )


@async_test
async def test_deleting_what_a_banned_key_has(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        await world.store.save([fake_event(SPAMMER, 1, n) for n in range(1200)])
        await world.store.save([fake_event(STRANGER)])
        assert "its events stay" in await world.fails("deleteeventsforpubkey", KEYS[SPAMMER])
        await world.call("banpubkey", KEYS[SPAMMER])
        assert await world.call("deleteeventsforpubkey", KEYS[SPAMMER]) == 1200
        assert await world.call("deleteeventsforpubkey", KEYS[SPAMMER]) == 0
        assert await world.store.count(Query(filters=(Filter(),))) == 1


@pytest.mark.parametrize("mode", [Mode.MANAGED, Mode.CURATING])
def test_a_blacklist_counts_in_its_mode(tmp_path: Path, mode: Mode) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path, own_rules(mode)) as world:
            await world.store.save([fake_event(SPAMMER)])
            blacklisting = AddKey(ListName.BLACKLISTED_PUBKEYS, bytes.fromhex(KEYS[SPAMMER]))
            await world.engine.change([blacklisting], by="")
            if mode is Mode.CURATING:
                assert await world.call("deleteeventsforpubkey", KEYS[SPAMMER]) == 1
            else:
                assert "banned-pubkeys; its events stay" in await world.fails("deleteeventsforpubkey", KEYS[SPAMMER])

    main()


@async_test
async def test_the_events_of_who_runs_the_relay_stay(tmp_path: Path) -> None:
    """Somebody who was banned may have become an owner."""
    async with api_world(tmp_path) as world:
        snapshot = world.engine.snapshot
        assert snapshot is not None
        snapshot.keys[ListName.BANNED_PUBKEYS].add(bytes.fromhex(KEYS[OWNER]))
        await world.store.save([fake_event(OWNER)])
        assert "owners and admins are not deleted" in await world.fails("deleteeventsforpubkey", KEYS[OWNER])


# Curating


@async_test
async def test_spam(tmp_path: Path) -> None:
    async with api_world(tmp_path, own_rules(Mode.CURATING)) as world:
        event = make_event(SPAMMER)
        await world.store.save([event])
        await world.call("markspam", event.event.id, KEYS[SPAMMER], "ads")
        entry = {"event_id": event.event.id, "pubkey": KEYS[SPAMMER], "reason": "ads", "added": world.clock.now}
        assert await world.call("listspamevents") == [entry]
        assert await seen(world) == []
        await world.call("unmarkspam", event.event.id)
        assert await seen(world) == [event.event.id]
        for params in ([ID], [ID, ""], [ID, None, None]):
            await world.call("markspam", *params)
            assert [(each["pubkey"], each["reason"]) for each in await world.call("listspamevents")] == [("", "")]


@async_test
async def test_the_configuration(tmp_path: Path) -> None:
    async with api_world(tmp_path, own_rules(Mode.CURATING)) as world:
        assert await world.call("isconfigured") is False
        unset = await world.call("getcuratingconfig")
        assert (unset["is_configured"], unset["daily_limit"], unset["categories"]) == (False, 50, [])
        await world.store.save([config_event()])
        await until(lambda: world.engine.snapshot is not None and world.engine.snapshot.curating, "the configuration")
        assert await world.call("isconfigured") is True
        assert await world.call("getcuratingconfig") == {
            "is_configured": True,
            "daily_limit": 7,
            "ip_daily_limit": 500,
            "first_ban_hours": 1,
            "second_ban_hours": 168,
            "kind_categories": ["social"],
            "allowed_kinds": [1, 30_078],
            "allowed_ranges": ["5-9"],
            "categories": ["social"],
            "custom_kinds": [1, 30_078],
            "kind_ranges": ["5-9"],
            "problems": [],
        }


@async_test
async def test_configurations_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    def config(key: int, age_s: int, limit: str) -> EncodedEvent:
        return make_event(key, 30_078, NOW_S - age_s, [("d", "curating-config"), ("daily_limit", limit)])

    older, bad, other = config(ADMIN, 3, "-1"), config(OWNER, 2, "2o"), config(STRANGER, 1, "3o")
    async with api_world(tmp_path, own_rules(Mode.CURATING)) as world:
        await world.store.save([older, bad, other])
        told = await world.call("getcuratingconfig")
        assert (told["is_configured"], told["problems"]) == (
            False,
            [
                f"event {bad.event.id} of {KEYS[OWNER]}: daily_limit must be a whole number, not '2o'",
                f"event {older.event.id} of {KEYS[ADMIN]}: daily_limit must be a whole number, not '-1'",
            ],
        )
        await world.store.save([config(ADMIN, 1, "9")])
        assert (await world.call("getcuratingconfig"))["problems"] == []


@async_test
async def test_unclassified_users(tmp_path: Path) -> None:
    async with api_world(tmp_path, own_rules(Mode.CURATING)) as world:
        keys = [bytes.fromhex(key) for key in KEYS]
        counts = {2: 1, 3: 5, 4: 3, 5: 9, 6: 9}
        await world.engine.used([Use(keys[n], "198.51.100.9", count) for n, count in counts.items()])
        await world.call("trustpubkey", KEYS[5])
        await world.call("blacklistpubkey", KEYS[6])
        most_first = [{"pubkey": KEYS[n], "events": counts[n]} for n in (3, 4, 2)]
        assert await world.call("listunclassifiedusers") == most_first
        assert await world.call("listunclassifiedusers", 2) == most_first[:2]
        world.clock.now += 24 * 60 * 60
        assert await world.call("listunclassifiedusers") == []


# The log


@async_test
async def test_every_call_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG)
    async with api_world(tmp_path, trusted_proxies=["192.0.2.0/24"]) as world:
        await world.call("banpubkey", KEYS[SPAMMER], "spam")
        await world.fails("banpubkey", KEYS[OWNER], key=ADMIN)
        await world.managed("supportedmethods", key=STRANGER)
        await world.ask("POST", "/", headers={"Content-Type": RPC_TYPE, "X-Forwarded-For": "198.51.100.9"})
    assert audits(caplog) == [
        f"audit: by={KEYS[OWNER]} level=owner from={PEER} method=banpubkey "
        f'params=["{KEYS[SPAMMER]}", "spam"] outcome=ok',
        f"audit: by={KEYS[ADMIN]} level=admin from={PEER} method=banpubkey "
        f'params=["{KEYS[OWNER]}"] outcome=error: this key is an owner\'s (ORLY_OWNERS) and cannot be banned',
        f"audit: by={KEYS[STRANGER]} level=read from={PEER} method=- params=[] "
        "outcome=error: this needs the level admin, and this key has read",
        "audit: by=- level=- from=198.51.100.9 method=- params=[] "
        "outcome=error: an Authorization header is needed: Nostr, then a signed event in base64 (NIP-98)",
    ]
