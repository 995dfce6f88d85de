"""The container as a relay: for real clients, under every user and lock-down it promises to run with."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from docker import DockerClient
from nostr_sdk import ClientBuilder, EventBuilder, Filter, Keys, Kind, RelayUrl, ReqTarget, uniffi_set_event_loop
from tests.factory import KEYS, make_event
from tests.image.clients import notes, publish, send_all, stored_ids
from tests.image.container import HARDENED, Appliance, appliance, run_to_end, wait_until
from tests.wsclient import connect

from orly.services import stop_grace_s
from orly.settings import load

TWO_WORKERS: Final = {"ORLY_RELAY_WORKERS": "2"}
WAIT: Final = timedelta(seconds=15)
MOST_IDLE_BYTES: Final = 260 * 1000 * 1000
"""Memory of the whole appliance with two workers at rest: the bound the project set itself."""


def grace_s() -> int:
    """How long a stop of every service may take, with default times."""
    every = {"ORLY_OWNERS": KEYS[0], "ORLY_LAUNCHER_SYNC_NEGENTROPY_ENABLED": "true"}
    return stop_grace_s(load(every).settings)


def test_a_real_client_publishes_and_reads(engine: DockerClient, image: str) -> None:
    async def main(relay: Appliance) -> None:
        uniffi_set_event_loop(asyncio.get_running_loop())
        keys, client = Keys.generate(), ClientBuilder().build()
        await client.add_relay(RelayUrl.parse(relay.url))
        try:
            assert not (await client.try_connect(WAIT)).failed
            events = [EventBuilder(Kind(1), f"note {number}").finalize(keys) for number in range(20)]
            for event in events:
                assert (await client.send_event(event, ok_timeout=WAIT)).success
            fetched = await client.fetch_events(ReqTarget.auto([Filter().author(keys.public_key())]), timeout=WAIT)
            assert sorted(e.id().to_hex() for e in fetched) == sorted(e.id().to_hex() for e in events)
        finally:
            await client.shutdown()

    with appliance(engine, image, environment=TWO_WORKERS) as relay:
        asyncio.run(main(relay))


def test_an_event_reaches_subscribers_on_every_worker(engine: DockerClient, image: str) -> None:
    async def main(relay: Appliance) -> None:
        event = make_event(content="to all")
        async with AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(connect(relay.url)) for _ in range(12)]
            for reader in readers:
                await reader.send("REQ", "live", {"kinds": [1]})
                await reader.receive_until("EOSE")
            await send_all(await stack.enter_async_context(connect(relay.url)), [event])
            for reader in readers:
                message = await reader.receive()
                assert (message[:2], message[2]["id"]) == (["EVENT", "live"], event.event.id)

    with appliance(engine, image, environment=TWO_WORKERS) as relay:
        assert [process.program for process in relay.processes() if process.program == "orly"] == ["orly"] * 2
        asyncio.run(main(relay))


def test_data_outlive_the_container(engine: DockerClient, image: str, volume: str) -> None:
    volumes = {volume: {"bind": "/data"}}
    with appliance(engine, image, volumes=volumes) as relay:
        ids = publish(relay.url, notes(50))
        relay.container.restart(timeout=grace_s())
        relay.wait_healthy()
        assert stored_ids(relay.url) == ids
    with appliance(engine, image, volumes=volumes) as relay:
        assert stored_ids(relay.url) == ids
    exported = run_to_end(engine, image, ["orly", "export", "-"], volumes=volumes)
    assert exported.code == 0
    assert sorted(re.findall(r'"id":"([0-9a-f]{64})"', exported.output)) == ids


def test_commands_work_beside_a_running_appliance(engine: DockerClient, image: str) -> None:
    lines = "\n".join(event.raw.decode() for event in notes(30))

    async def main(relay: Appliance) -> None:
        async with connect(relay.url) as reader:
            await reader.send("REQ", "live", {"kinds": [1]})
            await reader.receive_until("EOSE")
            command = f"echo '{lines}' | orly import --server 127.0.0.1:50051 -"
            await asyncio.to_thread(relay.execute, "sh", "-c", command)
            seen = [(await reader.receive())[2]["id"] for _ in range(30)]
            assert sorted(seen) == sorted(event.event.id for event in notes(30))

    with appliance(engine, image, environment=TWO_WORKERS) as relay:
        asyncio.run(main(relay))
        table = relay.execute("orly", "status")
        assert all(name in table for name in ("orly-db", "orly-0", "orly-1"))
        exported = relay.execute("orly", "export", "-")
        assert sorted(exported.splitlines()) == sorted(lines.splitlines())
        assert "consistent" in relay.execute("orly", "check")


def test_an_owner_bans_from_within(engine: DockerClient, image: str) -> None:
    with appliance(engine, image, environment={**TWO_WORKERS, "ORLY_OWNERS": KEYS[0]}) as relay:
        assert "orly-acl" in relay.execute("orly", "status")
        ids = publish(relay.url, notes(5, key=1))
        relay.execute("orly", "acl", "ban", KEYS[1], "--reason", "spam")
        wait_until(lambda: stored_ids(relay.url) == [], "what is banned to be hidden")
        assert "is banned" in relay.execute("orly", "acl", "show", KEYS[1])
        relay.execute("orly", "acl", "unban", KEYS[1])
        wait_until(lambda: stored_ids(relay.url) == ids, "what was banned to be shown again")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="as it is"),
        pytest.param(HARDENED, id="read-only root, no capabilities"),
        pytest.param({"user": "4711:0"}, id="any user of group 0, writable root"),
        pytest.param({**HARDENED, "user": "4711:0"}, id="any user of group 0, read-only root"),
        pytest.param({"user": "0"}, id="started as root"),
        pytest.param(
            {**HARDENED, "user": "0", "cap_add": ["CHOWN", "DAC_OVERRIDE", "SETUID", "SETGID", "SETPCAP"]},
            id="started as root, read-only root",
        ),
    ],
)
def test_it_serves_as_anybody(engine: DockerClient, image: str, volume: str, options: Mapping[str, Any]) -> None:
    with appliance(engine, image, volumes={volume: {"bind": "/data"}}, environment=TWO_WORKERS, **options) as relay:
        assert stored_ids(relay.url) == []
        ids = publish(relay.url, notes(10))
        assert stored_ids(relay.url) == ids
        expected = 4711 if "4711" in str(options.get("user")) else 10001
        assert {uid for process in relay.processes() for uid in process.uids} == {expected}
        code, elapsed_s = relay.stop(grace_s=grace_s())
        assert code == 0
        assert elapsed_s < grace_s()


def test_any_user_may_own_the_volume(engine: DockerClient, image: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o777)
    data.chmod(0o777)
    volumes = {str(data): {"bind": "/data"}}
    with appliance(engine, image, volumes=volumes, user="4711:4711", **HARDENED) as relay:
        ids = publish(relay.url, notes(10))
        assert {process.uids for process in relay.processes()} == {(4711, 4711, 4711, 4711)}
    assert {path.stat().st_uid for path in data.iterdir()} == {4711}
    # the same volume, started as root: handed to the image's user, and nothing lost
    with appliance(engine, image, volumes=volumes, user="0") as relay:
        assert stored_ids(relay.url) == ids
    assert {path.stat().st_uid for path in (data, *data.rglob("*"))} == {10001}


def test_a_root_start_leaves_files_that_are_right_untouched(engine: DockerClient, image: str, volume: str) -> None:
    volumes = {volume: {"bind": "/data"}}
    with appliance(engine, image, volumes=volumes):
        pass
    look = ["sh", "-c", "find /data -printf '%p %U %G %C@\\n' | sort"]
    before = run_to_end(engine, image, look, volumes=volumes)
    assert {line.split()[1] for line in before.output.splitlines()} == {"10001"}
    after = run_to_end(engine, image, look, volumes=volumes, user="0")
    assert (after.code, after.output) == (0, before.output)


def test_nothing_runs_as_root_after_a_root_start(engine: DockerClient, image: str) -> None:
    script = "grep -E '^(Uid|Gid|Groups|Cap(Prm|Eff|Bnd)|NoNewPrivs):' /proc/self/status"
    ran = run_to_end(engine, image, ["sh", "-c", script], user="0")
    fields = {line.split(":")[0]: line.split(":")[1].split() for line in ran.output.splitlines()}
    assert fields["Uid"] == fields["Gid"] == ["10001"] * 4
    assert fields["Groups"] == []
    assert {fields[name][0].strip("0") for name in ("CapPrm", "CapEff", "CapBnd")} == {""}
    assert fields["NoNewPrivs"] == ["1"]


def test_the_appliance_at_rest_is_small(engine: DockerClient, image: str) -> None:
    with appliance(engine, image, environment=TWO_WORKERS) as relay:
        found = {f"{process.program} {process.pid}": process.pss_bytes for process in relay.processes()}
    assert len(found) >= 4, found
    assert sum(found.values()) <= MOST_IDLE_BYTES, found
