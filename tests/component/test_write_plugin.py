"""The write policy as a program: strfry's protocol, many events at once, a new version of the program, the end."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.component.async_test import async_test
from tests.component.plugin_world import (
    FAILED,
    PLUGINS,
    Puppet,
    ask,
    asked,
    is_alive,
    judge,
    numbered,
    plugin,
    told,
)
from tests.factory import KEYS, NOW_S, fake_event
from tests.wsclient import until

from orly.intake.plugin import OnFailure
from orly.intake.plugin_lines import NO_REASON, SourceType
from orly.intake.plugin_process import MAX_MESSAGE_BYTES

ID_OF = r"""sed -n 's/^{"type":"new","event":{"id":"\([0-9a-f]*\)".*/\1/p'"""


@async_test
async def test_a_whitelist_for_strfry() -> None:
    async with plugin(f"{sys.executable} {PLUGINS}/whitelist.py") as whitelist:
        good, bad = fake_event(0), fake_event(1, content='"action":"accept" 🙂\n\x00')
        assert await judge(whitelist, good, bad, good) == ["accepted", "blocked: not on white-list", "accepted"]


@async_test
async def test_the_plugin_of_the_docs(tmp_path: Path) -> None:
    path = tmp_path / "policy.py"
    _, _, example = (Path(__file__).parents[2] / "docs" / "access.md").read_text().partition("```python\n")
    path.write_text(example.partition("```")[0])
    path.chmod(0o755)
    async with plugin(path) as policy:
        judgements = await judge(policy, fake_event(content="news"), fake_event(content="CASINO!"))
        assert judgements == ["accepted", "blocked: no advertisements"]


@async_test
async def test_a_plugin_in_shell() -> None:
    async with plugin(PLUGINS / "spam.sh") as spam:
        events = [fake_event(content=content) for content in ("ham", 'spam "event":{"id":"00"', "eggs")]
        assert await judge(spam, *events) == ["accepted", "shadowed", "accepted"]


@pytest.mark.parametrize(
    ("answer", "judgement"),
    [
        ('{"id":"ID","action":"accept"}', "accepted"),
        ('{"id":"ID","action":"accept","msg":"fine"}', "accepted"),
        ('{"id":"ID","action":"shadowReject"}', "shadowed"),
        ('{"id":"ID","action":"reject","msg":"pow: more work"}', "pow: more work"),
        ('{"id":"ID","action":"reject","msg":"go away"}', "blocked: go away"),
        ('{"id":"ID","action":"reject","msg":""}', f"blocked: {NO_REASON}"),
        ('{"id":"ID","action":"reject"}', f"blocked: {NO_REASON}"),
        (' { "msg": "x", "action": "reject", "id": "ID", "more": [] } \r', "blocked: x"),
    ],
)
@async_test
async def test_answers(answer: str, judgement: str, tmp_path: Path) -> None:
    async with plugin(Puppet(tmp_path).command) as policy:
        assert await judge(policy, told(f"out {answer}")) == [judgement]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        *(({"source_type": each}, {"sourceType": each.value}) for each in SourceType),
        (
            {"source_type": SourceType.IP6, "source_info": "2001:db8::1"},
            {"sourceType": "IP6", "sourceInfo": "2001:db8::1"},
        ),
        ({"source_info": 'wss://x.example/"\\\n'}, {"sourceInfo": 'wss://x.example/"\\\n'}),
        ({"authed": KEYS[3]}, {"authed": KEYS[3]}),
        ({"received_at_s": 1}, {"receivedAt": 1}),
    ],
)
@async_test
async def test_what_a_plugin_is_told(fields: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    event = fake_event(tags=[["t", "\u2028\u2029"]], content="line\n\u2028 é \x7f \\ 🙂")
    async with plugin(puppet.command) as policy:
        assert await ask(policy, asked(event, **fields)) == ["accepted"]
    assert [json.loads(line) for line in puppet.questions] == [
        {
            "type": "new",
            "event": json.loads(event.raw),
            "receivedAt": NOW_S,
            "sourceType": "IP4",
            "sourceInfo": "192.0.2.1",
            **expected,
        }
    ]


@async_test
async def test_many_in_flight_are_answered_in_any_order(tmp_path: Path) -> None:
    async with plugin(Puppet(tmp_path).command) as policy:
        events = numbered(99, "hold 100")
        refused = told("hold 100", 'out {"id":"ID","action":"reject","msg":"the last"}')
        judgements = await judge(policy, *events, refused)
        assert judgements == ["accepted"] * 100, "the hundredth was held as well before it was refused"
        assert await judge(policy, told("out x", "accept")) == ["accepted"], "the second answer harms nobody"


@async_test
async def test_the_same_event_twice_in_flight_is_answered_in_turn() -> None:
    say = """printf '{"id":"%s","action":"%s"}\\n' "$id" """
    command = f'read -r a; read -r b; id=$(echo "$a" | {ID_OF}); {say} accept; {say} shadowReject; cat >&2'
    async with plugin(command) as policy:
        event = fake_event()
        one, two = await asyncio.gather(judge(policy, event), judge(policy, event))
        assert (one, two) == (["accepted"], ["shadowed"])


@async_test
async def test_all_calls_share_one_process_that_is_started_when_it_is_needed(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    async with plugin(puppet.command) as policy:
        assert await judge(policy) == []
        assert policy.n_in_flight == 0
        calls = [judge(policy, *numbered(n)) for n in range(1, 20)]
        assert await asyncio.gather(*calls) == [["accepted"] * n for n in range(1, 20)]
        assert len(puppet.pids) == 1


@async_test
async def test_it_can_be_started_before_the_first_event(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    async with plugin(puppet.command) as policy:
        policy.start()
        policy.start()
        await until(lambda: puppet.pids, "the start")
        assert await judge(policy, told()) == ["accepted"]
        assert len(puppet.pids) == 1


@async_test
async def test_the_limit_in_flight_is_reached(tmp_path: Path) -> None:
    async with plugin(Puppet(tmp_path).command, max_in_flight=5) as policy:
        assert await judge(policy, *numbered(25, "hold 5")) == ["accepted"] * 25


@async_test
async def test_the_limit_in_flight_is_kept(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    async with plugin(puppet.command, max_in_flight=5, timeout_s=2) as policy:
        policy.start()
        await until(lambda: puppet.pids, "the start")
        judging = asyncio.create_task(judge(policy, *numbered(6, "hold 6")))
        await until(lambda: len(puppet.questions) == 5, "five questions")
        assert policy.n_in_flight == 5
        assert (await judging) == [FAILED] * 6


@async_test
async def test_standard_error_goes_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = "y" * (MAX_MESSAGE_BYTES + 1)
    event = told("err one\\n\\n  two\x1b", f"err {long}", f"err {long[1:]}", "err last", "accept")
    async with plugin(Puppet(tmp_path).command) as policy:
        assert await judge(policy, event) == ["accepted"]
        await until(lambda: "last" in caplog.messages)
    assert caplog.messages == ["one", "  two\x1b", f"{long[1:]} [the rest was cut]", long[1:], "last"]


def install(path: Path, message: str, *, modified_s: int) -> None:
    """Put a program in place that refuses everything with a message, as soon as there is a file named `go`.

    That it runs it shows by a file of its own.
    """
    new = path.with_suffix(".new")
    new.write_text(
        f"""#!/bin/sh
        : >{path.with_name(f"{message}-runs")}
        while read -r line; do
          while [ ! -e {path.with_name("go")} ]; do sleep 0.01; done
          printf '{{"id":"%s","action":"reject","msg":"{message}"}}\\n' "$(echo "$line" | {ID_OF})"
        done
        """
    )
    new.chmod(0o755)
    os.utime(new, (modified_s, modified_s))
    new.rename(path)


@async_test
async def test_a_new_version_of_the_program_is_taken_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "policy"
    (tmp_path / "go").touch()
    install(path, "one", modified_s=NOW_S)
    events = numbered(2)
    caplog.set_level(logging.INFO, "orly")
    async with plugin(path) as policy:
        assert await judge(policy, *events) == ["blocked: one"] * 2
        install(path, "two", modified_s=NOW_S)
        assert await judge(policy, *events) == ["blocked: one"] * 2, "the time is what counts"
        install(path, "three", modified_s=NOW_S - 1)
        assert await judge(policy, *events) == ["blocked: three"] * 2
        path.rename(tmp_path / "away")
        assert await judge(policy, *events) == ["blocked: three"] * 2, "it runs without its file"
    assert caplog.messages == [
        f"the write policy `{path}` {what}"
        for what in ("was started", "has changed: it is started anew", "was started")
    ]


@async_test
async def test_the_old_version_answers_what_it_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    install(path, "one", modified_s=NOW_S)
    async with plugin(path) as policy:
        before = asyncio.create_task(judge(policy, *numbered(3)))
        await until(lambda: policy.n_in_flight == 3 and (tmp_path / "one-runs").exists(), "questions")
        install(path, "two", modified_s=NOW_S + 1)
        after = asyncio.create_task(judge(policy, *numbered(2)))
        await asyncio.sleep(0)
        assert policy.n_in_flight == 3, "the old one is asked nothing more"
        (tmp_path / "go").touch()
        assert await before == ["blocked: one"] * 3
        assert await after == ["blocked: two"] * 2


@async_test
async def test_a_command_with_arguments_is_not_watched(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    (tmp_path / "go").touch()
    install(path, "one", modified_s=NOW_S)
    async with plugin(f"{path} --verbose") as policy:
        assert await judge(policy, told()) == ["blocked: one"]
        install(path, "two", modified_s=NOW_S + 1)
        assert await judge(policy, told()) == ["blocked: one"]


@async_test
async def test_a_program_that_ends_with_its_input_is_not_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with plugin(f"{Puppet(tmp_path).command}; echo $? >&2") as policy:
        assert await judge(policy, told()) == ["accepted"]
    assert caplog.messages == ["0"]


@async_test
async def test_a_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"trap '' TERM; sleep 1000 & echo $$ $! >{pids}; while :; do sleep 1000; done"
    async with plugin(command) as policy:
        policy.start()
        await until(lambda: pids.exists() and pids.read_text().endswith("\n"), "the start")
    await until(lambda: not any(is_alive(int(pid)) for pid in pids.read_text().split()), "the end of the group")


@pytest.mark.parametrize(("on_failure", "judgement"), [(OnFailure.REFUSE, FAILED), (OnFailure.ACCEPT, "accepted")])
@async_test
async def test_who_waits_at_the_end_is_told(on_failure: OnFailure, judgement: str, tmp_path: Path) -> None:
    async with plugin(Puppet(tmp_path).command, on_failure=on_failure, max_in_flight=2) as policy:
        judging = asyncio.create_task(judge(policy, *numbered(3, "nothing")))
        await until(lambda: policy.n_in_flight == 2, "questions")
        closing = asyncio.create_task(policy.aclose())
        assert await judging == [judgement] * 3
        assert await judge(policy, told()) == [judgement], "nor is anybody asked later"
        policy.start()
        await asyncio.gather(closing, policy.aclose())


@async_test
async def test_the_end_while_it_starts(tmp_path: Path) -> None:
    async with plugin(Puppet(tmp_path).command) as policy:
        policy.start()
        await asyncio.sleep(0)
    async with plugin(Puppet(tmp_path).command) as unused:
        assert unused.n_in_flight == 0


@async_test
async def test_calls_that_are_cancelled_leave_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    install(path, "one", modified_s=NOW_S)
    async with plugin(f"tee {tmp_path}/asked | {path}", max_in_flight=2) as policy:
        in_flight = asyncio.create_task(judge(policy, told("a"), told("b")))
        await until(lambda: policy.n_in_flight == 2, "questions")
        waiting, other = (asyncio.create_task(judge(policy, told(name))) for name in "cd")
        await asyncio.sleep(0)
        for each in (in_flight, waiting):
            each.cancel()
        await asyncio.wait((in_flight, waiting))
        assert policy.n_in_flight == 2, "the program has them still"
        (tmp_path / "go").touch()
        assert await other == ["blocked: one"]
        assert policy.n_in_flight == 0
    lines = (tmp_path / "asked").read_text().splitlines()
    assert [json.loads(line)["event"]["content"] for line in lines] == ["a", "b", "d"]
