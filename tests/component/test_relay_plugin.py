"""A relay whose operator has a write policy: what clients are told, what is stored, what is not even asked about."""

import json
from pathlib import Path
from typing import Final

import pytest
from tests.component.async_test import async_test
from tests.component.fake_peer import FakeRelay, scripted_peer
from tests.component.orly_child import run
from tests.component.relay_client import NostrClient
from tests.component.sync_side import notes, side
from tests.factory import KEYS, make_event
from tests.process import running_relay
from tests.transport import run_async
from tests.wsclient import connect

from orly import clock
from orly.intake.plugin import PluginOptions, WritePlugin
from orly.sync.ingest import Door

PLUGIN: Final = """#!/usr/bin/env python3
import json, os, sys
for line in sys.stdin:
    asked = json.loads(line)
    with open(sys.argv[0] + ".seen", "a") as log:
        log.write(line)
    word = asked["event"]["content"].split(" ")[0]
    action = {"spam": "reject", "shadow": "shadowReject"}.get(word, "accept")
    answer = {"id": asked["event"]["id"], "action": action}
    if word == "spam":
        answer["msg"] = "blocked: spam" if os.environ.get("ORLY_GRPC_TOKEN") is None else "error: it knows our token"
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(name="plugin")
def plugin_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.py"
    path.write_text(PLUGIN)
    path.chmod(0o755)
    return path


def seen_by(plugin: Path) -> list[dict[str, object]]:
    log = plugin.with_name(plugin.name + ".seen")
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_what_a_plugin_decides_holds(plugin: Path) -> None:
    good, spam, shadow = (make_event(content=word) for word in ("good one", "spam one", "shadow one"))
    forged = make_event(content="forged").raw.replace(make_event(content="forged").event.sig.encode(), b"ab" * 64)

    async def main(url: str) -> None:
        async with connect(url) as socket:
            client = NostrClient(socket)
            await client.request("live", {"limit": 0})
            assert [ok[1:] for ok in await client.publish(good, spam, shadow)] == [
                [good.event.id, True, ""],
                [spam.event.id, False, "blocked: spam"],
                [shadow.event.id, True, ""],
            ]
            await client.send_text(f'["EVENT",{forged.decode()}]')
            assert (await client.next("OK"))[2] is False
            assert (await client.publish(good))[0][3].startswith("duplicate: ")
            assert await client.request("s", {}) == [good.event.id]
            assert await client.next_event("live") == good.event.id
            await client.fence()
            assert [message for message in client.inbox if message[0] == "EVENT"] == []

    with running_relay(ORLY_WRITE_PLUGIN=str(plugin), ORLY_GRPC_TOKEN="x" * 20) as relay:
        run_async(main(relay.url))
    asked = seen_by(plugin)
    assert [each["event"] for each in asked] == [json.loads(event.raw) for event in (good, spam, shadow)]
    assert {(each["type"], each["sourceType"], each["sourceInfo"]) for each in asked} == {("new", "IP4", "127.0.0.1")}
    assert all("authed" not in each for each in asked)


@pytest.mark.parametrize(("choice", "accepted"), [("refuse", False), ("accept", True)])
def test_a_plugin_that_does_not_come_up(choice: str, accepted: bool) -> None:
    async def main(url: str) -> None:
        async with connect(url) as socket:
            (ok,) = await NostrClient(socket).publish(make_event())
            assert ok[2] is accepted
            assert accepted or ok[3] == "error: the write policy cannot be asked"

    given = {"ORLY_WRITE_PLUGIN": "sh -c 'exit 3'", "ORLY_WRITE_PLUGIN_TIMEOUT": "500ms"}
    with running_relay(**given, ORLY_WRITE_PLUGIN_ON_FAILURE=choice) as relay:
        run_async(main(relay.url))
        assert "`sh -c 'exit 3'` left with exit status 3" in relay.logs()


def test_a_plugin_that_cannot_be_run_is_a_wrong_setting(tmp_path: Path) -> None:
    for command, why in (
        ("/nonexistent/policy", "No such file or directory"),
        (str(tmp_path), "is not a file"),
        ("no-such-policy --verbose", "there is no program no-such-policy on PATH"),
    ):
        done = run(data_dir=tmp_path / "data", variables={"ORLY_WRITE_PLUGIN": command})
        assert (done.returncode, (tmp_path / "data").exists()) == (78, False)
        assert f"orly: ORLY_WRITE_PLUGIN={command}: {why}\n" in done.stderr.decode()


def test_who_has_authenticated_is_told(plugin: Path) -> None:
    async def main(url: str) -> None:
        async with connect(url) as socket:
            client = NostrClient(socket)
            ok = await client.authenticate(url, key=2, at_s=clock.now_s())
            assert ok[2] is True
            await client.accept(make_event(content="good"))

    with running_relay(ORLY_WRITE_PLUGIN=str(plugin), ORLY_AUTH_ON_CONNECT="true") as relay:
        run_async(main(relay.url))
    assert [each["authed"] for each in seen_by(plugin)] == [KEYS[2]]


@async_test
async def test_events_of_a_sync_are_judged_too(plugin: Path, tmp_path: Path) -> None:
    good = notes(1, 2, 3)
    bad, hidden = make_event(content="spam of a peer"), make_event(content="shadow of a peer")
    relay = FakeRelay([*good, bad, hidden])
    judge = WritePlugin(PluginOptions(command=str(plugin)), monotonic_s=clock.monotonic_s)
    async with side(tmp_path / "store") as own, scripted_peer(relay.serve) as url:
        door = Door(own.store, own.policy, own.verifier, own.now_s, plugin=judge)
        result = await door.offer([event.raw for event in (*good, bad, hidden)], None, source=url)
        assert result.stored == [event.id for event in good]
        assert result.refused == [(bad.id, "blocked: spam")]
        assert result.unwanted == [hidden.id]
    await judge.aclose()
    assert {(each["sourceType"], each["sourceInfo"]) for each in seen_by(plugin)} == {("Sync", url)}
