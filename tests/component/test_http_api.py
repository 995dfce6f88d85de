"""The HTTP API: export and import, numbers, levels; large answers, slow clients, and those that leave."""

import asyncio
import json
import logging
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.component.api_world import (
    ADMIN,
    HOST,
    OWNER,
    STRANGER,
    ApiWorld,
    Exchange,
    Reply,
    allowing,
    api_world,
    header_of,
    own_rules,
)
from tests.component.async_test import Stretches, async_test
from tests.component.store_proxy import StoreProxy
from tests.factory import KEYS, NOW_S, delete_event, event_json, expiring_event, fake_event, gift_wrap, make_event
from tests.wsclient import DEADLINE_S, until

from orly.access.commands import AddKey, DisallowKind
from orly.access.levels import Mode
from orly.access.snapshot import ListName
from orly.nostr.event import EncodedEvent
from orly.nostr.filter import Filter
from orly.nostr.nip19 import parse_public_key
from orly.relay import api
from orly.relay.http_export import HIGH_BYTES, ExportReply, ExportRows
from orly.relay.http_import import MAX_SHOWN_PROBLEMS, SLICE_LINES
from orly.store.base import Query, QueryHandle, QuerySink, StoreError, StoreUnavailableError

OTHER = 3
NPUB_OF_1 = "npub1ccz8l9zpa47k6vz9gphftsrumpw80rjt3nhnefat4symjhrsnmjs38mnyd"


def ids(events: Sequence[EncodedEvent]) -> list[str]:
    """In the order of an answer."""
    return [event.event.id for event in sorted(events, key=lambda event: (-event.event.created_at, event.id))]


def exported(reply: Reply) -> list[str]:
    assert reply.status == 200, reply
    assert reply.is_whole
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.headers["cache-control"] == "no-store"
    return [line["id"] for line in reply.lines]


def file_name(reply: Reply) -> str:
    return reply.headers["content-disposition"].removeprefix('attachment; filename="').removesuffix('"')


async def import_(world: ApiWorld, body: bytes, key: int = OWNER, **others: Any) -> Reply:
    world.clock.now += 1
    return await world.signed(key, "POST", "/api/import", body, **others)


def lines_of(*events: EncodedEvent) -> bytes:
    return b"".join(event.raw + b"\n" for event in events)


# Export


class Filled:
    """Events of three keys, of which some are hidden or private."""

    def __init__(self) -> None:
        self.own = [make_event(STRANGER, 1, NOW_S - n) for n in range(3)]
        self.own_private = make_event(STRANGER, 4, NOW_S - 3, [("p", KEYS[OTHER])])
        self.own_banned = make_event(STRANGER, 1, NOW_S - 4, content="banned")
        self.others = [make_event(OTHER, 1, NOW_S - n) for n in range(4)]
        self.to_stranger = gift_wrap(KEYS[STRANGER], key=4, signed=True)
        self.visible = [*self.own, self.own_private, *self.others]
        self.all = [*self.visible, self.own_banned, self.to_stranger]

    async def save(self, world: ApiWorld) -> None:
        await world.store.save(self.all)
        await world.engine.change([AddKey(ListName.BANNED_EVENTS, self.own_banned.id)], by="")


@async_test
async def test_owners_and_admins_export_everything(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        filled = Filled()
        await filled.save(world)
        for key in (OWNER, ADMIN):
            reply = await world.signed(key, "GET", "/api/export")
            assert exported(reply) == ids(filled.all)
            assert file_name(reply) == "all-events-20231114T221320Z.jsonl"
            assert reply.headers["access-control-allow-origin"] == "*"
        assert reply.body == lines_of(*sorted(filled.all, key=lambda each: (-each.event.created_at, each.id)))


@async_test
async def test_others_export_their_own(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        filled = Filled()
        await filled.save(world)
        own = [*filled.own, filled.own_private]
        for target in ("/api/export", f"/api/export?pubkey={KEYS[STRANGER]}", f"/api/export?pubkey={KEYS[2].upper()}"):
            reply = await world.signed(STRANGER, "GET", target)
            assert exported(reply) == ids(own)
            assert file_name(reply).startswith("my-events-2023")
        for target in (f"/api/export?pubkey={KEYS[OTHER]}", f"/api/export?pubkey={KEYS[STRANGER]}&pubkey={KEYS[1]}"):
            reply = await world.signed(STRANGER, "GET", target)
            assert (reply.status, reply.error) == (403, "only owners and admins may export the events of others")
        assert (await world.ask("GET", "/api/export")).status == 401


@async_test
async def test_an_export_of_some_keys(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        filled = Filled()
        await filled.save(world)
        by_admin = make_event(ADMIN)
        await world.store.save([by_admin])
        reply = await world.signed(OWNER, "GET", f"/api/export?pubkey={KEYS[OTHER]}&pubkey={NPUB_OF_1}")
        assert exported(reply) == ids([*filled.others, by_admin])
        assert file_name(reply).startswith("filtered-events-2023")
        body = json.dumps({"pubkeys": [KEYS[OTHER], NPUB_OF_1]}).encode()
        assert exported(await world.signed(OWNER, "POST", "/api/export", body)) == ids([*filled.others, by_admin])
        assert exported(await world.signed(OWNER, "POST", "/api/export", b'{"pubkeys":[]}')) == ids(
            [*filled.all, by_admin]
        )
        reply = await world.signed(ADMIN, "GET", f"/api/export?pubkey={KEYS[ADMIN]}")
        assert exported(reply) == [by_admin.event.id]
        assert file_name(reply).startswith("my-events-2023")


@async_test
async def test_an_export_of_what_is_no_key(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        for target in ("/api/export?pubkey=", "/api/export?pubkey=abc", "/api/export?pubkey=nsec1abc"):
            reply = await world.signed(OWNER, "GET", target)
            assert reply.status == 400
            assert "a pubkey cannot be read" in reply.error
        for body in (b"[]", b"{", b'{"pubkeys":"ab"}', b'{"pubkeys":[1]}', b"\xff", b"[" * 5000):
            reply = await world.signed(OWNER, "POST", "/api/export", body)
            assert (reply.status, "the body must be" in reply.error) == (400, True)
        many = json.dumps({"pubkeys": [KEYS[1]] * 10_001}).encode()
        assert "the maximum is 10000" in (await world.signed(OWNER, "POST", "/api/export", many)).error
        assert (await world.signed(OWNER, "POST", "/api/export", b" " * (1024 * 1024 + 1))).status == 413


@async_test
async def test_many_keys_keep_nobody_waiting(tmp_path: Path) -> None:
    many = json.dumps({"pubkeys": [NPUB_OF_1] * api.MAX_KEYS}).encode()
    async with api_world(tmp_path) as world:
        with pytest.MonkeyPatch.context() as patch:
            decoded = Stretches(parse_public_key)
            patch.setattr(api, "parse_public_key", decoded)
            reply = await world.signed(STRANGER, "POST", "/api/export", many)
            assert (reply.status, reply.error) == (403, "only owners and admins may export the events of others")
            assert decoded.n_all == 0
            assert exported(await world.signed(OWNER, "POST", "/api/export", many)) == []
            assert decoded.n_all == api.MAX_KEYS
            assert decoded.n_most <= 100


@async_test
async def test_an_empty_export(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        reply = await world.signed(STRANGER, "GET", "/api/export")
        assert (exported(reply), reply.body) == ([], b"")
        reply = await world.signed(OWNER, "HEAD", "/api/export")
        assert (reply.status, reply.body) == (200, b"")
        assert file_name(reply).startswith("all-events-")
        assert world.store.queries == world.store.queries[:1]  # a HEAD asks the store nothing


class Watched(StoreProxy):
    """Knows how much of an answer was handed over, and which queries are under way.

    Attributes:
        handed_bytes: Of events.
        running: Queries that are neither over nor cancelled.
        fail_after_bytes: Then the query fails.
    """

    handed_bytes = 0
    running = 0
    fail_after_bytes: int | None = None

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        self.running += 1
        return _WatchedQuery(self, query, sink)


class _WatchedQuery:
    def __init__(self, store: Watched, query: Query, sink: QuerySink) -> None:
        self._store = store
        self._sink = sink
        self._is_over = False
        self._inner = store.inner.query(query, self)

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._store.running -= 1

    def rows(self, events: Sequence[bytes]) -> bool:
        self._store.handed_bytes += sum(map(len, events))
        goes_on = self._sink.rows(events)
        limit = self._store.fail_after_bytes
        if limit is not None and self._store.handed_bytes > limit:
            self._end()
            asyncio.get_running_loop().call_soon(self._sink.failed, StoreError("the disk is gone"))
            return False
        return goes_on

    def done(self, through_serial: int) -> None:
        self._end()
        self._sink.done(through_serial)

    def failed(self, error: StoreError) -> None:
        self._end()
        self._sink.failed(error)

    def resume(self) -> None:
        if not self._is_over:
            self._inner.resume()

    def cancel(self) -> None:
        self._end()
        self._inner.cancel()


MANY = [fake_event(n % 3, 1, NOW_S - n, content="x" * 2000) for n in range(2000)]
"""Some 4.5 MB."""


async def begin_export(world: ApiWorld, **others: Any) -> tuple[Exchange, asyncio.Task[None], Watched]:
    store = world.store
    assert isinstance(store, Watched)
    await store.save(MANY)
    event = allowing(OWNER, "GET", f"http://{HOST}/api/export", None, world.clock.now)
    exchange, task = world.begin("GET", "/api/export", headers={"Authorization": header_of(event)}, **others)
    return exchange, task, store


@async_test
async def test_a_slow_reader_holds_the_query_back(tmp_path: Path) -> None:
    async with api_world(tmp_path, wrap=Watched) as world:
        exchange, task, store = await begin_export(world, takes=0)
        bound = 3 * HIGH_BYTES
        await until(lambda: store.handed_bytes >= HIGH_BYTES, "the first events")
        while not task.done():
            assert store.handed_bytes - exchange.taken < bound
            exchange.reads.set()
            taken = exchange.taken
            await until(lambda taken=taken: exchange.taken > taken or task.done(), "a piece")  # type: ignore[misc]
            exchange.reads.clear()
        assert exported(exchange.reply) == ids(MANY)
        assert exchange.taken > 10 * HIGH_BYTES
        assert store.running == 0


@async_test
async def test_a_client_that_leaves_ends_the_query(tmp_path: Path) -> None:
    async with api_world(tmp_path, wrap=Watched) as world:
        exchange, task, store = await begin_export(world, takes=2)
        await until(lambda: exchange.taken, "the first piece")
        assert store.running == 1
        exchange.gone.set()
        async with asyncio.timeout(DEADLINE_S):
            await task
        assert store.running == 0
        assert not exchange.reply.is_whole


class Silent(StoreProxy):
    """A store whose queries find nothing for ever.

    Attributes:
        cancelled: How many were ended.
    """

    cancelled = 0

    def query(self, query: Query, sink: QuerySink) -> QueryHandle:
        self.queries.append(query)
        return self

    def resume(self) -> None:
        raise AssertionError("nothing was held back")

    def cancel(self) -> None:
        self.cancelled += 1


@async_test
async def test_a_client_that_leaves_before_anything_was_found(tmp_path: Path) -> None:
    async with api_world(tmp_path, own_rules(Mode.NONE), wrap=Silent) as world:
        store = world.store
        assert isinstance(store, Silent)
        event = allowing(STRANGER, "GET", f"http://{HOST}/api/export", None, world.clock.now)
        exchange, task = world.begin("GET", "/api/export", headers={"Authorization": header_of(event)})
        await until(lambda: store.queries, "the query")
        exchange.gone.set()
        async with asyncio.timeout(DEADLINE_S):
            await task
        assert store.cancelled == 1
        assert exchange.sent == []
        assert world.patience == [True, False]


@async_test
async def test_a_store_that_fails_before_the_answer(tmp_path: Path) -> None:
    async with api_world(tmp_path, wrap=Watched) as world:
        store = world.store
        assert isinstance(store, Watched)
        store.query_error = StoreUnavailableError("the database is away")
        await world.store.inner.close()
        reply = await world.signed(OWNER, "GET", "/api/export")
        assert reply.status == 503
        assert "closed" in reply.error


@async_test
async def test_a_store_that_fails_within_the_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with api_world(tmp_path, wrap=Watched) as world:
        assert isinstance(world.store, Watched)
        world.store.fail_after_bytes = 2 * HIGH_BYTES
        exchange, task, store = await begin_export(world)
        async with asyncio.timeout(DEADLINE_S):
            await task
        assert not exchange.reply.is_whole
        assert store.running == 0
        assert "an export was broken off: the disk is gone" in caplog.text


@async_test
async def test_a_reader_that_takes_nothing_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with api_world(tmp_path, wrap=Watched) as world:
        await world.store.save(MANY)
        assert isinstance(world.store, Watched)
        rows = ExportRows(world.store, Query(filters=(Filter(),)))
        exchange = Exchange([])
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
        reply = ExportReply(rows, {}, patience_s=0.01)
        async with asyncio.timeout(DEADLINE_S):
            await reply(scope, exchange.receive, exchange.send)  # type: ignore[arg-type]
        assert exchange.sent == []
        assert world.store.running == 0
        assert "its reader took nothing for 0.01 s" in caplog.text


@async_test
async def test_long_answers_may_take_their_time(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        assert (await world.ask("GET", "/api/export")).status == 401
        assert world.patience == [False]
        await world.signed(OWNER, "GET", "/api/export")
        await import_(world, b"")
        assert world.patience == [False, True, False, True, True, False]


# Import


@async_test
async def test_what_becomes_of_every_line(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        old = make_event(STRANGER, 1, 1000)
        protected = make_event(STRANGER, 1, NOW_S, [("-",)])
        ahead = make_event(STRANGER, 1, NOW_S + 10_000)
        there = make_event(STRANGER, 1, NOW_S - 1)
        newer, older = make_event(STRANGER, 0, NOW_S), make_event(STRANGER, 0, NOW_S - 1)
        deleted = make_event(STRANGER, 1, NOW_S - 2)
        banned_author, banned_event = make_event(OTHER), make_event(STRANGER, 1, NOW_S - 4)
        await world.store.save([there, newer, delete_event(deleted, key=STRANGER, signed=True)])
        await world.engine.change(
            [
                AddKey(ListName.BANNED_PUBKEYS, bytes.fromhex(KEYS[OTHER])),
                AddKey(ListName.BANNED_EVENTS, banned_event.id),
                DisallowKind(77),
            ],
            by="",
        )
        forged = event_json(make_event(STRANGER, 1, NOW_S - 5), sig=make_event(STRANGER).event.sig)
        lines = [
            old.raw,
            protected.raw,
            b"",
            ahead.raw,
            there.raw,
            old.raw,
            older.raw,
            deleted.raw,
            forged,
            banned_author.raw,
            banned_event.raw,
            b"garbage",
            make_event(STRANGER, 77).raw,
            make_event(STRANGER, 20_001).raw,
            make_event(STRANGER, 1, content="x" * 70_000).raw,
            expiring_event(NOW_S - 1, key=STRANGER, signed=True).raw,
            b'{"id":1}',
        ]
        reply = await import_(world, b"\xef\xbb\xbf" + b"\r\n".join(lines))
        assert reply.status == 200
        told = reply.json
        problems = told.pop("first_problems")
        assert told == {"stored": 3, "known": 3, "refused": 8, "unreadable": 2}
        assert len(problems) == MAX_SHOWN_PROBLEMS == 10
        assert problems[0] == "line 10: its author is banned on this relay"
        assert "line 9: the signature does not match" in problems
        assert "line 12: event is not valid JSON" in "\n".join(problems)
        stored = await world.signed(OWNER, "GET", f"/api/export?pubkey={KEYS[STRANGER]}")
        assert {old.event.id, protected.event.id, ahead.event.id} <= set(exported(stored))


@async_test
async def test_an_import_is_what_was_exported(tmp_path: Path) -> None:
    events = [make_event(n % 4, 1, NOW_S - n, content="y" * (n % 50)) for n in range(700)]
    async with api_world(tmp_path / "one") as one, api_world(tmp_path / "two") as two:
        await one.store.save(events)
        body = (await one.signed(OWNER, "GET", "/api/export")).body
        told = {"stored": 700, "known": 0, "refused": 0, "unreadable": 0, "first_problems": []}
        pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)]
        event = allowing(ADMIN, "POST", f"http://{HOST}/api/import", body, NOW_S)
        reply = await two.ask("POST", "/api/import", pieces=pieces, headers={"Authorization": header_of(event)})
        assert (reply.status, reply.json) == (200, told)
        assert (await two.signed(OWNER, "GET", "/api/export")).body == body
        assert (await import_(two, body)).json == told | {"stored": 0, "known": 700}
        assert max(map(len, two.store.saved)) <= 256 + SLICE_LINES


@async_test
async def test_owners_and_admins_import(tmp_path: Path) -> None:
    async with api_world(tmp_path, own_rules(Mode.NONE)) as world:
        reply = await import_(world, lines_of(make_event(STRANGER)), key=STRANGER)
        assert (reply.status, "needs the level admin" in reply.error) == (403, True)
        assert (await world.ask("POST", "/api/import", pieces=[None])).status == 401  # without waiting for the body
        for key in (OWNER, ADMIN):
            assert (await import_(world, lines_of(make_event(key)), key=key)).json["stored"] == 1


@async_test
async def test_an_import_does_not_break_the_configuration(tmp_path: Path) -> None:
    async with api_world(tmp_path, own_rules(Mode.CURATING)) as world:
        bad = make_event(ADMIN, 30_078, tags=[("d", "curating-config"), ("daily_limit", "2o")])
        told = (await import_(world, lines_of(bad))).json
        problem = "line 1: daily_limit must be a whole number, not '2o'"
        assert (told["stored"], told["refused"], told["first_problems"]) == (0, 1, [problem])


@async_test
async def test_a_wrong_hash_stores_nothing(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        body = lines_of(make_event(STRANGER))
        for signed, words in ((b"other", "nothing of it was stored"), (None, "payload tag is missing")):
            event = allowing(OWNER, "POST", f"http://{HOST}/api/import", signed, NOW_S)
            reply = await world.ask("POST", "/api/import", pieces=[body], headers={"Authorization": header_of(event)})
            assert (reply.status, words in reply.error) == (401, True)
            assert reply.headers["www-authenticate"] == "Nostr"
        assert world.store.saved == []
        event = allowing(OWNER, "POST", f"http://{HOST}/api/import", body, NOW_S)
        for stored in (1, None):
            reply = await world.ask("POST", "/api/import", pieces=[body], headers={"Authorization": header_of(event)})
            assert reply.json.get("stored") == stored  # the second time the event was used before


@async_test
async def test_an_upper_case_hash(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        body = lines_of(make_event(STRANGER))
        tags = [["payload", sha256(body).hexdigest().upper()]]
        event = allowing(OWNER, "POST", f"http://{HOST}/api/import", None, NOW_S, tags=tags)
        reply = await world.ask("POST", "/api/import", pieces=[body], headers={"Authorization": header_of(event)})
        assert reply.json["stored"] == 1


@async_test
async def test_an_import_that_is_too_large(tmp_path: Path) -> None:
    async with api_world(tmp_path, max_import_bytes=1000) as world:
        fits = b"\n" * 1000
        assert (await import_(world, fits)).status == 200
        reply = await import_(world, fits + b"\n")
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        said = {"Content-Length": "1001"}
        event = allowing(ADMIN, "POST", f"http://{HOST}/api/import", fits, world.clock.now)
        headers = {"Authorization": header_of(event), **said}
        assert (await world.ask("POST", "/api/import", pieces=[None], headers=headers)).status == 413


@async_test
async def test_a_body_on_the_disk(tmp_path: Path) -> None:
    spool_dir = tmp_path / "spool"
    async with api_world(tmp_path / "store", spool_dir=spool_dir) as world:
        body = b"\n" * (1024 * 1024 + 1) + lines_of(make_event(STRANGER))
        reply = await import_(world, body)
        assert (reply.status, "cannot be written: No such file" in reply.error) == (507, True)
        spool_dir.mkdir()
        reply = await import_(world, body + b"x")
        assert reply.json["stored"] == 1
        assert reply.json["first_problems"][0].startswith(f"line {1024 * 1024 + 3}: ")
        assert list(spool_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"--x", "multipart/form-data; boundary=x", "curl --data-binary @file"),
        (b"\x1f\x8b\x08\x00", "", "compressed with gzip: send what `zcat` makes of it"),
        (b"\x28\xb5\x2f\xfd\n", "", "compressed with zstd"),
    ],
)
def test_bodies_that_are_no_text(tmp_path: Path, body: bytes, content_type: str, words: str) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path) as world:
            reply = await import_(world, body, content_type=content_type)
            assert (reply.status, words in reply.error) == (415, True)

    main()


@async_test
async def test_any_other_type_is_taken_as_lines(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        for n, content_type in enumerate(["application/x-www-form-urlencoded", "application/x-ndjson", "text/plain"]):
            body = lines_of(make_event(STRANGER, 1, NOW_S - n))
            assert (await import_(world, body, content_type=content_type)).json["stored"] == 1


@async_test
async def test_one_import_at_a_time(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        world.store.hold_saves()
        event = allowing(OWNER, "POST", f"http://{HOST}/api/import", body := lines_of(make_event(STRANGER)), NOW_S)
        exchange, task = world.begin("POST", "/api/import", pieces=[body], headers={"Authorization": header_of(event)})
        await until(lambda: world.store.saved, "the first import")
        reply = await import_(world, lines_of(make_event(OTHER)))
        assert (reply.status, reply.error) == (409, "another import is under way")
        world.store.release()
        await task
        assert exchange.reply.json["stored"] == 1
        assert (await import_(world, lines_of(make_event(OTHER)))).json["stored"] == 1


@async_test
async def test_a_store_that_stops_taking_events(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        world.store.save_error = StoreError("the disk is full")
        events = [make_event(n % 4, 1, NOW_S - n) for n in range(700)]
        reply = await import_(world, lines_of(*events))
        assert reply.status == 503
        assert reply.error == "the store stopped taking events: the disk is full"
        assert reply.json["stored"] == 0
        assert len(world.store.saved) == 1
        world.store.save_error = None
        world.store.known_error = StoreError("not now")
        assert (await import_(world, lines_of(*events))).json["stored"] == 700


@async_test
async def test_a_client_that_leaves_within_the_body(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        body = lines_of(make_event(STRANGER))
        event = allowing(OWNER, "POST", f"http://{HOST}/api/import", body, NOW_S)
        exchange, task = world.begin(
            "POST", "/api/import", pieces=[body, None], headers={"Authorization": header_of(event)}
        )
        await until(lambda: exchange.pieces == [None], "the first piece")
        exchange.gone.set()
        async with asyncio.timeout(DEADLINE_S):
            await task
        assert world.store.saved == []
        assert (await import_(world, body)).json["stored"] == 1


@async_test
async def test_moves_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "orly.relay.api")
    async with api_world(tmp_path) as world:
        await import_(world, lines_of(make_event(STRANGER)) + b"x")
        await world.signed(OWNER, "GET", "/api/export")
        await world.signed(STRANGER, "GET", "/api/export")
    assert [record.getMessage() for record in caplog.records if record.name == "orly.relay.api"] == [
        f"audit: import by={KEYS[OWNER]} from=192.0.2.7 stored=1 known=0 refused=0 unreadable=1",
        f"audit: export by={KEYS[OWNER]} from=192.0.2.7 authors=all",
        f"audit: export by={KEYS[STRANGER]} from=192.0.2.7 authors=1",
    ]


# Everything else


@async_test
async def test_numbers(tmp_path: Path) -> None:
    async with api_world(tmp_path, own_rules(Mode.CURATING)) as world:
        filled = Filled()
        await filled.save(world)
        await world.call("trustpubkey", KEYS[STRANGER])
        await world.call("blockip", "198.51.100.9")
        await world.call("disallowkind", 7)
        snapshot = world.engine.snapshot
        assert snapshot is not None
        snapshot.used = {bytes(32): 3, b"\x01" * 32: 1, "198.51.100.9": 4}
        reply = await world.signed(ADMIN, "GET", "/api/stats")
        lists = dict.fromkeys((name.value for name in ListName), 0)
        lists |= {"trusted-pubkeys": 1, "blocked-ips": 1, "banned-events": 1, "disallowed-kinds": 1}
        assert reply.json == {
            "mode": "curating",
            "events": len(filled.all),
            "last_serial": len(filled.all),
            "lists": lists,
            "used_today": {"keys": 2, "addresses": 1},
            "uptime_s": 12,
            "connections": 3,
            "subscriptions": 4,
        }
        world.clock.now += 24 * 60 * 60
        reply = await world.signed(OWNER, "GET", "/api/stats")
        assert reply.json["used_today"] == {"keys": 0, "addresses": 0}
        assert (await world.signed(STRANGER, "GET", "/api/stats")).status == 403
        assert (await world.ask("GET", "/api/stats")).status == 401
        world.store.query_error = StoreError("the disk is gone")
        world.clock.now += 1
        reply = await world.signed(OWNER, "GET", "/api/stats")
        assert (reply.status, reply.error) == (503, "the disk is gone")


@async_test
async def test_permissions(tmp_path: Path) -> None:
    async with api_world(tmp_path) as world:
        await world.call("allowpubkey", KEYS[OTHER])
        for asker, asked, level in (
            (STRANGER, STRANGER, "read"),
            (OTHER, OTHER, "write"),
            (ADMIN, OTHER, "write"),
            (ADMIN, OWNER, "owner"),
            (OWNER, ADMIN, "admin"),
        ):
            reply = await world.signed(asker, "GET", f"/api/permissions/{KEYS[asked]}")
            assert reply.json == {"permission": level}
        reply = await world.signed(STRANGER, "GET", f"/api/permissions/{KEYS[OTHER]}")
        assert (reply.status, reply.error) == (403, "only owners and admins may ask about other keys")
        assert (await world.signed(OWNER, "GET", "/api/permissions/abc")).status == 400
        assert (await world.ask("GET", f"/api/permissions/{KEYS[OTHER]}")).status == 401
        assert (await world.signed(OWNER, "GET", "/api/permissions/")).status == 404
        assert (await world.signed(OWNER, "GET", f"/api/permissions/{KEYS[OTHER]}/x")).status == 404


@pytest.mark.parametrize("mode", Mode)
def test_the_mode_is_no_secret(tmp_path: Path, mode: Mode) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path, own_rules(mode)) as world:
            reply = await world.ask("GET", "/api/acl-mode")
            assert (reply.status, reply.json) == (200, {"acl_mode": mode.value})
            assert reply.headers["cache-control"] == "no-store"
            assert reply.headers["access-control-allow-origin"] == "*"

    main()


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/api/nip86", "POST, OPTIONS"),
        ("/api/export", "GET, POST, HEAD, OPTIONS"),
        ("/api/import", "POST, OPTIONS"),
        ("/api/stats", "GET, HEAD, OPTIONS"),
        ("/api/role", "GET, HEAD, OPTIONS"),
        ("/api/permissions/x", "GET, HEAD, OPTIONS"),
        ("/api/acl-mode", "GET, HEAD, OPTIONS"),
    ],
)
def test_methods_and_preflights(tmp_path: Path, path: str, methods: str) -> None:
    @async_test
    async def main() -> None:
        async with api_world(tmp_path) as world:
            reply = await world.ask("OPTIONS", path, headers={"Origin": "https://client.example"})
            assert (reply.status, reply.body) == (204, b"")
            assert reply.headers["access-control-allow-methods"] == methods
            assert reply.headers["access-control-allow-headers"] == "*, Authorization"
            assert reply.headers["access-control-allow-origin"] == "*"
            reply = await world.ask("DELETE", path)
            assert (reply.status, reply.headers["allow"]) == (405, methods)
            assert reply.error == f"use one of {methods}"
            assert reply.headers["access-control-allow-origin"] == "*"
            assert (await world.ask("GET", f"{path}/")).status == 404 or "permissions" in path

    main()
