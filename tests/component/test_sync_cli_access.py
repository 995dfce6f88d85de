"""`orly sync` under access control: it takes what a service takes, whether the lists are its own or another's."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from tests.component.orly_child import run
from tests.component.test_relay_plugin import PLUGIN, seen_by
from tests.component.test_sync_cli import STORE_BYTES, counts, fill, held, ids, relay_with, result_of
from tests.factory import KEYS, NOW_S, make_event
from tests.process import RelayProcess, free_port, running_acl, running_db, running_sync

from orly.access.commands import AddKey, DisallowKind
from orly.access.levels import Mode
from orly.access.snapshot import ListName, Rules
from orly.acl.engine import AclEngine
from orly.nostr.event import EncodedEvent
from orly.store.lmdb.store import LmdbStore

OWNER, FOLLOWED, ALLOWED, TRUSTED, BLACKLISTED, BANNED, ANYBODY = range(7)
OWN_RULES: Final = {"ORLY_OWNERS": KEYS[OWNER]}

THERE: Final = {
    "owner": make_event(OWNER),
    "followed": make_event(FOLLOWED),
    "allowed": make_event(ALLOWED),
    "trusted": make_event(TRUSTED),
    "blacklisted": make_event(BLACKLISTED),
    "banned": make_event(BANNED),
    "anybody": make_event(ANYBODY),
    "banned event": make_event(OWNER, content="banned event"),
    "spam": make_event(ANYBODY, content="spam"),
    "allowed event": make_event(BANNED, content="allowed event"),
    "disallowed kind": make_event(OWNER, kind=7),
}
"""What the other relay has, by what is to be said of it here."""

NEVER: Final = {"banned", "banned event", "disallowed kind"}
TAKEN: Final = {
    "none": THERE.keys() - NEVER,
    "follows": {"owner", "followed", "allowed", "allowed event"},
    "managed": {"owner", "allowed", "allowed event"},
    "curating": THERE.keys() - NEVER - {"blacklisted", "spam"},
}
"""By mode, as docs/access.md has it."""

COMMON: Final = make_event(BANNED, content="hidden, on both sides")
HERE: Final = [
    make_event(OWNER, 3, tags=[("p", KEYS[FOLLOWED])]),
    make_event(OWNER, 30_078, tags=[("d", "curating-config")]),
    make_event(BANNED, content="hidden, only here"),
    COMMON,
]


def with_lists(data_dir: Path, mode: str) -> Path:
    """A data directory that holds `HERE`, and lists."""

    async def write() -> None:
        store = await LmdbStore.open(data_dir, max_bytes=STORE_BYTES, now_s=lambda: NOW_S)
        await store.save(HERE)
        engine = AclEngine(
            store, Rules(mode=Mode(mode), owners=frozenset({bytes.fromhex(KEYS[OWNER])})), now_s=lambda: NOW_S
        )
        await engine.start()
        listed = [
            (ListName.ALLOWED_PUBKEYS, KEYS[ALLOWED]),
            (ListName.TRUSTED_PUBKEYS, KEYS[TRUSTED]),
            (ListName.BLACKLISTED_PUBKEYS, KEYS[BLACKLISTED]),
            (ListName.BANNED_PUBKEYS, KEYS[BANNED]),
            (ListName.BANNED_EVENTS, THERE["banned event"].event.id),
            (ListName.SPAM_EVENTS, THERE["spam"].event.id),
            (ListName.ALLOWED_EVENTS, THERE["allowed event"].event.id),
        ]
        await engine.change([*(AddKey(name, bytes.fromhex(key)) for name, key in listed), DisallowKind(7)], by="")
        await engine.aclose()
        await store.close()

    asyncio.run(write())
    return data_dir


@pytest.fixture(name="peer", scope="module")
def other_relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A relay that has `THERE`, and does not get anything."""
    with relay_with([*THERE.values(), COMMON], tmp_path_factory.mktemp("there")) as relay:
        yield relay


def sync(url: str, *options: str | Path, data_dir: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """The result of a run that came to its end, but for what differs between any two."""
    done = run("sync", url, "--json", *options, data_dir=data_dir, variables=variables)
    assert done.returncode in (0, 3), done
    result = result_of(done.stdout)
    for varying in ("elapsed_s", "url", "bytes_sent", "bytes_received"):
        del result[varying]
    return result


def taken(data_dir: Path) -> set[str]:
    """Which of the other relay's events have been stored."""
    found = held(data_dir)
    return {name for name, event in THERE.items() if event.event.id in found}


def refused(mode: str) -> list[EncodedEvent]:
    return [event for name, event in THERE.items() if name not in TAKEN[mode]]


@pytest.mark.parametrize("mode", TAKEN)
def test_it_takes_what_a_service_takes(tmp_path: Path, peer: RelayProcess, mode: str) -> None:
    rules = {**OWN_RULES, "ORLY_ACL_MODE": mode}
    alone = with_lists(tmp_path / "alone", mode)
    options = ["--dry-run"], ["--dir=down"], ["--dry-run"]
    results = [sync(peer.url, *each, data_dir=alone, variables=rules) for each in options]
    assert taken(alone) == TAKEN[mode]
    # What is hidden here is not in the set that is compared: an event on both sides, then the allowed one as well.
    assert [each["need"] for each in results] == [len(THERE) + 1, len(THERE) + 1, len(refused(mode)) + 2]
    assert counts(results[1]) == {
        **counts(results[0]),
        "fetched": len(TAKEN[mode]),
        "known": 1,
        "refused": len(refused(mode)),
    }

    served = with_lists(tmp_path / "served", mode)
    with ExitStack() as stack:
        db = stack.enter_context(running_db(ORLY_DATA_DIR=str(served)))
        acl = stack.enter_context(running_acl(db, **rules))
        service = stack.enter_context(
            running_sync(
                ORLY_SYNC_NEGENTROPY_DB_TYPE="grpc",
                ORLY_GRPC_SERVER=db.address,
                ORLY_ACL_TYPE="grpc",
                ORLY_GRPC_ACL_SERVER=acl.address,
            )
        )
        given = ("--server", service.address)
        assert [sync(peer.url, *each, *given, data_dir=tmp_path / "no", variables={}) for each in options] == results
    assert taken(served) == TAKEN[mode]


@pytest.mark.parametrize("lists", ["stored", "named", "found"])
def test_through_a_store_that_others_use(tmp_path: Path, peer: RelayProcess, lists: str) -> None:
    here = with_lists(tmp_path / "here", "managed")
    rules = {**OWN_RULES, "ORLY_ACL_MODE": "managed"}
    with running_db(ORLY_DATA_DIR=str(here)) as db, ExitStack() as stack:
        variables = {"ORLY_DB_TYPE": "grpc", "ORLY_GRPC_SERVER": db.address}
        if lists == "stored":
            variables |= {**rules, "ORLY_LAUNCHER_ACL_ENABLED": "false"}
        else:  # by the rules that it has, whatever ours are
            acl = stack.enter_context(running_acl(db, address=f"127.0.0.1:{free_port()}", **rules))
            named = {"ORLY_ACL_TYPE": "grpc", "ORLY_GRPC_ACL_SERVER": acl.address}
            found = {**OWN_RULES, "ORLY_LAUNCHER_ACL_ENABLED": "true", "ORLY_ACL_LISTEN": acl.address}
            variables |= named if lists == "named" else found
        result = sync(peer.url, data_dir=tmp_path / "no", variables=variables)
        assert (result["fetched"], result["refused"]) == (3, len(refused("managed")))
        assert taken(here) == TAKEN["managed"]


def test_lists_that_are_elsewhere_must_be_there(tmp_path: Path, peer: RelayProcess) -> None:
    here = with_lists(tmp_path / "here", "none")
    variables = {"ORLY_ACL_TYPE": "grpc", "ORLY_GRPC_ACL_SERVER": f"127.0.0.1:{free_port()}"}
    done = run("sync", peer.url, data_dir=here, variables={**variables, "ORLY_GRPC_ACL_TIMEOUT": "500ms"})
    assert (done.returncode, done.stdout) == (1, b"")
    assert "orly-acl" in done.stderr.decode()
    assert taken(here) == set()
    assert run("sync", peer.url, "--dry-run", data_dir=here, variables=variables).returncode == 0


def test_what_is_hidden_is_not_sent(tmp_path: Path) -> None:
    here = with_lists(tmp_path / "here", "none")
    with relay_with([], tmp_path) as peer:
        result = sync(peer.url, "--dir=up", data_dir=here, variables=OWN_RULES)
        assert held(peer.data_dir) == ids(HERE[:1])
    assert counts(result) == {"have": 1, "sent": 1}


def test_whom_a_list_follows_that_came_on_the_way_counts_in_the_end(tmp_path: Path) -> None:
    follows = make_event(OWNER, 3, tags=[("p", KEYS[FOLLOWED])])
    here = fill(tmp_path / "here", [])
    rules = {**OWN_RULES, "ORLY_ACL_MODE": "follows"}
    with relay_with([follows, THERE["followed"], THERE["anybody"]], tmp_path) as peer:
        first, second = (sync(peer.url, data_dir=here, variables=rules) for _ in range(2))
    assert first["fetched"] + second["fetched"] == 2
    assert second["refused"] == 1
    assert held(here) == ids([follows, THERE["followed"]])


def test_the_write_plugin_is_asked(tmp_path: Path) -> None:
    plugin = tmp_path / "policy.py"
    plugin.write_text(PLUGIN)
    plugin.chmod(0o755)
    good, spam, shadow = (make_event(content=word) for word in ("good one", "spam one", "shadow one"))
    here = fill(tmp_path / "here", [])
    variables = {"ORLY_WRITE_PLUGIN": str(plugin)}
    with relay_with([good, spam, shadow], tmp_path) as peer:
        assert sync(peer.url, "--dry-run", data_dir=here, variables=variables)["need"] == 3
        assert not seen_by(plugin)
        result = sync(peer.url, data_dir=here, variables=variables)
        assert {(asked["sourceType"], asked["sourceInfo"]) for asked in seen_by(plugin)} == {("Sync", peer.url)}
    assert counts(result) == {"need": 3, "fetched": 1, "unwanted": 1, "refused": 1}
    assert held(here) == ids([good])
