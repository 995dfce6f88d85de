"""`orly sync` with peers that misbehave, and with an operator who stops it."""

import asyncio
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.component.async_test import async_test
from tests.component.fake_peer import FakeRelay, PeerSide, scripted_peer
from tests.component.orly_child import DEADLINE_S, await_output, child, run
from tests.component.test_sync_cli import counts, held, ids, result_of
from tests.factory import NOW_S, make_event

THERE = [make_event(n % 3, created_at=NOW_S + n, content="there") for n in range(60)]


class Stalling(FakeRelay):
    """Answers so many REQs for ids, then none until it is told to go on."""

    def __init__(self, answers: int) -> None:
        super().__init__(THERE)
        self.answers = answers

    async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
        if self.answers == 0:
            await asyncio.Event().wait()
        self.answers -= 1
        await super().on_req(peer, sub_id, filters)


class Withholding(FakeRelay):
    """Announces events that it never sends."""

    def __init__(self, withheld: set[str]) -> None:
        super().__init__(THERE)
        self._withheld = withheld

    async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
        asked = [{**one, "ids": [i for i in one["ids"] if i not in self._withheld]} for one in filters]
        await super().on_req(peer, sub_id, asked)


async def run_sync(url: str, *options: str, data_dir: Path) -> subprocess.CompletedProcess[bytes]:
    """The command, while this loop plays the peer."""
    return await asyncio.to_thread(run, "sync", url, *options, data_dir=data_dir)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@async_test
async def test_a_stopped_run_keeps_what_came_and_the_next_one_gets_the_rest(
    tmp_path: Path, stop: signal.Signals
) -> None:
    relay = Stalling(answers=2)

    def interrupted(url: str) -> str:
        with child("sync", url, "--batch", "10", data_dir=tmp_path / "here") as process:
            seen = await_output(process, b"; 20 fetched")
            process.send_signal(stop)
            assert process.wait(DEADLINE_S) == 1
            assert process.stderr is not None
            return (seen + process.stderr.read()).decode()

    async with scripted_peer(relay.serve) as url:
        said = await asyncio.to_thread(interrupted, url)
        *_, summary, why = said.splitlines()
        assert summary.startswith("interrupted: 20 fetched, 0 sent, 0 refused; ")
        assert why == "orly: interrupted; what was done so far stays, and another run goes on there"
        kept = await asyncio.to_thread(held, tmp_path / "here")
        assert len(kept) == 20
        assert kept < ids(THERE)
        relay.answers = 1000
        done = await run_sync(url, "--json", data_dir=tmp_path / "here")
        assert (done.returncode, counts(result_of(done.stdout))) == (0, {"need": 40, "fetched": 40})
        assert await asyncio.to_thread(held, tmp_path / "here") == ids(THERE)


@async_test
async def test_what_the_peer_never_sends_makes_it_incomplete(tmp_path: Path) -> None:
    withheld = {event.event.id for event in THERE[7:10]}
    async with scripted_peer(Withholding(withheld).serve) as url:
        done = await run_sync(url, data_dir=tmp_path / "here")
        assert done.returncode == 3
        summary, *problems = done.stderr.decode().splitlines()
        assert summary.startswith("incomplete: 57 fetched, 0 sent, 0 refused, 3 not given by the other relay; ")
        assert any("3 events" in line for line in problems), problems
        assert await asyncio.to_thread(held, tmp_path / "here") == ids(THERE) - withheld


@async_test
async def test_a_silent_peer_is_given_up_after_the_time_asked_for(tmp_path: Path) -> None:
    async def script(peer: PeerSide) -> None:
        await peer.ended()

    async with scripted_peer(script) as url:
        done = await run_sync(url, "--timeout", "1s", data_dir=tmp_path / "here")
    assert done.returncode == 1
    summary, problem = done.stderr.decode().splitlines()[-2:]
    assert summary.startswith("failed: 0 fetched, 0 sent, 0 refused; ")
    assert "1 s" in problem


@async_test
async def test_a_peer_that_breaks_off_is_named(tmp_path: Path) -> None:
    class Breaking(FakeRelay):
        async def on_req(self, peer: PeerSide, sub_id: str, filters: list[Any]) -> None:
            peer.abort()

    async with scripted_peer(Breaking(THERE).serve) as url:
        done = await run_sync(url, "--json", data_dir=tmp_path / "here")
    assert done.returncode == 1
    result = result_of(done.stdout)
    assert (result["status"], result["need"], result["fetched"]) == ("failed", 60, 0)
    assert len(result["problems"]) >= 1


@async_test
async def test_lines_come_once_a_second_where_there_is_no_terminal(tmp_path: Path) -> None:
    relay = Stalling(answers=1)

    def watched(url: str) -> str:
        with child("sync", url, "--batch", "10", data_dir=tmp_path / "here") as process:
            seen = await_output(process, b" fetched (").decode()
            process.kill()
            return seen

    async with scripted_peer(relay.serve) as url:
        line = (await asyncio.to_thread(watched, url)).splitlines()[0]
    assert line.startswith("transferring: 60 missing here, 0 missing there; 10 fetched (")
    assert "/s), 0 sent (0/s); " in line


@async_test
async def test_nobody_needs_to_read_along(tmp_path: Path) -> None:
    def unread(url: str, *options: str) -> int:
        with child("sync", url, *options, data_dir=tmp_path / "here") as process:
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                stream.close()
            return process.wait(DEADLINE_S)

    async with scripted_peer(FakeRelay(THERE).serve) as url:
        assert await asyncio.to_thread(unread, url, "--json") == 0
        assert await asyncio.to_thread(held, tmp_path / "here") == ids(THERE)
        assert await asyncio.to_thread(unread, url) == 0
