"""The events and filters of the benchmark: generated from a seed, signed once, kept in a temporary directory.

200 authors write mostly kind 1, 726 bytes and 2.4 indexed tags on average, nothing replaceable, so that every relay
stores every event. The first events (the library) give each of a few heavy authors 500 notes, which is what REQ
limit 500 asks for.
"""

import hashlib
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import orjson
from coincurve import PrivateKey
from tests.bench.errors import BenchError
from tests.bench.wire import text_frame

__all__ = [
    "HEAVY_AUTHORS",
    "HEAVY_EVENTS",
    "KINDS",
    "Supply",
    "Workload",
    "cache_dir",
    "close",
    "generate",
    "load",
    "request",
]

HEAVY_AUTHORS: Final = 12
HEAVY_EVENTS: Final = 500
AUTHORS: Final = 200

_FORMAT: Final = 1
_FRESH_S: Final = 2 * 86_400
_SPAN_S: Final = 6 * 3600
KINDS: Final = {1: 84, 6: 4, 7: 8, 1111: 2, 30023: 2}
"""The kinds in use, with their share in percent."""

_TAG_COUNTS: Final = (0, 1, 1, 2, 2, 2, 3, 3, 4, 6)
_TOPICS: Final = ("nostr", "bitcoin", "relays", "art", "music", "python", "privacy", "café", "news", "日本")
_TEXT: Final = (
    "the relay keeps what you send and gives it back to whoever asks; notes travel fast over plain sockets — "
    'naïve clients poll, good ones listen\n"quoted" words, tabs\tand émojis 🤙 appear now and then in real notes'
)
_WORDS: Final = _TEXT.split(" ")


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Signed events in the order they are sent, as JSON, as client frames, and by id."""

    events: tuple[bytes, ...]
    frames: tuple[bytes, ...]
    ids: tuple[str, ...]
    library: int
    heavy: tuple[str, ...]
    frequent: tuple[str, ...]

    @property
    def mean_bytes(self) -> float:
        """Mean size of an event."""
        return sum(map(len, self.events)) / len(self.events)


class Supply:
    """One relay's place in the workload: every relay gets the same events in the same order, each event once."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.used = 0

    def take(self, count: int) -> range:
        """Reserve up to `count` events.

        Raises:
            BenchError: none are left.
        """
        begin = self.used
        self.used = min(begin + count, len(self.workload.events))
        if self.used == begin:
            raise BenchError("the workload has no more events; lower --rounds or use another seed")
        return range(begin, self.used)

    def give_back(self, first_unused: int) -> None:
        """Return the events from this index on, which were reserved but not sent."""
        self.used = first_unused


def cache_dir() -> Path:
    """A private directory for generated events.

    Raises:
        BenchError: somebody else owns it.
    """
    path = Path(tempfile.gettempdir()) / f"orly-bench-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.getuid() or path.is_symlink():
        raise BenchError(f"{path} belongs to another user; remove it or set TMPDIR")
    return path


def load(seed: int, count: int, library: int) -> Workload:
    """The signed workload, from the cache when it is younger than two days."""
    path = cache_dir() / f"events-{_FORMAT}-{seed}-{library}-{count}.jsonl"
    if not path.exists() or time.time() - path.stat().st_mtime > _FRESH_S:
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            for event in generate(seed=seed, count=count, library=library, end=int(time.time()) - 60, span_s=_SPAN_S):
                file.write(event + b"\n")
        part.replace(path)
    events = tuple(path.read_bytes().splitlines())
    if len(events) != count:
        raise BenchError(f"{path} holds {len(events)} events instead of {count}; remove it")
    heads = [msgspec.json.decode(event, type=_Head) for event in events[:library]]
    heavy = tuple(head.pubkey for head in heads[:HEAVY_AUTHORS])
    notes = Counter(head.pubkey for head in heads if head.kind == 1)
    return Workload(
        events=events,
        frames=tuple(text_frame(b'["EVENT",' + event + b"]") for event in events),
        ids=tuple(event[7:71].decode() for event in events),
        library=library,
        heavy=heavy,
        frequent=tuple(sorted(author for author, n in notes.items() if n >= 20)),
    )


def generate(*, seed: int, count: int, library: int, end: int, span_s: int, signed: bool = True) -> Iterator[bytes]:
    """Yield `count` events as JSON, oldest first, ending at `end` (unix seconds), spread over `span_s`.

    Ids are right. Without `signed` the signature is 64 arbitrary bytes: for imports that do not verify.
    """
    rng = random.Random(f"{seed}/{library}/{signed}")
    keys = [PrivateKey(hashlib.sha256(f"orly bench {seed} {n}".encode()).digest()) for n in range(AUTHORS)]
    pubkeys = [key.public_key.format()[1:].hex() for key in keys]
    kinds = [kind for kind, share in KINDS.items() for _ in range(share)]
    heavy_total = HEAVY_AUTHORS * HEAVY_EVENTS
    if not heavy_total <= library <= count:
        raise BenchError(f"the library needs at least {heavy_total} events and at most all {count}")
    for n in range(count):
        author = n % HEAVY_AUTHORS if n < heavy_total else rng.randrange(AUTHORS)
        created_at = end - span_s + span_s * n // count
        kind = 1 if n < heavy_total else rng.choice(kinds)
        content = _content(rng)
        body = [0, pubkeys[author], created_at, kind, _tags(rng, kind, pubkeys, n), content]
        digest = hashlib.sha256(orjson.dumps(body)).digest()
        sig = keys[author].sign_schnorr(digest, b"\0" * 32) if signed else rng.randbytes(64)
        yield orjson.dumps(
            {
                "id": digest.hex(),
                "pubkey": pubkeys[author],
                "created_at": created_at,
                "kind": kind,
                "tags": body[4],
                "content": content,
                "sig": sig.hex(),
            }
        )


class _Head(msgspec.Struct, frozen=True):
    pubkey: str
    kind: int


def _tags(rng: random.Random, kind: int, pubkeys: list[str], serial: int) -> list[list[str]]:
    tags: list[list[str]] = []
    if kind == 30023:
        tags.append(["d", f"article-{serial}"])
    for _ in range(rng.choice(_TAG_COUNTS)):
        match rng.randrange(10):
            case 0 | 1 | 2 | 3:
                tags.append(["e", rng.randbytes(32).hex()])
            case 4 | 5 | 6 | 7:
                tags.append(["p", rng.choice(pubkeys)])
            case _:
                tags.append(["t", rng.choice(_TOPICS)])
    return tags


def _content(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randrange(4, 77)))


def request(sub: str, filters: dict[str, object]) -> bytes:
    """A REQ frame."""
    return text_frame(json.dumps(["REQ", sub, filters], separators=(",", ":")).encode())


def close(sub: str) -> bytes:
    """A CLOSE frame."""
    return text_frame(json.dumps(["CLOSE", sub], separators=(",", ":")).encode())
