"""Where the cases happen: sides that live as long as the tests, and a table of every sync between them."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.interop.deck import Deck
from tests.interop.expected import JsonEvent, matching
from tests.interop.sides import SYNC_S, Direction, Filter, ReachableSide, Run, Side

__all__ = ["Bed", "Row", "World", "three_ways", "transfer"]

Make = Callable[..., Side]
"""Makes a side: of this name, with these options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A sync that was done, for a table."""

    case: str
    client: str
    server: str
    what: str
    stored: tuple[int, int]
    run: Run

    def line(self) -> str:
        """It in a line of the table; after the sides, how many events they hold."""
        case, (client, server) = self.case.split(" ")[0], self.stored
        sides = f"{self.client:<14} {self.what:<17} {self.server:<14} {client:>6} {server:>6}"
        return f"  {case:<19} {sides}  {self.run.summary()}"


class World:
    """Sides by kind, made when they are first asked for.

    Attributes:
        rows: Every sync so far.
    """

    def __init__(self, makers: dict[str, Make], now_s: int | None = None) -> None:
        self.now_s = int(time.time()) if now_s is None else now_s
        self.rows: list[Row] = []
        self._makers = makers
        self._shared: dict[str, Side] = {}
        self._fresh: list[Side] = []
        self._made = 0

    def has(self, kind: str) -> bool:
        """Whether there are sides of a kind."""
        return kind in self._makers

    def side(self, kind: str) -> Side:
        """The side of a kind that all cases share; a data directory is always a new one."""
        if kind == "directory":
            return self.fresh(kind)
        if kind not in self._shared:
            self._shared[kind] = self._make(kind)
        return self._shared[kind]

    def fresh(self, kind: str, **options: Any) -> Side:
        """A new and empty side, until the end of the case."""
        self._fresh.append(self._make(kind, **options))
        return self._fresh[-1]

    def _make(self, kind: str, **options: Any) -> Side:
        self._made += 1
        return self._makers[kind](f"{kind}-{self._made}", self.now_s, **options)

    @contextmanager
    def case(self) -> Iterator[None]:
        """Around a case: ends what it made, and shows all logs when it fails."""
        try:
            yield
        except BaseException:
            for side in (*self._shared.values(), *self._fresh):
                if logged := side.logs():
                    sys.stderr.write(f"--- log of {side.name}\n{logged[-20_000:]}---\n")
            self.close()  # what they hold is not known any more
            raise
        finally:
            _close(self._fresh)

    def close(self) -> None:
        """Ends all sides."""
        _close(list(self._shared.values()))
        self._shared.clear()


def _close(sides: list[Side]) -> None:
    while sides:
        sides.pop().close()


def transfer(client: Side, server: Side, direction: Direction, wanted: Filter, *, private_too: bool = False) -> None:
    """What a complete sync makes of both models: each takes what the other shows and it lacks."""

    def moving(source: Side, *, all_of_it: bool) -> list[JsonEvent]:
        found = matching(source.model.visible, wanted)
        return found if all_of_it else [event for event in found if event["kind"] not in source.private_kinds]

    down = moving(server, all_of_it=False) if direction in (Direction.DOWN, Direction.BOTH) else []
    up = moving(client, all_of_it=private_too) if direction in (Direction.UP, Direction.BOTH) else []
    client.take(down)
    server.take(up)


class Bed:
    """A case under way: two sides, events of its own, and what is expected of each step.

    Attributes:
        client: Who starts the syncs.
        server: The relay it syncs with.
        deck: Where its events come from.
    """

    def __init__(self, world: World, case: str, client: Side, server: Side) -> None:
        assert isinstance(server, ReachableSide)
        self.world, self.case, self.client, self.server = world, case, client, server
        self.deck = Deck(f"{case} {client.name} {server.name}", world.now_s)

    def given(
        self, *, both: Sequence[JsonEvent] = (), client: Sequence[JsonEvent] = (), server: Sequence[JsonEvent] = ()
    ) -> None:
        """Stores events on the sides."""
        for side, events in ((self.client, [*both, *client]), (self.server, [*both, *server])):
            if events:
                side.publish(events)

    def sync(self, direction: Direction, /, url: str = "", *, tries: int = 1, **wanted: Any) -> Run:
        """A sync that must be complete: each side holds what it must afterwards, and nothing else.

        Args:
            direction: As its client sees it.
            url: Where the server is reached, if not at its own.
            tries: How often it may be begun: the next one goes on where one broke off.
            wanted: The filter beside this case's authors; `authors=None` is without them.
        """
        run = self.attempt(direction, url, codes=(0, 1) if tries > 1 else (0,), **wanted)
        if run.code:
            return self.sync(direction, url, tries=tries - 1, **wanted)
        transfer(self.client, self.server, direction, self._filter(wanted))
        self.check(direction, run, wanted)
        return run

    def again(self, direction: Direction, **wanted: Any) -> None:
        """The same sync once more: it moves nothing and takes one round trip."""
        run = self.attempt(direction, codes=(0,), **wanted)
        self.check(direction, run, wanted, note=", again")
        named = {"fetched": run.fetched, "sent": run.sent}
        if direction is not Direction.UP:
            named["need"] = run.need
        if direction is not Direction.DOWN:
            named["have"] = run.have
        moved = {name: number for name, number in named.items() if number}
        assert not moved, f"there was nothing left to sync, and it says {moved}:\n{run.output}"
        if run.need == run.have == 0:
            assert run.rounds in (None, 1), f"it took {run.rounds} rounds to see that nothing differs"

    def attempt(self, direction: Direction, url: str = "", *, codes: Sequence[int], **wanted: Any) -> Run:
        """A sync that ends with one of these exit codes."""
        assert isinstance(self.server, ReachableSide)
        run = self.client.sync(url or self.server.url, direction, self._filter(wanted), timeout_s=SYNC_S)
        assert run.code in codes, f"{self.client.name} syncs {direction}: exit code {run.code}\n{run.output}"
        return run

    def check(self, direction: Direction, run: Run, wanted: Filter, *, note: str = "") -> None:
        """Compares both sides with what they must hold, and writes the sync down."""
        try:
            self.client.check()
            self.server.check()
        except AssertionError:
            sys.stderr.write(f"--- {self.client.name} syncs {direction} with {self.server.name}\n{run.output}---\n")
            raise
        what = " ".join([direction.value, *(name for name in wanted if name != "authors")]) + note
        stored = (len(self.client.expected()), len(self.server.expected()))
        row = Row(case=self.case, client=self.client.name, server=self.server.name, what=what, stored=stored, run=run)
        self.world.rows.append(row)

    def _filter(self, wanted: Filter) -> Filter:
        scoped = {"authors": self.deck.authors, **wanted}
        return {name: value for name, value in scoped.items() if value is not None}


def three_ways(world: World, client: str, servers: Sequence[str]) -> None:
    """A side with news, syncing with each of the others in turn, makes all three hold the same.

    rust-nostr's relay ends every connection after some 6,000 events.
    """
    middle = world.side(client)
    beds = [Bed(world, f"three_ways {world.now_s}", middle, world.side(server)) for server in servers]
    middle.publish(beds[0].deck.mixed(40))
    for bed in beds:
        bed.server.publish(bed.deck.notes(20))
    for bed in (*beds, *beds[:-1]):
        bed.sync(Direction.BOTH, tries=4 if bed.server.name.startswith("rust-nostr") else 1, authors=None)
    held = [side.expected().keys() for side in (middle, *(bed.server for bed in beds))]
    assert all(ids == held[0] for ids in held), "the three sides differ"
    for bed in beds:
        bed.again(Direction.BOTH, authors=None)
