"""Syncs that are hindered, and what only some sides can show: each case on sides of its own."""

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Final

import pytest
from tests.interop import wire
from tests.interop.cases import killed_half_way, many
from tests.interop.deck import DAY_S, Deck
from tests.interop.expected import JsonEvent
from tests.interop.makers import local_makers
from tests.interop.orly_sides import ApplianceSide, DirectorySide
from tests.interop.proxy import cutting
from tests.interop.sides import Direction, ReachableSide, Side
from tests.interop.strfry_side import STRFRY_BIN, StrfrySide
from tests.interop.world import Bed, World, transfer

DOWN, UP, BOTH = Direction.DOWN, Direction.UP, Direction.BOTH

FAILED: Final = 1
USAGE: Final = 2
INCOMPLETE: Final = 3
SETTLED_S: Final = 60.0
MIB: Final = 1024 * 1024


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Sides for one case."""
    made = World(local_makers(tmp_path_factory.mktemp("sides")))
    with made.case():
        yield made


def fresh(world: World, kind: str, **options: object) -> Side:
    """A new side, or a test that is skipped because there is none of the kind."""
    if not world.has(kind):
        pytest.skip(f"{STRFRY_BIN} does not name {kind}")
    return world.fresh(kind, **options)


def relay(world: World, kind: str, **options: object) -> ReachableSide:
    """A new side that is a relay."""
    side = fresh(world, kind, **options)
    assert isinstance(side, ReachableSide)
    return side


@pytest.mark.parametrize(("client", "server"), [("directory", "orly"), ("directory", "strfry"), ("strfry", "orly")])
def test_20_000_events_over_the_frame_limit(world: World, client: str, server: str) -> None:
    many(Bed(world, "many", fresh(world, client), relay(world, server)))


@pytest.mark.parametrize("peer", ["appliance", "strfry"])
def test_20_000_events_in_the_background(world: World, peer: str) -> None:
    """A peer in the settings gets and gives them as well."""
    target = relay(world, peer)
    source = relay(world, "orly", ORLY_SYNC_NEGENTROPY_PEERS=target.url, ORLY_SYNC_NEGENTROPY_INTERVAL="1s")
    events = Deck("background", world.now_s).notes(20_000)
    source.publish(events[:12_000])
    target.publish(events[8_000:])
    for side in (source, target):
        side.take(events)
        side.await_expected(within_s=SETTLED_S)


@pytest.mark.parametrize("direction", [DOWN, UP])
@pytest.mark.parametrize(
    ("client", "server"),
    [("directory", "orly"), ("directory", "strfry"), ("appliance", "orly"), ("strfry", "orly")],
)
def test_a_peer_killed_half_way(world: World, client: str, server: str, direction: Direction) -> None:
    """Nothing is lost by it: the next run goes on."""
    bed = Bed(world, "killed", fresh(world, client), relay(world, server))
    killed_half_way(bed, direction)


def test_a_client_killed_half_way(world: World) -> None:
    """What was fetched until then stays, and the next run fetches the rest."""
    target = relay(world, "orly")
    client = fresh(world, "directory")
    assert isinstance(client, DirectorySide)
    bed = Bed(world, "killed client", client, target)
    bed.given(server=bed.deck.notes(3000))
    running: list[subprocess.Popen[bytes]] = []

    def cut() -> None:
        running[0].kill()

    with cutting(target.url, after_bytes=900_000, cut=cut) as url:
        running.append(client.start_sync(url, DOWN))
        running[0].communicate(timeout=SETTLED_S)
    stored = client.stored()
    assert stored.items() <= target.expected().items()
    assert len(stored) < len(target.expected())
    bed.sync(DOWN, authors=None)
    bed.again(DOWN, authors=None)


@pytest.mark.parametrize("kind", ["orly", "appliance"])
@pytest.mark.parametrize("direction", [DOWN, UP, BOTH])
@pytest.mark.parametrize("peer", ["orly", "rust-nostr", "strfry"])
def test_background_sync(world: World, kind: str, direction: Direction, peer: str) -> None:
    """A peer in the settings is kept equal, in the direction set, and subscribers are told of what comes in."""
    target = relay(world, peer)
    source = relay(
        world,
        kind,
        ORLY_SYNC_NEGENTROPY_PEERS=target.url,
        ORLY_SYNC_NEGENTROPY_INTERVAL="1s",
        ORLY_SYNC_NEGENTROPY_DIRECTION=direction.value,
    )
    deck = Deck(f"background {kind} {direction} {peer}", world.now_s)
    with wire.opened(source.url) as subscriber:
        subscriber.send('["REQ","live",{"limit":0}]')
        assert wire.receive(subscriber) == ["EOSE", "live"]
        theirs, mine = deck.notes(40), deck.notes(40)
        target.publish(theirs)
        source.publish(mine)
        transfer(source, target, direction, {})
        for side in (source, target):
            side.await_expected(within_s=SETTLED_S)
        wanted = {event["id"] for event in (mine if direction is UP else [*mine, *theirs])}
        while wanted:
            message = wire.receive(subscriber)
            assert message[:2] == ["EVENT", "live"]
            wanted.remove(message[2]["id"])
    more = deck.notes(5)
    for side, events in ((target, more[:2]), (source, more[2:])):
        side.publish(events)
    transfer(source, target, direction, {})
    for side in (source, target):
        side.await_expected(within_s=SETTLED_S)


def private_events(deck: Deck) -> list[JsonEvent]:
    """A direct message and a gift wrap, for somebody who is not here."""
    to_nobody = [["p", "ab" * 32]]
    return [deck.event(kind=4, tags=to_nobody), deck.event(kind=1059, tags=to_nobody)]


@pytest.mark.parametrize("client", ["directory", "appliance", "rust-nostr", "strfry"])
def test_private_kinds_stay(world: World, client: str) -> None:
    """A stranger who syncs gets none, and what a client has of them does not leave it unless told to."""
    bed = Bed(world, "private", fresh(world, client), relay(world, "orly"))
    mine, theirs = private_events(bed.deck), private_events(bed.deck)
    bed.given(both=bed.deck.notes(20), server=[*theirs, *bed.deck.notes(5)])
    bed.sync(DOWN, authors=None)
    bed.again(DOWN, authors=None)
    if isinstance(bed.client, StrfrySide):
        held = bed.client.exported()
        assert not held.keys() & {event["id"] for event in theirs}
        return
    bed.given(client=mine)
    bed.sync(UP, authors=None)
    bed.again(UP, authors=None)


def test_an_expired_event_does_not_move(world: World) -> None:
    """From the second it expires on it is in no set."""
    target, client = relay(world, "orly"), fresh(world, "directory")
    bed = Bed(world, "expiry", client, target)
    expires_s = int(time.time()) + 2
    short, long = (bed.deck.event(tags=[["expiration", str(at_s)]]) for at_s in (expires_s, expires_s + 7200))
    bed.given(server=[short, long, *bed.deck.notes(5)])
    deadline_s = time.monotonic() + SETTLED_S
    while short["id"] in wire.read(target.url):
        assert time.monotonic() < deadline_s, "it did not expire"
        time.sleep(0.05)
    for side in (client, target):
        side.model.expire(expires_s)
    bed.sync(DOWN)
    bed.again(BOTH)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"server": "strfry", "negentropy": {"maxSyncEvents": "1000"}}, id="strfry-cap"),
        pytest.param({"server": "strfry", "negentropy": {"enabled": "false"}}, id="strfry-off"),
        pytest.param({"server": "orly", "ORLY_NEGENTROPY_MAX_ITEMS": "1000"}, id="orly-cap"),
        pytest.param({"server": "orly", "ORLY_NEGENTROPY_ENABLED": "false"}, id="orly-off"),
    ],
)
def test_a_peer_with_a_cap_or_without_negentropy(world: World, options: dict[str, object]) -> None:
    """Too many events for one set are reconciled in parts, and without negentropy they are paged."""
    kind, options = str(options["server"]), {name: value for name, value in options.items() if name != "server"}
    bed = Bed(world, "cap", fresh(world, "directory"), relay(world, kind, **options))
    bed.given(both=bed.deck.notes(2500), client=bed.deck.notes(200), server=bed.deck.notes(300))
    bed.sync(DOWN, kinds=[1])
    bed.sync(BOTH, kinds=[1])
    run = bed.attempt(BOTH, codes=(0,), kinds=[1])
    assert (run.fetched, run.sent) == (0, 0), run.output


@pytest.mark.parametrize(
    ("server", "frame_bytes"),
    [("orly", 2048), ("orly", 4 * MIB), ("orly", 0), ("strfry", 2048), ("strfry", 4 * MIB)],
)
def test_any_frame_size_will_do(world: World, server: str, frame_bytes: int) -> None:
    client = fresh(world, "directory", options=["--frame-size-limit", str(frame_bytes)])
    bed = Bed(world, "frames", client, relay(world, server))
    bed.given(both=bed.deck.notes(900), client=bed.deck.notes(150), server=bed.deck.notes(150))
    bed.sync(BOTH, authors=None)
    bed.again(BOTH, authors=None)


def refused_by_strfry(deck: Deck) -> list[JsonEvent]:
    """Events that this project takes, and strfry's own rules do not."""
    return [
        deck.event(tags=[["p", ""]]),
        deck.event(tags=[["t", "x" * 1025]]),
        deck.event(at_s=-4 * 366 * DAY_S),
        deck.event(content="DEL \x7f"),
    ]


def test_what_strfry_refuses_is_told_and_the_rest_arrives(world: World) -> None:
    bed = Bed(world, "refused", fresh(world, "directory"), relay(world, "strfry"))
    refused = refused_by_strfry(bed.deck)
    notes = bed.deck.notes(50)
    bed.client.publish([*refused, *notes])
    run = bed.attempt(UP, codes=(INCOMPLETE,), authors=None)
    bed.server.take(notes)
    bed.check(UP, run, {})
    assert run.sent == len(notes)
    assert str(len(refused)) in run.output


def test_strfry_ends_when_a_set_is_refused(world: World) -> None:
    """It does not split ranges: it exits, and nothing moved."""
    bed = Bed(world, "cap", fresh(world, "strfry"), relay(world, "orly", ORLY_NEGENTROPY_MAX_ITEMS="100"))
    bed.given(server=bed.deck.notes(200))
    refused = bed.attempt(BOTH, codes=(FAILED,))
    assert "blocked:" in refused.output
    bed.check(BOTH, refused, {})


@pytest.mark.parametrize("wanted", ["[]", '"kinds"', "{", '{"kinds":["1"]}', '{"ids":["short"]}'])
def test_a_wrong_filter_is_refused_before_anything_is_sent(world: World, wanted: str) -> None:
    client, target = fresh(world, "directory"), relay(world, "orly")
    assert isinstance(client, DirectorySide)
    code, said = client.refused(target.url, "--filter", wanted)
    assert code == USAGE
    assert "filter" in said


def test_strfry_relay_refuses_an_array_and_ours_says_why(world: World) -> None:
    """The old form of a filter gets an answer with the session's name: strfry waits for ever otherwise."""
    target = relay(world, "orly")
    with wire.opened(target.url) as connection:
        connection.send(json.dumps(["NEG-OPEN", "N", [{"kinds": [1]}], "6100000200"]))
        kind, name, reason = wire.receive(connection)[:3]
    assert (kind, name) == ("NEG-ERR", "N")
    assert reason.startswith("invalid:")


def test_the_service_is_killed_and_comes_back(world: World) -> None:
    """A sync through a service that dies fails; when it is back, the next one is complete."""
    service, target = relay(world, "appliance"), relay(world, "orly")
    assert isinstance(service, ApplianceSide)
    bed = Bed(world, "service", service, target)
    bed.given(server=bed.deck.notes(3000))
    with cutting(target.url, after_bytes=600_000, cut=service.kill_service) as url:
        bed.attempt(DOWN, url, codes=(FAILED,))
    bed.sync(DOWN)
    bed.again(DOWN)
