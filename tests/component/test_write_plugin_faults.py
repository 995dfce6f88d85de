"""The write policy as a program that dies, is stuck, talks nonsense or is not there: bounded, and said in the log."""

import asyncio
import errno
import logging
import os
import re
import shlex
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.component.async_test import async_test
from tests.component.plugin_world import (
    FAILED,
    Puppet,
    is_alive,
    judge,
    judge_until,
    numbered,
    plugin,
    told,
)
from tests.factory import fake_event
from tests.wsclient import until

from orly.intake import plugin as plugin_module
from orly.intake.plugin import MAX_JUNK_BYTES, MAX_JUNK_LINES, OnFailure
from orly.intake.plugin_process import LINES_PER_TURN, MAX_ANSWER_BYTES, PluginProcess

SHORT_S = 0.5
"""A time that is to run out."""

SHADOWED = told('out {"id":"ID","action":"shadowReject"}')
"""An event whose judgement no failure looks like."""

ON_FAILURE = pytest.mark.parametrize(
    ("on_failure", "judgement"), [(OnFailure.REFUSE, FAILED), (OnFailure.ACCEPT, "accepted")]
)


@ON_FAILURE
@async_test
async def test_what_is_in_flight_when_it_dies_has_failed(
    on_failure: OnFailure, judgement: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    puppet = Puppet(tmp_path)
    async with plugin(puppet.command, on_failure=on_failure, max_in_flight=2) as policy:
        assert await judge(policy, told("nothing"), told("die 3"), SHADOWED) == [judgement, judgement, "shadowed"]
        assert len(puppet.pids) == 2, "what was not in flight is judged by the next"
    assert re.search("left with exit status 3; 2 events are (refused|taken without its judgement), ", caplog.text)
    assert not any(is_alive(pid) for pid in puppet.pids)


@async_test
async def test_its_last_words_count(caplog: pytest.LogCaptureFixture) -> None:
    command = f"""{shlex.quote(sys.executable)} -ISc '
import json, sys
given = json.loads(input())["event"]["id"]
print(json.dumps({{"id": given, "action": "shadowReject"}}))
sys.stderr.write("farewell")'"""
    async with plugin(command) as policy:
        assert await judge(policy, fake_event()) == ["shadowed"]
        await until(lambda: "farewell" in caplog.messages, "the line without a break")


@ON_FAILURE
@async_test
async def test_one_that_never_comes_up(
    on_failure: OnFailure, judgement: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    starts = tmp_path / "starts"
    async with plugin(f"echo >>{starts}; exit 1", on_failure=on_failure, timeout_s=1) as policy:
        policy.start()
        await until(lambda: "started again in 0.2 s" in caplog.text, "the second end")
        assert await judge(policy, *numbered(3)) == [judgement] * 3
        assert len(starts.read_text()) < 10, "for ten, the pauses take almost a minute"
    pauses = re.findall(r"started again in (\S+) s", caplog.text)
    assert pauses == ["0.1", "0.2", "0.4", "0.8", "1.6", "3.2", "6.4", "10"][: len(pauses)]


@async_test
async def test_a_good_answer_ends_the_pauses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with plugin(Puppet(tmp_path).command) as policy:
        for _ in range(2):
            assert await judge(policy, told("die 1")) == [FAILED]
        assert await judge(policy, told()) == ["accepted"]
        assert await judge(policy, told("die 1")) == [FAILED]
    assert re.findall(r"started again in (\S+) s", caplog.text) == ["0.1", "0.2", "0.1"]


@ON_FAILURE
@async_test
async def test_one_that_does_not_answer_is_killed_with_all_its_group(
    on_failure: OnFailure, judgement: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pids = tmp_path / "pids"
    puppet = Puppet(tmp_path)
    stubborn = """sh -c 'trap "" TERM; exec sleep 1000'"""
    stuck = f"{stubborn} & echo $$ $! >{pids}; while :; do sleep 1000; done"
    command = f"if [ -e {pids} ]; then exec {puppet.command}; fi; {stuck}"
    async with plugin(command, on_failure=on_failure, timeout_s=1) as policy:
        assert await judge(policy, *numbered(3)) == [judgement] * 3
        await until(lambda: puppet.pids, "the next start")
        await until(lambda: not any(is_alive(int(pid)) for pid in pids.read_text().split()), "the end of the group")
        await judge_until("shadowed", policy, SHADOWED)
    assert "did not answer within 1 s; " in caplog.text


@async_test
async def test_one_answer_that_is_missing_is_a_fault_too(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    async with plugin(puppet.command, timeout_s=SHORT_S) as policy:
        missing = asyncio.create_task(judge(policy, told("nothing")))
        while not missing.done():
            await judge(policy, told())
        assert missing.result() == [FAILED]
        await until(lambda: len(puppet.pids) == 2, "the next start")


@async_test
async def test_one_that_does_not_read_gets_a_bounded_amount(tmp_path: Path) -> None:
    large = [told(f"{n} {'x' * 100_000}") for n in range(50)]
    async with plugin("exec sleep 1000", timeout_s=SHORT_S) as policy:
        judging = asyncio.create_task(judge(policy, *large))
        await until(lambda: policy.n_in_flight, "a question")
        most = 0
        while not judging.done():
            most = max(most, policy.n_in_flight)
            await asyncio.sleep(0)
        assert judging.result() == [FAILED] * len(large)
        assert most <= 3, "a pipe and a buffer hold 64 KiB each"


@async_test
async def test_one_that_reads_slowly_gets_everything(tmp_path: Path) -> None:
    large = [told("accept", f"{n} {'x' * 100_000}") for n in range(20)]
    async with plugin(Puppet(tmp_path).command) as policy:
        assert await judge(policy, *large) == ["accepted"] * len(large)


@async_test
async def test_lines_that_are_no_answers_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    junk = ["out hello\x1b", "out {}", "out []", 'out {"id":1,"action":"accept"}', 'out {"id":"I', "out \ud7ff"]
    async with plugin(Puppet(tmp_path).command) as policy:
        assert await judge(policy, told("out ", *junk, "accept")) == ["accepted"]
    assert len(caplog.messages) == 1, "there is one record now and then"
    assert caplog.messages[0].startswith("a line of the write policy is passed over, no JSON: ")
    assert caplog.messages[0].endswith(": hello\x1b")


@async_test
async def test_junk_is_counted_while_it_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now_s = [100.0]
    async with plugin(Puppet(tmp_path).command, monotonic_s=lambda: now_s[0]) as policy:
        for n in range(4):
            now_s[0] += 4
            assert await judge(policy, told(f"out {n}", "accept")) == ["accepted"]
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [
        "0",
        "3 (and 2 more since the last record of this kind)",
    ]


@pytest.mark.parametrize("is_asked", [False, True])
@async_test
async def test_one_that_floods_is_started_ever_more_rarely(is_asked: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with plugin("yes") as policy:
        policy.start()
        if is_asked:
            assert await judge(policy, told()) == [FAILED]
        await until(lambda: "started again in 0.4 s" in caplog.text, "the third end")
    first = caplog.messages[1]
    assert re.search(
        "`yes` wrote 1001 lines in a row, 2002 bytes, that answer nothing it was asked; [01] events", first
    )
    assert re.findall(r"started again in (\S+) s", caplog.text)[:3] == ["0.1", "0.2", "0.4"]


@async_test
async def test_as_much_junk_as_is_borne(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    most, unknown = ["out x"] * (MAX_JUNK_LINES - 1), f'out {{"id":"{"00" * 32}","action":"accept"}}'
    async with plugin(Puppet(tmp_path).command) as policy:
        for _ in range(2):
            assert await judge(policy, told(*most, unknown, "accept")) == ["accepted"], "an answer ends the row"
        assert await judge(policy, told(*most, unknown, "out ", "accept")) == [FAILED]
    assert "wrote 1001 lines in a row" in caplog.text


@async_test
async def test_who_may_have_more_in_flight_may_say_more(tmp_path: Path) -> None:
    async with plugin(Puppet(tmp_path).command, max_in_flight=200) as policy:
        assert await judge(policy, told(*["out x"] * 2000, "accept")) == ["accepted"]
        assert await judge(policy, told(*["out x"] * 2001, "accept")) == [FAILED]


@async_test
async def test_junk_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert MAX_JUNK_BYTES == 1024 * 1024
    monkeypatch.setattr(plugin_module, "MAX_JUNK_BYTES", 1000)
    async with plugin(Puppet(tmp_path).command) as policy:
        assert await judge(policy, told(f"out {'x' * 499}", f"out {'x' * 499}", "accept")) == ["accepted"]
        assert await judge(policy, told(f"out {'x' * 499}", f"out {'x' * 500}", "accept")) == [FAILED]
    assert "wrote 2 lines in a row, 1001 bytes, " in caplog.text


@async_test
async def test_many_lines_are_taken_some_at_a_time_and_all_before_the_end() -> None:
    loop, pieces, by_turn = asyncio.get_running_loop(), list[list[bytes]](), Counter[int]()
    counting: list[asyncio.Handle] = []

    def count() -> None:
        counting.append(loop.call_soon(count))

    def take(lines: list[bytes]) -> None:
        pieces.append(lines)
        by_turn[len(counting)] += 1

    count()
    child = await PluginProcess.start("seq 50000", on_lines=take, on_writable=lambda: None)
    assert await child.over == "left with exit status 0"
    await child.end(grace_s=0)
    counting[-1].cancel()
    assert [int(line) for piece in pieces for line in piece] == list(range(1, 50_001))
    assert max(map(len, pieces)) == LINES_PER_TURN
    assert max(by_turn.values()) <= 2, "the loop goes round: a turn, and what has just been read"


@pytest.mark.parametrize("end", ["", "accept"])
@async_test
async def test_an_endless_line_is_a_fault(end: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    puppet = Puppet(tmp_path)
    async with plugin(puppet.command) as policy:
        bad = told(f"fill {MAX_ANSWER_BYTES + 1}", end or "nothing")
        assert await judge(policy, SHADOWED, bad, told("nothing")) == ["shadowed", FAILED, FAILED]
        assert await judge(policy, SHADOWED) == ["shadowed"]
        assert len(puppet.pids) == 2
    assert f"wrote a line of more than {MAX_ANSWER_BYTES} bytes; " in caplog.text


@async_test
async def test_a_line_of_just_that_length_is_read(tmp_path: Path) -> None:
    answer = 'out {"id":"ID","action":"accept","msg":"%s"}'
    space = MAX_ANSWER_BYTES - len(answer % "") + len("out ID") - 64
    async with plugin(Puppet(tmp_path).command) as policy:
        assert await judge(policy, told(answer % ("x" * space))) == ["accepted"]
        assert await judge(policy, told(answer % ("x" * (space + 1)))) == [FAILED]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ('{"id":"ID","action":"allow"}', "unknown action 'allow'"),
        ('{"id":"ID","action":{"a":1}}', "unknown action {'a': 1}"),
        ('{"id":"ID"}', "an answer without an action"),
        ('{"id":"ID","action":"reject","msg":5}', "msg is no text: 5"),
    ],
)
@async_test
async def test_an_answer_without_sense_is_a_fault(
    answer: str, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    puppet = Puppet(tmp_path)
    async with plugin(puppet.command) as policy:
        bad = told("nothing", f"out {answer}", "accept")
        assert await judge(policy, told("nothing"), bad) == [FAILED, FAILED]
        assert await judge(policy, told()) == ["accepted"]
        assert len(puppet.pids) == 2
    assert f"made no sense about event {bad.event.id}: {why}; 2 events are refused" in caplog.text


@async_test
async def test_answers_that_nobody_waits_for_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "orly")
    puppet = Puppet(tmp_path)
    async with plugin(puppet.command) as policy:
        other = "00" * 32
        unknown = [f'out {{"id":"{other}","action":"{action}"}}' for action in ("accept", "nonsense")]
        assert await judge(policy, told(*unknown, "accept", "accept")) == ["accepted"]
        assert await judge(policy, told()) == ["accepted"]
        assert len(puppet.pids) == 1
    assert [record.levelno for record in caplog.records] == [logging.DEBUG, logging.DEBUG, logging.INFO, logging.DEBUG]
    assert other in caplog.messages[0]


@pytest.mark.parametrize("command", ["/no/such/policy", "/no/such/policy --verbose", "no-such-policy", "/dev/null"])
@async_test
async def test_a_command_that_cannot_be_run_is_named(command: str, caplog: pytest.LogCaptureFixture) -> None:
    async with plugin(command, timeout_s=SHORT_S) as policy:
        assert await judge(policy, told()) == [FAILED]
        awaited = f"the write policy `{command}` cannot be run (exit status 12"
        await until(lambda: awaited in caplog.text, "the record")


@async_test
async def test_one_that_ends_at_once_was_not_started(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "orly")
    async with plugin("/no/such/policy") as policy:
        policy.start()
        await until(lambda: "started again in 0.2 s" in caplog.text, "the second end")
    assert "was started" not in caplog.text


@async_test
async def test_one_that_is_not_asked_has_started_when_it_stays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "orly")
    async with plugin("exec sleep 1000") as policy:
        policy.start()
        await until(lambda: caplog.messages == ["the write policy `exec sleep 1000` was started"], "the record")


@async_test
async def test_a_machine_without_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spawn, failures = PluginProcess._spawn, [errno.EMFILE, errno.EAGAIN]

    async def fail_first(self: PluginProcess, command: str) -> None:
        if failures:
            raise OSError(failures[0], os.strerror(failures.pop(0)))
        await spawn(self, command)

    monkeypatch.setattr(PluginProcess, "_spawn", fail_first)
    async with plugin(Puppet(tmp_path).command) as policy:
        assert await judge(policy, told()) == ["accepted"]
    assert [message.partition("cannot be started: ")[2] for message in caplog.messages] == [
        "[Errno 24] Too many open files",
        "[Errno 11] Resource temporarily unavailable",
    ]


@async_test
async def test_one_that_closes_its_pipes_is_of_no_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command = f"exec {sys.executable} -ISc 'import os, time; os.closerange(0, 1000); time.sleep(1000)'"
    async with plugin(command) as policy:
        assert await judge(policy, told()) == [FAILED]
    assert "closed its standard input or output; " in caplog.text


@async_test
async def test_what_escapes_its_group_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    escaped = tmp_path / "escaped"
    escape = f"import os, time; os.setsid(); print(os.getpid(), file=open({str(escaped)!r}, 'w')); time.sleep(1000)"
    background = f"{sys.executable} -ISc {shlex.quote(escape)} & while [ ! -s {escaped} ]; do sleep 0.01; done"
    command = f"if [ ! -s {escaped} ]; then {background}; exit 5; fi; exec {Puppet(tmp_path).command}"
    try:
        async with plugin(command) as policy:
            policy.start()
            await until(lambda: "left with exit status 5" in caplog.text, "the end")
            assert is_alive(int(escaped.read_text()))
            assert await judge(policy, told()) == ["accepted"]
    finally:
        os.kill(int(escaped.read_text()), signal.SIGKILL)
