import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.factory import NOW_S, fake_event
from tests.strategies import QUICK

from orly.intake.plugin_ledger import Call, Ledger
from orly.intake.plugin_lines import Asked, Judgement, Ruling, SourceType, question
from orly.nostr.reason import Prefix, Refusal

FAILED = Refusal(Prefix.ERROR, "failed")
YES, NO = Ruling.ACCEPTED, Ruling.SHADOWED


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def asked(name: str) -> Asked:
    return Asked(event=fake_event(content=name), received_at_s=NOW_S, source_type=SourceType.IP4, source_info="::")


def id_of(name: str) -> str:
    return fake_event(content=name).event.id


class World:
    """A ledger and its calls; events have names of one letter."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, max_in_flight: int = 100) -> None:
        self.loop = loop
        self.ledger = Ledger(timeout_s=10, max_in_flight=max_in_flight)

    def call(self, names: str, now_s: float = 0.0) -> Call:
        call = Call([asked(name) for name in names], [FAILED] * len(names), now_s, self.loop.create_future())
        self.ledger.add(call)
        return call

    def write(self, now_s: float = 0.0) -> str:
        """Writes what can be written; the names of the events."""
        written = ""
        while (line := self.ledger.next_line(now_s)) is not None:
            written += next(name for name in "abcdefghij" if question(asked(name)) == line)
        return written

    def answer(self, name: str, judgement: Judgement = YES, now_s: float = 0.0) -> bool:
        return self.ledger.answer(id_of(name), judgement, now_s)


def test_a_call_is_done_with_its_last_answer(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop)
    call = world.call("abc")
    assert world.write() == "abc"
    assert world.answer("b", NO)
    assert world.answer("c")
    assert not call.done.done()
    assert world.answer("a")
    assert call.done.done()
    assert call.judgements == [YES, NO, YES]
    assert not world.answer("a"), "nobody asked twice"
    assert world.ledger.deadline_s() is None


def test_calls_take_turns(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop, max_in_flight=3)
    world.call("abcde")
    world.call("f")
    world.call("ghi")
    assert world.write() == "afg"
    assert world.write() == ""
    for name in "afg":
        world.answer(name)
    assert world.write() == "bhc"


def test_the_same_event_is_answered_in_the_order_of_asking(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop)
    one, two = world.call("a"), world.call("a")
    assert world.write() == "aa"
    assert world.answer("a", YES)
    assert world.ledger.is_in_flight(id_of("a"))
    assert world.answer("a", NO)
    assert not world.ledger.is_in_flight(id_of("a"))
    assert (one.judgements, two.judgements) == ([YES], [NO])


def test_a_call_fails_when_its_time_is_up(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop)
    call, later = world.call("a", 5.0), world.call("b", 6.0)
    assert world.ledger.deadline_s() == 15.0
    assert not world.ledger.expire(14.9)
    assert not call.done.done()
    assert not world.ledger.expire(15.0), "the program was asked nothing"
    assert call.done.done()
    assert not later.done.done()
    assert world.ledger.deadline_s() == 16.0
    assert world.write() == "b"


def test_a_call_does_not_fail_while_others_are_answered(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop, max_in_flight=1)
    call = world.call("abc", 0.0)
    for name, now_s in (("a", 9.0), ("b", 18.0)):
        assert world.write(now_s - 9.0) == name
        assert world.answer(name, now_s=now_s)
        assert world.ledger.deadline_s() == now_s + 10.0
    assert not world.ledger.expire(27.9)
    assert not call.done.done()
    world.ledger.expire(28.0)
    assert call.done.done()
    assert call.judgements == [YES, YES, FAILED]


def test_what_was_written_late_fails_in_time_but_is_no_fault_yet(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop)
    call = world.call("a", 0.0)
    assert world.write(9.0) == "a"
    assert not world.ledger.expire(10.0)
    assert call.done.done()
    assert world.ledger.n_in_flight == 1, "the program works on it"
    assert world.ledger.deadline_s() == 19.0
    assert world.ledger.expire(19.0)


def test_a_program_that_takes_one_after_the_other_is_given_its_time_for_each(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop)
    world.call("abc", 0.0)
    world.write(0.0)
    for name, now_s in (("a", 8.0), ("b", 16.0)):
        assert not world.ledger.expire(now_s)
        assert world.answer(name, now_s=now_s)
    assert not world.ledger.expire(25.9)
    assert world.ledger.expire(26.0)


def test_answers_to_later_questions_do_not_excuse_a_missing_one(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop)
    world.call("abc", 0.0)
    world.write(0.0)
    assert world.answer("b", now_s=5.0)
    assert world.answer("c", now_s=9.0)
    assert world.ledger.deadline_s() == 10.0
    assert world.ledger.expire(10.0)


def test_what_is_in_flight_fails_with_the_program_and_the_rest_waits(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop, max_in_flight=2)
    call, other = world.call("abc"), world.call("d")
    assert world.write() == "ad"
    assert world.ledger.lose_in_flight() == 2
    assert other.done.done()
    assert not call.done.done()
    assert world.write() == "bc"
    assert not world.answer("a")
    assert world.answer("b")
    assert world.answer("c", NO)
    assert call.judgements == [FAILED, YES, NO]
    assert call.done.done()


def test_a_dropped_call_is_not_written_but_what_was_written_stays(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop, max_in_flight=2)
    call, other = world.call("abc", 0.0), world.call("d", 1.0)
    assert world.write() == "ad"
    world.ledger.drop(call)
    world.ledger.drop(call)
    assert world.ledger.n_in_flight == 2
    assert world.answer("a")
    assert call.judgements == [FAILED] * 3, "what was returned does not change"
    assert world.write() == ""
    assert world.ledger.deadline_s() == 10.0
    assert world.answer("d")
    assert other.done.done()


def test_giving_up_ends_every_call(loop: asyncio.AbstractEventLoop) -> None:
    world = World(loop, max_in_flight=2)
    calls = [world.call("abc"), world.call("d")]
    calls[0].done.cancel()
    world.write()
    world.ledger.give_up()
    assert all(call.done.done() for call in calls)
    assert world.ledger.n_in_flight == 0
    assert world.write() == ""
    assert world.ledger.deadline_s() is None


class LedgerMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: the limit holds, every call ends, and nothing is left."""

    LIMIT = 3

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World(self.loop, max_in_flight=self.LIMIT)
        self.calls: list[Call] = []
        self.in_flight: list[str] = []
        self.now_s = 0.0

    @rule(names=st.text("abc", min_size=1, max_size=5))
    def call(self, names: str) -> None:
        self.calls.append(self.world.call(names, self.now_s))

    @rule()
    def write(self) -> None:
        self.in_flight += self.world.write(self.now_s)

    @rule(name=st.sampled_from("abc"))
    def answer(self, name: str) -> None:
        assert self.world.answer(name, NO, self.now_s) == (name in self.in_flight)
        if name in self.in_flight:
            self.in_flight.remove(name)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.calls))
        self.world.ledger.drop(call)
        call.done.cancel()

    @rule()
    def lose(self) -> None:
        assert self.world.ledger.lose_in_flight() == len(self.in_flight)
        self.in_flight.clear()

    @rule(seconds=st.integers(0, 12))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds
        if self.world.ledger.expire(self.now_s):
            self.lose()

    @invariant()
    def the_limit_holds(self) -> None:
        assert self.world.ledger.n_in_flight == len(self.in_flight) <= self.LIMIT

    @invariant()
    def who_is_not_done_has_a_deadline(self) -> None:
        deadline_s = self.world.ledger.deadline_s()
        waits = any(not call.done.done() for call in self.calls)
        assert (deadline_s is not None) == (waits or bool(self.in_flight))

    def teardown(self) -> None:
        for _ in range(2):
            self.wait(12)
            self.write()
            self.lose()
        self.wait(12)
        assert all(call.done.done() for call in self.calls)
        assert self.world.ledger.deadline_s() is None
        self.loop.close()


LedgerMachine.TestCase.settings = QUICK
TestLedger = LedgerMachine.TestCase
