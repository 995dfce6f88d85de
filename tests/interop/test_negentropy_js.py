"""Set reconciliation against the implementations on npm, nostr-tools' and NDK's, which split ranges in other ways.

They are spoken to through a line adapter, as `orly.negentropy.harness` is. In CI they are always there; elsewhere these
tests need npm.
"""

import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import pytest
from tests.conftest import in_ci

PACKAGE: Final = Path(__file__).with_name("js")
INSTALL_S: Final = 180
RUN_S: Final = 60
MOST_MESSAGES: Final = 5000

Item = tuple[int, str]

OURS: Final = (sys.executable, "-m", "orly.negentropy.harness")


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter, with what it needs installed beside it."""
    npm = shutil.which("npm")
    if npm is None:
        assert not in_ci(), "npm is missing: in CI nothing may be left out"
        pytest.skip("npm is missing")
    made = tmp_path_factory.mktemp("js") / "package"
    shutil.copytree(PACKAGE, made, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=made,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return made / "adapter.mjs"


@dataclass(slots=True)
class Party:
    """One implementation, as a process that is fed lines."""

    child: "subprocess.Popen[str]"
    have: list[str] = field(default_factory=list)
    need: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, command: Sequence[str], items: Sequence[Item], frame_bytes: int) -> Self:
        """Starts it with its set."""
        environment = {**os.environ, "FRAMESIZELIMIT": str(frame_bytes)}
        child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        party = cls(child)
        party._say("".join(f"item,{created_at},{event_id}\n" for created_at, event_id in items) + "seal\n")
        return party

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.close()
        self.child.stdout.close()
        try:
            code = self.child.wait(RUN_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise AssertionError(f"{self.child.args!r} did not end with its input") from None
        assert code == 0, f"{self.child.args!r} left with status {code}"

    def _say(self, text: str) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(text)
        self.child.stdin.flush()

    def initiate(self) -> str:
        """The first message."""
        self._say("initiate\n")
        message = self._reply()
        assert message is not None
        return message

    def answer(self, message: str) -> str | None:
        """The answer to a message, or None when it is done."""
        self._say(f"msg,{message}\n")
        return self._reply()

    def _reply(self) -> str | None:
        assert self.child.stdout is not None
        while line := self.child.stdout.readline().rstrip("\n"):
            word, _, value = line.partition(",")
            match word:
                case "have":
                    self.have.append(value)
                case "need":
                    self.need.append(value)
                case "msg":
                    return value
                case "done":
                    return None
                case _:
                    raise AssertionError(f"{self.child.args!r} says {line!r}")
        raise AssertionError(f"{self.child.args!r} ended")


def reconcile(initiator: Party, responder: Party, frame_bytes: int) -> int:
    """Passes messages until the initiator is done; how many it sent."""
    message: str | None = initiator.initiate()
    for sent in range(1, MOST_MESSAGES):
        answer = responder.answer(message or "")
        assert answer is not None
        if frame_bytes:
            assert len(answer) <= 2 * frame_bytes
        message = initiator.answer(answer)
        if message is None:
            return sent
    raise AssertionError(f"not done after {MOST_MESSAGES} messages")


def items_of(seed: str, count: int, *, span_s: int = 100_000) -> list[Item]:
    """Items, many of a second if the span is short."""
    rng = random.Random(seed)
    return [
        (1_700_000_000 + rng.randrange(span_s), hashlib.sha256(f"{seed}{n}".encode()).hexdigest()) for n in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Sets:
    """What both have, what only the initiator has, and what only the responder has."""

    both: int
    initiator: int
    responder: int
    span_s: int = 100_000


SETS: Final = (
    Sets(0, 0, 0),
    Sets(0, 40, 0),
    Sets(0, 0, 40),
    Sets(0, 500, 700),
    Sets(31, 1, 0),
    Sets(5000, 0, 0),
    Sets(5000, 40, 60),
    Sets(3000, 300, 300, span_s=5),
)


@pytest.mark.parametrize("frame_bytes", [0, 4096])
@pytest.mark.parametrize("sets", SETS, ids=lambda sets: f"{sets.both}+{sets.initiator}+{sets.responder}")
@pytest.mark.parametrize("theirs", ["nostr-tools", "ndk"])
def test_the_difference_is_exact_in_both_roles(adapter: Path, theirs: str, sets: Sets, frame_bytes: int) -> None:
    both, mine, yours = (
        items_of(f"{name}{sets}", count, span_s=sets.span_s)
        for name, count in (("both", sets.both), ("mine", sets.initiator), ("yours", sets.responder))
    )
    command = ("node", str(adapter), theirs)
    for initiates, responds in ((OURS, command), (command, OURS)):
        with ExitStack() as stack:
            initiator = stack.enter_context(Party.start(initiates, both + mine, frame_bytes))
            responder = stack.enter_context(Party.start(responds, both + yours, frame_bytes))
            reconcile(initiator, responder, frame_bytes if responds is OURS else 0)
            # nostr-tools as a responder keeps what it finds for itself, so that both together have found all
            assert {*initiator.have, *responder.need} == {event_id for _, event_id in mine}
            assert {*initiator.need, *responder.have} == {event_id for _, event_id in yours}
            if initiates is OURS:  # the others repeat themselves where their frames are short
                assert len(set(initiator.have)) == len(initiator.have)
                assert len(set(initiator.need)) == len(initiator.need)
