"""Follow lists from other relays: which are asked, and what of their answers counts."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.component.async_test import async_test
from tests.component.fake_peer import FakeRelay, PeerSide, scripted_peer
from tests.component.sync_side import POLICY
from tests.factory import KEYS, NOW_S, make_event
from tests.wsclient import until

from orly.access.levels import Mode
from orly.access.snapshot import ListName, Rules
from orly.acl.engine import AclEngine
from orly.acl.fetch import FollowFetcher
from orly.intake.verify import Verifier
from orly.nostr.event import EncodedEvent
from orly.store.lmdb.store import LmdbStore
from orly.sync.ingest import Door

ADMIN, FRIEND, OTHER = 1, 3, 4
OWN = "ws://127.0.0.1:1/"


def follow_list(key: int, *followed: int, at: int = NOW_S) -> EncodedEvent:
    return make_event(key, kind=3, created_at=at, tags=[["p", KEYS[each]] for each in followed])


def relay_list(*urls: str, at: int = NOW_S) -> EncodedEvent:
    return make_event(ADMIN, kind=10_002, created_at=at, tags=[["r", url] for url in urls])


@asynccontextmanager
async def following(
    directory: Path, bootstrap: Sequence[str], *stored: EncodedEvent
) -> AsyncIterator[tuple[FollowFetcher, AclEngine]]:
    store = await LmdbStore.open(directory, max_bytes=1 << 26, now_s=lambda: NOW_S)
    await store.save(stored)
    admins = frozenset({bytes.fromhex(KEYS[ADMIN])})
    engine = AclEngine(store, Rules(mode=Mode.FOLLOWS, admins=admins), now_s=lambda: NOW_S)
    await engine.start()
    verifier = Verifier(share=False)
    fetcher = FollowFetcher(
        store,
        Door(store, POLICY, verifier, lambda: NOW_S),
        authors=admins,
        bootstrap=bootstrap,
        own_urls=[OWN],
        interval_s=3600,
    )
    try:
        yield fetcher, engine
    finally:
        await fetcher.close()
        await engine.aclose()
        verifier.close()
        await store.close()


def followed(engine: AclEngine) -> set[str]:
    assert engine.snapshot is not None
    return {key.hex() for key in engine.snapshot.keys[ListName.FOLLOWED_PUBKEYS]}


@async_test
async def test_bootstrap_relays_are_asked_and_what_they_have_takes_effect(tmp_path: Path) -> None:
    relay = FakeRelay([follow_list(ADMIN, FRIEND), relay_list("wss://elsewhere.invalid"), make_event(ADMIN)])
    async with scripted_peer(relay.serve) as url, following(tmp_path, [url, OWN]) as (fetcher, engine):
        assert await fetcher.round() == 2
        await until(lambda: followed(engine) == {KEYS[FRIEND]}, "the follow list to count")
        assert await fetcher.round() == 0, "the relay that is named now is asked, and is not there"
        assert len(relay.log) == 2, "a REQ and its CLOSE"


@async_test
async def test_the_relays_that_admins_name_are_asked(tmp_path: Path) -> None:
    named, bootstrap = FakeRelay([follow_list(ADMIN, OTHER, at=NOW_S + 1)]), FakeRelay([])
    async with scripted_peer(named.serve) as url, scripted_peer(bootstrap.serve) as unasked:
        stored = (follow_list(ADMIN, FRIEND), relay_list(url))
        async with following(tmp_path, [unasked], *stored) as (fetcher, engine):
            assert followed(engine) == {KEYS[FRIEND]}
            fetcher.start(first_s=0)
            await until(lambda: followed(engine) == {KEYS[OTHER]}, "the newer list to count")
            assert bootstrap.log == []


@async_test
async def test_forged_and_foreign_lists_change_nothing(tmp_path: Path) -> None:
    good = follow_list(ADMIN, FRIEND)
    forged = EncodedEvent(
        good.event,
        good.raw.replace(good.event.sig.encode(), make_event(OTHER).event.sig.encode()),
        good.id,
        good.pubkey,
        make_event(OTHER).sig,
    )

    class Relay(FakeRelay):
        """Sends what it likes."""

        async def on_req(self, peer: PeerSide, sub_id: str, filters: list[object]) -> None:
            for event in (forged, follow_list(OTHER, FRIEND)):
                await peer.send("EVENT", sub_id, json.loads(event.raw))
            await peer.send("EOSE", sub_id)

    async with scripted_peer(Relay([]).serve) as url, following(tmp_path, [url]) as (fetcher, engine):
        assert await fetcher.round() == 0
        assert followed(engine) == set()


@async_test
async def test_relays_that_are_not_there_are_passed_over(tmp_path: Path) -> None:
    relay = FakeRelay([follow_list(ADMIN, FRIEND)])
    async with (
        scripted_peer(relay.serve) as url,
        following(tmp_path, ["ws://127.0.0.1:9/", "wss://relay.invalid", url]) as (fetcher, engine),
    ):
        assert await fetcher.round() == 1
        await until(lambda: followed(engine) == {KEYS[FRIEND]}, "the follow list to count")
