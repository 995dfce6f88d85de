"""The same bytes as other implementations, in both roles.

The transcripts were recorded from running programs over WebSockets. Where the other program answers, our initiator
asked it with NEG-OPEN and NEG-MSG; where it asks, a server answered it with our responder. `negentropy_strfry.jsonl`
has strfry 1.1.1 (its relay, and `strfry sync --dir=none` with `--frame-size-limit`), `negentropy_rust.jsonl` has
rust-nostr through nostr-sdk 0.45 (`LocalRelay`, and `Relay.sync` with a list of items as a dry run). Items are the ids
of kind 1 events of the first test key without tags, whose content is their number in decimal. Long messages are kept
as length and SHA-256: both sides of the dialogue are computed, and each message must be the one that was recorded.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from tests.factory import KEYS

from orly.negentropy import Initiator, ItemSet, Responder
from orly.nostr.event import compute_id

VECTORS: Final = Path(__file__).parents[1] / "vectors"
FIRST_S: Final = 1_750_000_000
CASES: Final = [
    json.loads(line)
    for name in ("negentropy_strfry.jsonl", "negentropy_rust.jsonl")
    for line in (VECTORS / name).read_text().splitlines()
]


def items_of(side: dict[str, int], per_second: int) -> ItemSet:
    """The items of one side of a case."""
    numbers = range(side["from"], side["to"])
    every = side["lacks_every"]
    return ItemSet.from_rows(b"".join(_row(n, per_second) for n in numbers if not every or n % every))


def _row(number: int, per_second: int) -> bytes:
    created_at = FIRST_S + number // per_second
    return created_at.to_bytes(8, "big") + _id(number, created_at)


def _id(number: int, created_at: int) -> bytes:
    return sha256(f'[0,"{KEYS[0]}",{created_at},1,[],"{number}"]'.encode()).digest()


def as_recorded(message: bytes, recorded: str | dict[str, Any]) -> str | dict[str, Any]:
    """A message in the form the record has."""
    if isinstance(recorded, str):
        return message.hex()
    return {"bytes": len(message), "sha256": sha256(message).hexdigest()}


def test_the_cases_are_all_here() -> None:
    assert len(CASES) == 22
    assert sum(len(case["messages"]) for case in CASES) > 300


def test_the_items_are_events() -> None:
    assert compute_id(KEYS[0], FIRST_S + 7, 1, [], "7") == _id(7, FIRST_S + 7).hex()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_the_same_bytes_as_were_recorded(case: dict[str, Any]) -> None:
    ours, theirs = (items_of(case[side], case["per_second"]) for side in ("initiator", "responder"))
    initiator = Initiator(ours, max_frame_bytes=case["initiator"]["max_frame_bytes"])
    responder = Responder(theirs, max_frame_bytes=case["responder"]["max_frame_bytes"])
    message: bytes | None = initiator.initiate()
    have = need = 0
    for asked, answered in zip(case["messages"][::2], case["messages"][1::2], strict=True):
        assert message is not None
        assert as_recorded(message, asked) == asked
        answer = responder.answer(message)
        assert as_recorded(answer, answered) == answered
        step = initiator.reconcile(answer)
        have += len(step.have)
        need += len(step.need)
        message = step.next
    assert message is None
    assert (have, need) == (case["have"], case["need"])
