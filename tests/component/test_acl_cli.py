"""`orly acl` as its users start it: on a data directory, through an `orly-acl`, and over HTTP."""

import asyncio
import hashlib
import json
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.component.acl_cli_world import (
    OWNER_KEY,
    PATIENT,
    World,
    acl_service,
    key_file,
    managed_relay,
    scripted_acl,
    stored,
)
from tests.component.orly_child import DEADLINE_S, child, on_terminal, run, write_lines
from tests.factory import KEYS, NOW_S, make_event
from tests.process import free_port, run_orly, running_db, running_relay
from tests.wsclient import until

from orly.access.commands import AddKey, AllowKind, BlockAddress, Command, Entry, SetInfo
from orly.access.control import Use
from orly.access.levels import Mode
from orly.access.snapshot import ListName, Rules
from orly.acl.engine import AclEngine
from orly.acl.lists import KEPT_LISTS
from orly.cli.acl_stored import StoredLists
from orly.cli.read_only import ReadOnlyStore
from orly.store.base import StoreError
from orly.store.lmdb.store import LmdbStore
from orly.units import TIB

CURATING = {"ORLY_ACL_MODE": "curating", "ORLY_OWNERS": OWNER_KEY, "ORLY_LAUNCHER_ACL_ENABLED": "false"}
WAYS = ("directory", "service", "url")

A, B, C = (KEYS[n] for n in (1, 2, 3))
IDS = [hashlib.sha256(text).hexdigest() for text in (b"one", b"two", b"three")]
NPUB = "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6"
NPUB_HEX = "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """For sockets, whose paths must not be long."""
    with tempfile.TemporaryDirectory(prefix="orly-test-") as directory:
        yield Path(directory)


@pytest.fixture(params=WAYS)
def world(request: pytest.FixtureRequest, tmp_path: Path, short_directory: Path) -> Iterator[World]:
    """Commands in one of the ways they work."""
    data_dir = tmp_path / "data"
    with ExitStack() as stack:
        match request.param:
            case "directory":
                members, options = (lambda: stored(data_dir)), []
            case "service":
                listen = f"unix:{short_directory}/acl"
                stack.enter_context(acl_service(data_dir, listen, **CURATING))
                members, options = (lambda: stored(data_dir)), ["--server", listen]
            case _:
                relay = stack.enter_context(managed_relay())
                members, options = relay.members, ["--url", relay.url, "--auth-key-file", str(key_file(tmp_path))]
        yield World(data_dir=data_dir, variables=CURATING | PATIENT, options=options, members=members)


def is_there(world: World) -> bool:
    """Whether it is known who added something, and when; a relay does not tell that over HTTP."""
    return "--url" not in world.options


def said(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stderr.decode().splitlines()


def lists(world: World) -> dict[str, dict[Any, str]]:
    """Every list with members, as people write them, with the reasons."""
    return {
        name: {member.hex() if isinstance(member, bytes) else member: entry.reason for member, entry in members.items()}
        for name, members in world.members().items()
    }


# Changing


def test_each_command_changes_its_list(world: World) -> None:
    table: tuple[tuple[str, str, tuple[str, ...], str, list[Any]], ...] = (
        ("ban", "unban", (), "banned-pubkeys", [A, B, C]),
        ("ban", "unban", ("--event",), "banned-events", IDS),
        ("allow", "unallow", (), "allowed-pubkeys", [A, B, C]),
        ("allow", "unallow", ("--event",), "allowed-events", IDS),
        ("trust", "untrust", (), "trusted-pubkeys", [A, B, C]),
        ("blacklist", "unblacklist", (), "blacklisted-pubkeys", [A, B, C]),
        ("spam", "unspam", (), "spam-events", IDS),
        ("block-ip", "unblock-ip", (), "blocked-ips", ["192.0.2.1", "2001:db8::1", "::1"]),
        ("allow-kind", "disallow-kind", (), "allowed-kinds", [0, 1, 30_023]),
    )
    for adds, drops, options, name, members in table:
        takes_reason = adds != "allow-kind"
        reason = ("--reason", "why not") if takes_reason else ()
        done = world.acl(adds, *map(str, members), *reason, *options)
        assert (done.returncode, done.stdout) == (0, b""), done
        assert said(done)[0].startswith("3 ")
        assert lists(world) == {name: dict.fromkeys(members, "why not" if takes_reason else "")}
        assert takes_reason or said(done)[1:] == ["only kinds 0, 1, 30023 are taken"]
        done = world.acl(drops, *map(str, members[:2]), *options)
        assert (done.returncode, done.stdout, said(done)[0].split()[:2]) == (0, b"", ["2", "not"])
        assert list(lists(world)[name]) == members[2:]
        done = world.acl(drops, str(members[2]), *options)
        assert done.returncode == 0
        assert lists(world).get(name, {}) == {}
        if name == "allowed-kinds":  # all that were allowed are kept out by the other list
            assert said(done)[1:] == ["all kinds are taken but 0, 1, 30023"]
            assert lists(world) == {"disallowed-kinds": dict.fromkeys(members, "")}


def test_what_is_taken_is_said_when_kinds_change(tmp_path: Path) -> None:
    def told(*arguments: str) -> list[str]:
        return said(run("acl", *arguments, data_dir=tmp_path / "data", variables=CURATING))

    assert told("allow-kind", "1", "7") == ["2 allowed", "only kinds 1, 7 are taken"]
    assert told("disallow-kind", "9") == ["1 not allowed", "only kinds 1, 7 are taken"]
    assert told("disallow-kind", "1", "7") == ["2 not allowed", "all kinds are taken but 1, 7, 9"]
    assert told("allow-kind", "1", "7", "9") == ["3 allowed", "all kinds are taken"]
    assert told("allow-kind", "1") == ["1 allowed", "only kind 1 is taken"]
    most = [str(kind) for kind in range(100, 151)]
    assert told("disallow-kind", "1", *most)[1].endswith("146, 147, 148 and 2 more")


def test_a_key_may_be_an_npub_and_is_named_once(world: World) -> None:
    done = world.acl("ban", NPUB, NPUB_HEX.upper(), NPUB_HEX)
    assert (done.returncode, said(done)) == (0, ["1 banned"])
    assert lists(world) == {"banned-pubkeys": {NPUB_HEX: ""}}


def test_what_was_so_before_is_not_counted_as_new(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"

    def told(*arguments: str) -> list[str]:
        return said(run("acl", *arguments, data_dir=data_dir, variables=CURATING))

    assert told("ban", A, B) == ["2 banned"]
    assert told("ban", A, B, C, "--reason", "again") == ["1 banned, 2 were so before"]
    assert told("unban", A, IDS[0]) == ["1 not banned, 1 was so before"]
    assert told("unban", A) == ["0 not banned, 1 was so before"]
    assert {entry.reason for entry in stored(data_dir)["banned-pubkeys"].values()} == {"again"}
    assert told("allow", B)[0] == "1 allowed"
    assert list(stored(data_dir)["banned-pubkeys"]) == [bytes.fromhex(C)]


def test_a_list_without_effect_is_named(tmp_path: Path) -> None:
    for mode, verb, name in (("managed", "trust", "trusted-pubkeys"), ("curating", "allow", "allowed-pubkeys")):
        done = run("acl", verb, A, data_dir=tmp_path / mode, variables=CURATING | {"ORLY_ACL_MODE": mode})
        assert (done.returncode, said(done)[1:]) == (0, [f"orly: in the mode {mode} the list {name} has no effect"])


def test_a_block_may_end(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    assert run("acl", "block-ip", "192.0.2.1", "--for", "1h30m", data_dir=data_dir).returncode == 0
    assert run("acl", "block-ip", "192.0.2.2", data_dir=data_dir).returncode == 0
    first, second = stored(data_dir)["blocked-ips"].values()
    assert (first.until_s - first.added_s in range(5398, 5403), second.until_s) == (True, 0)
    lines = run("acl", "list", "blocked-ips", data_dir=data_dir).stdout.decode().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["192.0.2.1", "192.0.2.2"]
    assert [line.split("\t")[3:] == ["-"] for line in lines] == [False, True]
    told = run("acl", "list", "blocked-ips", "--json", data_dir=data_dir).stdout.splitlines()
    assert [json.loads(line)["until"] for line in told] == [first.until_s, None]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("ban",), "name at least one KEY, or a file with --file"),
        (("block-ip",), "name at least one ADDRESS, or a file with --file"),
        (("ban", A, "--file", "-"), "name them as arguments or in --file, not both"),
        (("ban", A, "zz"), "zz: neither npub1... nor 64 hex digits"),
        (("ban", A, "zz\x1b[31m"), "zz\\x1b[31m: neither npub1... nor 64 hex digits"),
        (("ban", A, ""), "an empty argument: neither npub1... nor 64 hex digits"),
        (("ban", NPUB[:-1] + "7"), f"{NPUB[:-1]}7: has a wrong checksum: a character is missing or mistyped"),
        (("unban", "nsec1secret"), "nsec1...: this is a secret key, and a public key belongs here"),
        (("ban", "--event", NPUB), f"{NPUB}: an event id is 64 hex digits"),
        (("spam", "note1x"), "note1x: an event id is 64 hex digits"),
        (("block-ip", "192.0.2.300"), "192.0.2.300: '192.0.2.300' is no IP address"),
        (("block-ip", "fe80::1%eth0"), "fe80::1%eth0: write the address without its zone: fe80::1"),
        (("allow-kind", "65536"), "65536: a kind is a number from 0 to 65535"),
        (("allow-kind", "note"), "note: not a whole number"),
        (("ban", A, "--reason", "x" * 501), "--reason: the reason has more than 500 characters"),
        (("block-ip", "::1", "--for", "0"), "--for 0: write 1s to 876000h"),
        (("block-ip", "::1", "--for", "soon"), "--for soon: not a duration: write 25ms, 30s, 5m, 1h30m"),
        (("list", "banned"), "there is no list 'banned'; there are: followed-pubkeys, peer-pubkeys, allowed-pubkeys, "),
        (("show", "nsec1secret"), "KEY: this is a secret key, and a public key belongs here"),
        (("show", A, "--ip", "here"), "--ip: 'here' is no IP address"),
        (("ban", A, "--auth-key-file", "key"), "--auth-key-file has no effect without --url"),
        (("ban", A, "--server", "nowhere"), "--server nowhere: has no port"),
        (("ban", A, "--url", "ftp://x", "--auth-key-file", "key"), "--url ftp://x: does not start with wss://"),
        (("ban", A, "--url", "", "--auth-key-file", "key"), "--url is empty: name the relay"),
        (("ban", A, "--url", "ws://x", "--auth-key-file", "key"), "--auth-key-file key cannot be read"),
        (("ban", A, "--url", "ws://x"), "--url needs --auth-key-file"),
        (("ban", A, "--url", "ws://x", "--server", "x:1", "--auth-key-file", "key"), "--server and --url exclude"),
        (("list", "--url", "ws://x"), "--url needs --auth-key-file"),
        (("show", A, "--url", "ws://x", "--server", "x:1"), "--server and --url exclude"),
        (
            ("list", "peer-pubkeys", "--url", "ws://x", "--auth-key-file", "key"),
            "a relay does not list its peer-pubkeys",
        ),
        (
            ("block-ip", "::1", "--for", "1h", "--url", "ws://x", "--auth-key-file", "key"),
            "--for cannot be used with --url",
        ),
    ],
)
def test_a_wrong_command_line_is_refused_and_nothing_is_made(
    tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    done = run("acl", *arguments, data_dir=tmp_path / "data", variables=CURATING)
    assert (done.returncode, done.stdout) == (2, b"")
    assert any(line.startswith(f"orly: {text}") for line in said(done)), said(done)
    assert "secret key" in text or "nsec1secret" not in done.stderr.decode()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "arguments", [("bann", A), ("ban", A, "--for", "1h"), ("allow-kind", "-1"), ("show",), ("list", "a", "b")]
)
def test_what_no_command_has_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run("acl", *arguments, data_dir=tmp_path / "data")
    assert (done.returncode, done.stdout) == (2, b"")
    assert not (tmp_path / "data").exists()


def test_every_command_explains_itself(tmp_path: Path) -> None:
    overview = run("acl", "--help", data_dir=tmp_path).stdout.decode()
    named = overview.partition("Commands:")[2].partition("Exit status")[0].split("\n  ")
    commands = [line.split()[0] for line in named if line.strip()]
    assert len(commands) == 16
    for command in ("list", "show", "ban", "block-ip"):
        text = run("acl", command, "-h", data_dir=tmp_path).stdout.decode()
        assert command in commands
        assert "Exit status: 0 done" in " ".join(text.split())


# Files


def test_keys_come_from_a_file_or_standard_input(world: World, tmp_path: Path) -> None:
    lines = [
        b"\xef\xbb\xbf# who is banned",
        b"",
        f"{A}  because  of\tit ".encode(),
        b"  ",
        f"\t{NPUB}\r".encode(),
        b"#",
    ]
    file = write_lines(tmp_path / "keys", lines)
    done = world.acl("ban", "--file", file, "--reason", "else")
    assert (done.returncode, said(done)) == (0, ["2 banned"])
    assert lists(world) == {"banned-pubkeys": {A: "because  of\tit", NPUB_HEX: "else"}}
    done = world.acl("unban", "--file", "-", stdin=file.read_bytes())  # a reason there says nothing, and does no harm
    assert (done.returncode, said(done)) == (0, ["2 not banned"])
    assert lists(world).get("banned-pubkeys", {}) == {}


def test_a_file_without_keys_changes_nothing(world: World) -> None:
    done = world.acl("ban", "--file", "-", stdin=b"# nobody\n\n")
    assert (done.returncode, said(done)) == (0, ["0 banned"])


def test_one_bad_line_and_nothing_is_changed(world: World, tmp_path: Path) -> None:
    good = [hashlib.sha256(b"%d" % n).hexdigest().encode() for n in range(900)]
    bad = [b"zz", b"nsec1secret", A.encode() + b" " + b"x" * 501, b"\xff", b"x" * 9000]
    file = write_lines(tmp_path / "keys", [*good, *bad, *good])
    done = world.acl("trust", "--file", file)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said(done) == [
        f"orly: line 901 of {file}: neither npub1... nor 64 hex digits",
        f"orly: line 902 of {file}: this is a secret key, and a public key belongs here",
        f"orly: line 903 of {file}: the reason has more than 500 characters",
        f"orly: line 904 of {file}: it is not UTF-8",
        f"orly: line 905 of {file}: it has more than 8192 bytes",
        "orly: nothing was changed",
    ]
    done = world.acl("trust", "--file", "-", stdin=b"x\n" * 25)
    assert (done.returncode, len(said(done)), said(done)[-2:]) == (
        2,
        22,
        ["orly: and 5 more", "orly: nothing was changed"],
    )
    assert said(done)[0].startswith("orly: line 1 of standard input: ")
    assert lists(world) == {} if "--url" in world.options or world.data_dir.exists() else not world.data_dir.exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run("acl", "ban", "--file", tmp_path / "none", data_dir=tmp_path / "data")
    assert (done.returncode, said(done)) == (1, [f"orly: {tmp_path}/none cannot be read: No such file or directory"])


def test_more_lines_than_are_kept_in_memory_are_refused(tmp_path: Path) -> None:
    done = run("acl", "allow-kind", "--file", "-", data_dir=tmp_path / "data", stdin=b"1\n" * 1_000_001)
    text = "orly: standard input has more than 1000000 lines: cut it into several files; nothing was changed"
    assert (done.returncode, said(done)) == (2, [text])


def test_an_owner_is_never_banned_and_nobody_else_is_with_it(world: World, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "keys", [A.encode(), b"# who?", OWNER_KEY.encode(), B.encode()])
    done = world.acl("ban", "--file", file)
    assert (done.returncode, done.stdout) == (1, b"")
    if is_there(world):
        assert said(done) == [
            "orly: line 3: this key is an owner's (ORLY_OWNERS) and cannot be banned; nothing was changed"
        ]
        assert lists(world) == {}
    else:  # only the relay knows who its owners are
        url = world.options[1]
        text = f"orly: {url}: this key is an owner's and cannot be banned\\x1b[31m; 1 of 3 was done before that"
        assert said(done) == ["1 banned", text]
        assert lists(world) == {"banned-pubkeys": {A: ""}}
    done = world.acl("ban", OWNER_KEY)
    assert (done.returncode, len(said(done))) == (1, 1)


def many(count: int) -> list[str]:
    """Keys that nobody has."""
    return [hashlib.sha256(b"%d" % n).hexdigest() for n in range(count)]


def test_a_hundred_thousand_keys(tmp_path: Path) -> None:
    keys = many(100_000)
    file = write_lines(tmp_path / "keys", [f"{key} {number}".encode() for number, key in enumerate(keys)])
    data_dir = tmp_path / "data"
    done = run_orly("acl", "trust", "--file", file, data_dir=data_dir, variables=CURATING, timeout_s=10 * DEADLINE_S)
    assert (done.returncode, done.stdout, said(done)) == (0, b"", ["100000 trusted"])
    done = run("acl", "list", "trusted-pubkeys", data_dir=data_dir)
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert (done.returncode, done.stderr) == (0, b"")
    assert [row[0] for row in rows] == sorted(keys)
    assert {(row[0], row[3]) for row in rows} == {(key, str(number)) for number, key in enumerate(keys)}
    assert {row[2] for row in rows} == {"operator"}
    done = run("acl", "list", "trusted-pubkeys", "--json", data_dir=data_dir)
    assert [json.loads(line)["member"] for line in done.stdout.splitlines()] == sorted(keys)
    sizes = run("acl", "list", data_dir=data_dir, variables=CURATING).stdout.decode().split("\n")
    assert "trusted-pubkeys      100000" in sizes


def test_many_show_a_bar_on_a_terminal(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "keys", [key.encode() for key in many(500)])
    code, shown = on_terminal("acl", "allow", "--file", file, data_dir=tmp_path / "data")
    assert (code, "500/500" in shown, "500 allowed" in shown) == (0, True, True)
    code, shown = on_terminal("acl", "allow", A, data_dir=tmp_path / "data")
    assert (code, "1 allowed" in shown, "1/1" in shown) == (0, True, False)


# Being stopped, and failing midway


def test_a_stop_leaves_whole_pages(tmp_path: Path) -> None:
    pages: list[int] = []
    third, goes_on = threading.Event(), threading.Event()

    def change(commands: list[Command]) -> None:
        pages.append(len(commands))
        if len(pages) == 3:
            third.set()
            assert goes_on.wait(DEADLINE_S)

    file = write_lines(tmp_path / "keys", [key.encode() for key in many(20_000)])
    with scripted_acl(change) as address:
        arguments = ("acl", "ban", "--file", file, "--server", address)
        with child(*arguments, data_dir=tmp_path / "data", **PATIENT) as process:
            assert third.wait(DEADLINE_S)
            process.send_signal(signal.SIGINT)
            goes_on.set()
            out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, set(pages)) == (1, b"", {400})
    done = sum(pages)
    assert 1200 <= done < 20_000
    text = f"orly: interrupted; {done} of 20000 were done before that"
    assert err.decode().splitlines() == [f"{done} banned", text]


def test_a_stop_in_the_data_directory_leaves_whole_pages(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    file = write_lines(tmp_path / "keys", [key.encode() for key in many(20_000)])
    assert run("acl", "trust", A, data_dir=data_dir).returncode == 0
    with child("acl", "ban", "--file", file, data_dir=data_dir) as process:
        while process.poll() is None and "banned-pubkeys" not in stored(data_dir):
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=2 * DEADLINE_S)
    banned = len(stored(data_dir)["banned-pubkeys"])
    assert (banned % 400, err.decode().splitlines()[0]) == (0, f"{banned} banned")
    assert (process.returncode, banned > 0) == (int(banned < 20_000), True)


def test_a_stop_over_http_finishes_the_call(tmp_path: Path) -> None:
    with managed_relay() as relay:
        relay.hold.clear()
        options = ("--url", relay.url, "--auth-key-file", key_file(tmp_path))
        with child("acl", "ban", A, B, C, *options, data_dir=tmp_path / "data") as process:
            assert relay.entered.wait(DEADLINE_S)
            process.send_signal(signal.SIGINT)
            relay.hold.set()
            out, err = process.communicate(timeout=DEADLINE_S)
        done = len(relay.calls)
        assert (process.returncode, out, done in (1, 2)) == (1, b"", True)
        assert err.decode().splitlines()[0] == f"{done} banned"
        assert len(relay.lists["banned-pubkeys"]) == done


def test_a_second_stop_does_not_wait(tmp_path: Path) -> None:
    with managed_relay() as relay:
        relay.hold.clear()
        options = ("--url", relay.url, "--auth-key-file", key_file(tmp_path))
        with child("acl", "ban", A, B, *options, data_dir=tmp_path / "data") as process:
            assert relay.entered.wait(DEADLINE_S)
            process.send_signal(signal.SIGINT)
            while process.poll() is None:  # a signal that is not seen yet takes in the next one
                process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 1
        assert not relay.lists


def test_a_service_that_fails_midway_is_told_of(tmp_path: Path) -> None:
    pages: list[int] = []

    def change(commands: list[Command]) -> None:
        if len(pages) == 2:
            raise ValueError("the store did not take the change")
        pages.append(len(commands))

    file = write_lines(tmp_path / "keys", [key.encode() for key in many(1000)])
    with scripted_acl(change) as address:
        done = run("acl", "ban", "--file", file, "--server", address, data_dir=tmp_path / "data", variables=PATIENT)
        single = run("acl", "ban", A, "--server", address, data_dir=tmp_path / "data", variables=PATIENT)
    assert (done.returncode, said(done)) == (
        1,
        ["800 banned", "orly: the store did not take the change; 800 of 1000 were done before that"],
    )
    assert (single.returncode, said(single)) == (1, ["orly: the store did not take the change"])


# Listing


def fill(data_dir: Path) -> None:
    """A data directory with something on most lists."""
    for arguments in (
        ("ban", A, B, "--reason", "line\nbreak\tand \x1b"),
        ("ban", "--event", IDS[0]),
        ("trust", C, "--reason", "ökonomisch"),
        ("spam", IDS[1], IDS[2]),
        ("allow-kind", "1", "30023"),
        ("block-ip", "192.0.2.7", "::1", "--reason", "x", "--for", "1000h"),
    ):
        done = run("acl", *arguments, data_dir=data_dir, variables=CURATING)
        assert done.returncode == 0, done.stderr


def test_lists_are_the_same_in_every_way(tmp_path: Path, short_directory: Path) -> None:
    data_dir = tmp_path / "data"
    fill(data_dir)
    names = [*stored(data_dir), "allowed-events", ""]
    assert len(names) == 8

    def told(*options: str | Path, skip: tuple[str, ...] = ()) -> dict[str, list[Any]]:
        found = {}
        for name in names:
            if name in skip:
                continue
            arguments = ("acl", "list", *([name] if name else []), "--json", *options)
            done = run(*arguments, data_dir=data_dir, variables=CURATING | PATIENT)
            assert (done.returncode, done.stderr) == (0, b""), done
            found[name] = [json.loads(line) for line in done.stdout.splitlines()]
        return found

    alone = told()
    assert [len(alone[name]) for name in ("banned-pubkeys", "spam-events", "blocked-ips", "allowed-events")] == [
        2,
        2,
        2,
        0,
    ]
    assert {row["by"] for name in names[:-2] for row in alone[name]} == {"operator"}
    with acl_service(data_dir, f"unix:{short_directory}/acl", **CURATING):
        service = told("--server", f"unix:{short_directory}/acl")
        beside = told()
    no_peers = {"list": "peer-pubkeys", "size": None}
    assert beside == alone
    assert service == alone | {"": [{**row, "size": 0} if row == no_peers else row for row in alone[""]]}
    with running_relay(ORLY_DATA_DIR=str(data_dir), **CURATING) as relay:
        there = told("--url", relay.url, "--auth-key-file", key_file(tmp_path), skip=("",))
        assert told() == alone
    for name, rows in there.items():
        kinds = name == "allowed-kinds"
        unknown = {"by": None, "added": None} if kinds else {"by": None}
        assert rows == [{**row, **unknown} for row in alone[name]]


def test_the_text_of_a_list_has_one_line_for_each_member(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    fill(data_dir)
    lines = run("acl", "list", "banned-pubkeys", data_dir=data_dir).stdout.decode().splitlines()
    first, second = (line.split("\t") for line in lines)
    assert [first[0], second[0]] == sorted([A, B])
    assert first[2:] == ["operator", "line\\nbreak\\tand \\x1b"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", first[1])
    assert "\tökonomisch\n" in run("acl", "list", "trusted-pubkeys", data_dir=data_dir).stdout.decode()
    kinds = run("acl", "list", "allowed-kinds", data_dir=data_dir).stdout.decode().splitlines()
    assert [line.split("\t")[0] for line in kinds] == ["1", "30023"]


def test_the_overview_has_what_counts_in_the_mode(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    fill(data_dir)
    lines = run("acl", "list", data_dir=data_dir, variables=CURATING).stdout.decode().splitlines()
    assert dict(line.split() for line in lines) == {
        "mode": "curating",
        "owners": "1",
        "admins": "0",
        "peer-pubkeys": "-",
        "banned-pubkeys": "2",
        "trusted-pubkeys": "1",
        "blacklisted-pubkeys": "0",
        "allowed-events": "0",
        "banned-events": "1",
        "spam-events": "2",
        "allowed-kinds": "2",
        "disallowed-kinds": "0",
        "blocked-ips": "2",
    }
    told = run("acl", "list", "--json", data_dir=data_dir).stdout.splitlines()
    assert json.loads(told[0]) == {"mode": "none", "owners": 0, "admins": 0}
    assert not {"trusted-pubkeys", "spam-events"} & {json.loads(line)["list"] for line in told[1:]}


def test_lists_are_empty_before_there_is_a_database(tmp_path: Path) -> None:
    def told(*arguments: str) -> str:
        done = run("acl", *arguments, data_dir=tmp_path / "data", variables=CURATING)
        assert (done.returncode, said(done)) == (
            0,
            [f"orly: there is no database in {tmp_path}/data yet: the lists are empty"],
        )
        return done.stdout.decode()

    sizes = dict(line.split() for line in told("list").splitlines())
    assert (sizes["mode"], sizes["owners"], sizes["banned-pubkeys"], sizes["peer-pubkeys"]) == (
        "curating",
        "1",
        "0",
        "-",
    )
    assert told("list", "banned-pubkeys") == ""
    assert told("show", OWNER_KEY).startswith(f"{OWNER_KEY} has the level owner in the mode curating: ")
    assert not (tmp_path / "data").exists()


def test_peers_are_known_to_a_process_that_runs(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    fill(data_dir)
    done = run("acl", "list", "peer-pubkeys", data_dir=data_dir)
    assert (done.returncode, done.stdout, "--server" in done.stderr.decode()) == (69, b"", True)


def test_a_reader_that_has_enough_is_no_trouble(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    file = write_lines(tmp_path / "keys", [key.encode() for key in many(20_000)])
    assert run("acl", "allow", "--file", file, data_dir=data_dir).returncode == 0
    with child("acl", "list", "allowed-pubkeys", data_dir=data_dir) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""


# Showing


def test_a_key_is_shown_alike_by_service_and_directory(tmp_path: Path, short_directory: Path) -> None:
    data_dir = tmp_path / "data"
    fill(data_dir)

    def shown(*arguments: str) -> str:
        done = run("acl", "show", *arguments, data_dir=data_dir, variables=CURATING | PATIENT)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout.decode()

    questions = (
        (A,),
        (B, "--ip", "192.0.2.7"),
        (OWNER_KEY,),
        (NPUB, "--json"),
        (C, "--json", "--ip", "::ffff:192.0.2.7"),
    )
    alone = [shown(*question) for question in questions]
    with acl_service(data_dir, f"unix:{short_directory}/acl", **CURATING):
        assert [shown(*question, "--server", f"unix:{short_directory}/acl") for question in questions] == alone
    assert "It is on banned-pubkeys since " in alone[0]
    assert "Its notes (kind 1) are not taken: blocked: your address is blocked on this relay.\n" in alone[1]
    assert "It is an owner's key, by ORLY_OWNERS.\n" in alone[2]
    nobody, trusted = json.loads(alone[3]), json.loads(alone[4])
    assert (nobody["pubkey"], nobody["lists"], nobody["level"], nobody["address"]) == (NPUB_HEX, [], "read", None)
    assert nobody["write"]["reason"].startswith("restricted: this relay is not set up yet")
    assert [(each["list"], each["reason"]) for each in trusted["lists"]] == [("trusted-pubkeys", "ökonomisch")]
    assert (trusted["address"]["ip"], trusted["address"]["block"]["reason"]) == ("192.0.2.7", "x")


@pytest.mark.parametrize("mode", list(Mode))
def test_what_is_stored_is_what_an_engine_decides_by(tmp_path: Path, mode: Mode) -> None:
    config = make_event(0, 30_078, NOW_S, [("d", "curating-config"), ("daily_limit", "7")])
    follows = make_event(0, 3, NOW_S, [("p", key) for key in KEYS[2:5]])
    rules = Rules(mode=mode, owners=frozenset({bytes.fromhex(OWNER_KEY)}))
    keys = [bytes.fromhex(key) for key in KEYS]

    async def play() -> None:
        store = await LmdbStore.open(tmp_path, max_bytes=TIB, now_s=lambda: NOW_S)
        await store.save([config, follows])
        engine = AclEngine(store, rules, now_s=lambda: NOW_S)
        await engine.start()
        over = BlockAddress("192.0.2.1", "for a while", NOW_S + 10)
        await engine.change([AddKey(name, keys[n]) for n, name in enumerate(KEPT_LISTS[:6], 1)], by="")
        await engine.change([over, BlockAddress("192.0.2.2"), AllowKind(1), SetInfo("name", "mine")], by=A)
        await engine.used([Use(keys[3], "192.0.2.3", 5)])
        lists = StoredLists(store, rules, now_s=lambda: NOW_S)
        while lists.snapshot is None or not lists.snapshot.used:  # counts are put on disk in their own time
            await lists.load()
        assert lists.snapshot == engine.snapshot
        assert len(lists.snapshot.keys[ListName.FOLLOWED_PUBKEYS]) == (3 if mode is Mode.FOLLOWS else 0)
        assert (lists.snapshot.curating is None) is (mode is not Mode.CURATING)
        assert lists.snapshot.used == {keys[3]: 5, "192.0.2.3": 5}
        for name in ListName:
            assert await lists.listed(name) == await engine.listed(name)
        assert await lists.entry_of(ListName.BLOCKED_IPS, "192.0.2.2") == Entry(added_s=NOW_S, by=A)
        await engine.aclose()
        await store.close()
        follower = await ReadOnlyStore.open(tmp_path, max_bytes=TIB)
        assert isinstance(follower, ReadOnlyStore)
        later = StoredLists(follower, rules, now_s=lambda: NOW_S + 10)
        await later.load()
        assert later.snapshot is not None
        assert later.snapshot.blocked == {"192.0.2.2"}
        with pytest.raises(StoreError, match="only read"):
            await follower.change_markers({})
        await follower.close()

    asyncio.run(asyncio.wait_for(play(), DEADLINE_S))


def test_stored_lists_keep_up_with_what_comes_from_events(tmp_path: Path) -> None:
    rules = Rules(mode=Mode.FOLLOWS, owners=frozenset({bytes.fromhex(OWNER_KEY)}))

    async def play() -> None:
        store = await LmdbStore.open(tmp_path, max_bytes=TIB, now_s=lambda: NOW_S)
        before = asyncio.all_tasks()
        still, lists = (StoredLists(store, rules, now_s=lambda: NOW_S) for _ in range(2))
        await still.load()
        await lists.load(follows=True)
        await store.save([make_event(0, 3, NOW_S, [("p", key) for key in KEYS[2:5]])])
        assert lists.snapshot is not None
        followed = lists.snapshot.keys[ListName.FOLLOWED_PUBKEYS]
        await until(lambda: len(followed) == 3, "the keys that are followed")
        await lists.close()
        assert still.snapshot is not None
        assert len(still.snapshot.keys[ListName.FOLLOWED_PUBKEYS]) == 0
        assert asyncio.all_tasks() == before
        await store.close()

    asyncio.run(asyncio.wait_for(play(), DEADLINE_S))


# Whose lists


def test_a_relay_that_runs_keeps_its_lists_to_itself(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with running_relay(ORLY_DATA_DIR=str(data_dir), **CURATING) as relay:
        done = run("acl", "ban", A, data_dir=data_dir, variables=CURATING | {"ORLY_PORT": "4567"})
        assert (done.returncode, done.stdout) == (69, b"")
        first, by_service, by_url = said(done)
        in_use = f"orly: the data directory {data_dir} is in use by another process (pid {relay.pid})"
        assert first.startswith(in_use)
        assert "--server 127.0.0.1:50052" in by_service
        assert "--url http://127.0.0.1:4567 --auth-key-file FILE" in by_url
        options = ("--url", relay.url, "--auth-key-file", key_file(tmp_path))
        done = run("acl", "ban", A, "--reason", "over HTTP", *options, data_dir=data_dir)
        assert (done.returncode, said(done)) == (0, ["1 banned"])
        (row,) = run("acl", "list", "banned-pubkeys", data_dir=data_dir).stdout.decode().splitlines()
        assert row.split("\t")[2:] == [OWNER_KEY, "over HTTP"]
        sizes = dict(
            line.split() for line in run("acl", "list", *options, data_dir=data_dir).stdout.decode().splitlines()
        )
        own = dict(
            line.split()
            for line in run("acl", "list", data_dir=data_dir, variables=CURATING).stdout.decode().splitlines()
        )
        assert sizes == {**own, "owners": "-", "admins": "-", "peer-pubkeys": "0"}
        shown = run("acl", "show", A, "--ip", "192.0.2.7", *options, data_dir=data_dir).stdout.decode().splitlines()
        assert shown[0] == f"{A} has the level none in the mode curating."
        assert re.fullmatch(r"It is on banned-pubkeys since \S+: over HTTP\.", shown[1])
        assert shown[2:] == ["The address 192.0.2.7 is not blocked."]
        done = run("acl", "ban", OWNER_KEY, *options, data_dir=data_dir)
        assert (done.returncode, len(said(done)), "owner" in said(done)[0]) == (1, 1, True)
        other = ("--url", relay.url, "--auth-key-file", key_file(tmp_path, 5))
        done = run("acl", "ban", B, *other, data_dir=data_dir)
        assert (done.returncode, len(said(done))) == (1, 1)
        assert list(stored(data_dir)["banned-pubkeys"]) == [bytes.fromhex(A)]
    assert run("acl", "unban", A, data_dir=data_dir, variables=CURATING).returncode == 0
    assert stored(data_dir) == {}


def test_settings_say_whose_lists(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    with tempfile.TemporaryDirectory(prefix="orly-test-") as home:
        listen = f"unix:{home}/acl"
        launched = {**CURATING, "ORLY_LAUNCHER_ACL_ENABLED": "true", "ORLY_ACL_LISTEN": listen}
        assert run("acl", "ban", A, data_dir=ours, variables=launched | PATIENT).returncode == 0  # nobody answers
        assert list(stored(ours)["banned-pubkeys"]) == [bytes.fromhex(A)]
        with acl_service(theirs, listen, **CURATING):
            named = CURATING | PATIENT | {"ORLY_ACL_TYPE": "grpc", "ORLY_GRPC_ACL_SERVER": listen}
            assert run("acl", "trust", B, data_dir=ours, variables=named).returncode == 0
            assert list(stored(theirs)["trusted-pubkeys"]) == [bytes.fromhex(B)]
            # it answers, and has the lists of this directory
            assert run("acl", "trust", C, data_dir=theirs, variables=launched | PATIENT).returncode == 0
            assert len(stored(theirs)["trusted-pubkeys"]) == 2
            sizes = run("acl", "list", data_dir=theirs, variables=launched | PATIENT).stdout.decode()
            assert "peer-pubkeys         0\n" in sizes
            # it answers, but has others
            assert run("acl", "trust", C, data_dir=ours, variables=launched | PATIENT).returncode == 0
            assert list(stored(ours)["trusted-pubkeys"]) == [bytes.fromhex(C)]
            assert len(stored(theirs)["trusted-pubkeys"]) == 2


def test_lists_behind_orly_db_can_be_read(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    fill(data_dir)
    with running_db(ORLY_DATA_DIR=str(data_dir)) as db:
        there = {**CURATING, "ORLY_DB_TYPE": "grpc", "ORLY_GRPC_SERVER": db.address}
        read = run("acl", "list", "banned-pubkeys", data_dir=tmp_path / "none", variables=there)
        changed = run("acl", "ban", C, data_dir=tmp_path / "none", variables=there)
    assert (read.returncode, len(read.stdout.splitlines())) == (0, 2)
    assert (changed.returncode, said(changed)[0].endswith("would not hear of a change")) == (69, True)


def test_a_service_that_is_not_there(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    for arguments in (("ban", A), ("list",), ("show", A)):
        done = run(
            "acl", *arguments, "--server", address, data_dir=tmp_path, variables={"ORLY_GRPC_ACL_TIMEOUT": "200ms"}
        )
        assert (done.returncode, done.stdout) == (69, b"")
        (line,) = said(done)
        assert line.startswith(f"orly: orly-acl at {address} was not ready within 0.2 s: ")


def test_a_service_that_does_not_let_us_in(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="orly-test-") as home:
        listen = f"unix:{home}/acl"
        with acl_service(tmp_path / "data", listen, ORLY_GRPC_TOKEN="correct-horse-battery", **CURATING):
            wrong = {**PATIENT, "ORLY_GRPC_TOKEN": "wrong-horse-battery"}
            done = run("acl", "ban", A, "--server", listen, data_dir=tmp_path / "none", variables=wrong)
            right = {**PATIENT, "ORLY_GRPC_TOKEN": "correct-horse-battery"}
            good = run("acl", "ban", A, "--server", listen, data_dir=tmp_path / "none", variables=right)
    assert (done.returncode, "refuses the call" in said(done)[0]) == (78, True)
    assert (good.returncode, said(good)) == (0, ["1 banned"])


def test_a_service_beyond_this_machine_needs_tls(tmp_path: Path) -> None:
    done = run("acl", "list", "--server", "acl.example.com:50052", data_dir=tmp_path)
    assert (done.returncode, said(done)[0].startswith("orly: --server acl.example.com:50052 is beyond")) == (78, True)
