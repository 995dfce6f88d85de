"""What any two sides must do with each other. Each case is a function of a `Bed`, whose events nobody else has."""

from collections.abc import Callable
from typing import Any, Final

from tests.interop.deck import address
from tests.interop.proxy import cutting
from tests.interop.sides import SYNC_S, Direction, Restartable
from tests.interop.world import Bed

__all__ = ["CASES", "Case", "killed_half_way", "many"]

Case = Callable[[Bed], None]

DOWN, UP, BOTH = Direction.DOWN, Direction.UP, Direction.BOTH


def directions(bed: Bed) -> None:
    """Down changes only the client, up only the server, both makes them equal; then there is nothing left to do."""
    bed.given(both=bed.deck.notes(120), client=bed.deck.notes(40), server=bed.deck.notes(50))
    bed.sync(DOWN)
    bed.again(DOWN)
    bed.given(client=bed.deck.notes(30), server=bed.deck.notes(20))
    bed.sync(UP)
    bed.again(UP)
    bed.given(client=bed.deck.notes(30), server=bed.deck.notes(20))
    bed.sync(BOTH)
    bed.again(BOTH)


def empty_client(bed: Bed) -> None:
    """The client has nothing."""
    bed.given(server=bed.deck.notes(150))
    bed.sync(UP)
    bed.sync(BOTH)
    bed.again(BOTH)


def empty_server(bed: Bed) -> None:
    """The server has nothing."""
    bed.given(client=bed.deck.notes(150))
    bed.sync(DOWN)
    bed.sync(BOTH)
    bed.again(BOTH)


def both_empty(bed: Bed) -> None:
    """Nobody has anything."""
    bed.again(BOTH)


def disjoint(bed: Bed) -> None:
    """Nothing in common, and both sides beyond one list of ids."""
    bed.given(client=bed.deck.notes(300), server=bed.deck.notes(300))
    bed.sync(BOTH)
    bed.again(BOTH)


def filters(bed: Bed) -> None:
    """Nothing outside a filter moves, whichever it is."""
    deck = bed.deck
    for side in ("client", "server"):
        events = [*deck.notes(12), *deck.notes(9, kind=7), *deck.notes(9, tags=[["t", "wanted"]])]
        bed.given(**{side: events})
    ids = [event["id"] for event in bed.server.model.visible if event["pubkey"] in deck.authors][::4]
    bed.sync(BOTH, ids=ids)
    bed.sync(BOTH, authors=deck.authors[:1], until=deck.base_s + 20)
    bed.sync(BOTH, since=deck.base_s + 45, until=deck.base_s + 50)
    bed.sync(BOTH, kinds=[7])
    bed.sync(BOTH, since=deck.base_s + 50)
    tagged: dict[str, Any] = {"#t": ["wanted"]}
    bed.sync(BOTH, **tagged)
    bed.sync(BOTH)
    bed.again(BOTH)


def equal_times(bed: Bed) -> None:
    """Hundreds of events of one second, so that ids alone tell ranges apart."""
    deck = bed.deck
    same = [deck.event(author=number % 3, at_s=500) for number in range(330)]
    around = [deck.event(at_s=at_s) for at_s in (498, 499, 501, 502)]
    bed.given(both=[*same[:240], *around[:2]], client=same[240:290], server=[*same[290:], *around[2:]])
    bed.sync(DOWN)
    bed.sync(BOTH)
    bed.again(BOTH)


def deletions(bed: Bed) -> None:
    """Deletions between two runs reach the other side, and what was deleted does not come back."""
    deck = bed.deck
    notes = deck.notes(60)
    bed.given(both=notes)
    bed.again(BOTH)
    mine = [note for note in notes if note["pubkey"] == deck.authors[0]]
    bed.given(client=[deck.deletion(*mine[:4]), *deck.notes(5)], server=[deck.deletion(*mine[4:7]), *deck.notes(5)])
    bed.sync(BOTH)
    bed.again(BOTH)


def deleted_here_first(bed: Bed) -> None:
    """The client knows the deletion of what only the server has, and refuses it; the deletion goes up."""
    deck = bed.deck
    doomed = deck.notes(1)
    bed.given(server=[*doomed, *deck.notes(20)], client=[deck.deletion(*doomed), *deck.notes(20)])
    bed.sync(BOTH)
    bed.again(BOTH)


def replaced(bed: Bed) -> None:
    """New versions on both sides between two runs: the newest of each stays, on both."""
    deck = bed.deck
    profiles = [deck.event(author=author, kind=kind) for author in range(3) for kind in (0, 3, 10_002)]
    articles = [deck.event(kind=30_023, tags=[["d", f"article {number}"]]) for number in range(6)]
    bed.given(both=[*profiles, *articles, *deck.notes(30)])
    bed.again(BOTH)
    client = [deck.event(kind=0), deck.event(kind=30_023, tags=[["d", "article 1"]])]
    server = [deck.event(author=1, kind=0), deck.event(kind=30_023, tags=[["d", "article 2"]])]
    server.append(deck.event(kind=5, tags=[["a", address(articles[3])]], content=""))
    bed.given(client=[*client, *deck.notes(3)], server=[*server, *deck.notes(3)])
    bed.sync(BOTH)
    bed.again(BOTH)


def everything(bed: Bed) -> None:
    """No filter at all: what the other cases left behind, and more."""
    bed.given(both=bed.deck.mixed(60), client=bed.deck.notes(40), server=bed.deck.notes(40))
    bed.sync(BOTH, authors=None)
    bed.again(BOTH, authors=None)


def many(bed: Bed, count: int = 20_000) -> None:
    """Far over the limit of a message, mostly in common, with differences everywhere."""
    events = bed.deck.notes(count)
    common = [event for number, event in enumerate(events) if number % 20 > 1]
    bed.given(both=common, client=events[0::20], server=events[1::20])
    bed.sync(DOWN)
    bed.sync(BOTH)
    bed.again(BOTH)


def killed_half_way(bed: Bed, direction: Direction) -> None:
    """The server is killed while events move: the client fails, and the next run makes both equal."""
    server = bed.server
    assert isinstance(server, Restartable)
    notes = bed.deck.notes(3000)
    bed.given(**{"client" if direction is UP else "server": notes})
    with cutting(server.url, after_bytes=600_000, cut=server.kill, upwards=direction is UP) as url:
        broken = bed.attempt(direction, url, codes=(1,))
    assert broken.took_s < SYNC_S / 2
    server.start()
    lacking = (server if direction is UP else bed.client).stored()
    assert any(note["id"] not in lacking for note in notes), "nothing was left to do"
    bed.sync(direction)
    bed.again(direction)


CASES: Final[tuple[Case, ...]] = (
    directions,
    empty_client,
    empty_server,
    both_empty,
    disjoint,
    filters,
    equal_times,
    deletions,
    deleted_here_first,
    replaced,
    everything,
)
