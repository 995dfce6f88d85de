"""Every case between every two sides that can be had here, at least one of them this project.

strfry is one of them where STRFRY_BIN names its program, a running relay where RELAY_URL does. The same cases run in
containers: see compose/interop.yml.
"""

import sys
from collections.abc import Iterator
from typing import Final

import pytest
from tests.interop.cases import CASES, Case, deleted_here_first, deletions, directions, replaced
from tests.interop.makers import local_makers
from tests.interop.remote_sides import RELAY_URL
from tests.interop.strfry_side import STRFRY_BIN
from tests.interop.world import Bed, World, three_ways

PAIRS: Final = (
    ("directory", "orly"),
    ("directory", "rust-nostr"),
    ("directory", "strfry"),
    ("appliance", "orly"),
    ("appliance", "strfry"),
    ("directory", "relay"),
    ("appliance", "relay"),
    ("rust-nostr", "orly"),
    ("strfry", "orly"),
    ("strfry", "appliance"),
)

BRIEF_PAIRS: Final = (("directory", "appliance"), ("appliance", "rust-nostr"), ("rust-nostr", "appliance"))
"""Pairs whose sides both do all of it with others."""

MEETINGS: Final = [
    *((pair, case) for pair in PAIRS for case in CASES),
    *((pair, case) for pair in BRIEF_PAIRS for case in (directions, deletions, replaced)),
]

TAKES_DELETED_BACK: Final = "rust-nostr"
"""As a client it stores again what a deletion in its own database names."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The sides, for all cases; every sync between them is listed at the end (pytest -s shows it)."""
    made = World(local_makers(tmp_path_factory.mktemp("sides")))
    yield made
    made.close()
    sys.stdout.write("\n" + "".join(f"{row.line()}\n" for row in made.rows))


def need(world: World, kind: str) -> None:
    """Skips a test that needs a program which is not here."""
    if not world.has(kind):
        pytest.skip(f"{RELAY_URL if kind == 'relay' else STRFRY_BIN} names none")


@pytest.mark.parametrize(
    ("pair", "case"), MEETINGS, ids=lambda each: "-".join(each) if isinstance(each, tuple) else each.__name__
)
def test_two_sides(world: World, pair: tuple[str, str], case: Case) -> None:
    client, server = pair
    for kind in pair:
        need(world, kind)
    if case is deleted_here_first and client == TAKES_DELETED_BACK:
        pytest.skip(f"{client} takes back what it deleted")
    with world.case():
        case(Bed(world, case.__name__, world.side(client), world.side(server)))


@pytest.mark.parametrize("client", ["strfry", "appliance"])
def test_three_sides(world: World, client: str) -> None:
    need(world, client)
    others = ("orly", "rust-nostr") if client == "appliance" else ("orly", "appliance")
    with world.case():
        three_ways(world, client, others)
