"""Management without a store: parameters, the table of methods, and that every body has an answer and a log line."""

import asyncio
import json
import logging
from collections.abc import Sequence
from random import Random
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factory import KEYS, NOW_S
from tests.strategies import QUICK, junk_json, texts

from orly.access.commands import Command, Entry, Member, change_of, edits_of
from orly.access.control import AccessControl, ControlError, Listed
from orly.access.levels import Level, Mode
from orly.access.snapshot import ListName, Rules, Snapshot, UseChange
from orly.relay import management_events
from orly.relay.http_auth import Signer
from orly.relay.management import METHODS, SUPPORTED, Management, methods_in
from orly.relay.management_lists import MAX_LISTED
from orly.relay.management_params import (
    ADDRESS,
    KEY,
    KIND,
    NO_KEY,
    TEXT,
    Param,
    ParamError,
    number,
    read_params,
)
from orly.store.base import EventStore, StoreError

KEY_1: Final = KEYS[1]
OWNER: Final = Signer(pubkey=KEYS[0], level=Level.OWNER, address="192.0.2.1")
LOG: Final = "orly.relay.management"

EVERYWHERE: Final = {
    "allowevent",
    "allowkind",
    "banevent",
    "banpubkey",
    "blockip",
    "changerelaydescription",
    "changerelayicon",
    "changerelayname",
    "deleteevent",
    "deleteeventsforpubkey",
    "disallowkind",
    "geteventsforpubkey",
    "listallowedevents",
    "listallowedkinds",
    "listbannedevents",
    "listbannedpubkeys",
    "listblockedips",
    "listdisallowedkinds",
    "listeventsneedingmoderation",
    "unallowevent",
    "unbanevent",
    "unbanpubkey",
    "unblockip",
}
ALLOWING: Final = {"allowpubkey", "listallowedpubkeys", "unallowpubkey"}
CURATING: Final = {
    "blacklistpubkey",
    "getcuratingconfig",
    "isconfigured",
    "listblacklistedpubkeys",
    "listspamevents",
    "listtrustedpubkeys",
    "listunclassifiedusers",
    "markspam",
    "trustpubkey",
    "unblacklistpubkey",
    "unmarkspam",
    "untrustpubkey",
}


class FakeAccess:
    """Lists in memory."""

    def __init__(self, mode: Mode = Mode.MANAGED) -> None:
        self.snapshot: Snapshot | None = Snapshot(Rules(mode=mode, owners=frozenset({bytes.fromhex(KEYS[0])})))
        self.failure: ControlError | None = None

    @property
    def lists(self) -> Snapshot:
        assert self.snapshot is not None
        return self.snapshot

    async def change(self, commands: Sequence[Command], *, by: str) -> None:
        if self.failure is not None:
            raise self.failure
        for command in commands:
            for edit in edits_of(self.lists, command, by=by, now_s=NOW_S):
                self.lists.apply(change_of(edit))

    async def listed(self, name: ListName, *, after: Member | None = None, limit: int = 1000) -> Sequence[Listed]:
        members = sorted(self.lists.blocked) if name is ListName.BLOCKED_IPS else list(self.lists.keys[name])
        return [Listed(member, Entry(reason="r", added_s=NOW_S)) for member in members if after is None][:limit]


class FakeStore:
    """A store without events."""

    async def fetch(self, query: object) -> list[bytes]:
        return []

    async def count(self, query: object) -> int:
        return 0

    async def delete(self, ids: Sequence[bytes]) -> int:
        return 0

    def query(self, query: object, sink: Any) -> "FakeStore":
        sink.done(0)
        return self

    def cancel(self) -> None:
        """Nothing is under way."""


class BrokenStore(FakeStore):
    """A store that fails."""

    async def delete(self, ids: Sequence[bytes]) -> int:
        raise StoreError("the disk is gone")


def managing(access: FakeAccess, store: FakeStore, *log: logging.Logger) -> Management:
    return Management(cast(AccessControl, access), cast(EventStore, store), lambda: NOW_S, *log)


def call(
    body: bytes, access: FakeAccess | None = None, signer: Signer = OWNER, store: FakeStore | None = None
) -> dict[str, Any]:
    management = managing(access or FakeAccess(), store or FakeStore())
    answer = json.loads(asyncio.run(management.call(body, signer)))
    assert list(answer) in (["result"], ["error"])
    assert isinstance(answer, dict)
    return answer


def ask(method: str, *params: object, access: FakeAccess | None = None, **others: Any) -> dict[str, Any]:
    return call(json.dumps({"method": method, "params": params}).encode(), access, **others)


# Parameters


@pytest.mark.parametrize(
    ("param", "value", "read"),
    [
        (KEY, KEY_1, bytes.fromhex(KEY_1)),
        (KEY, KEY_1.upper(), bytes.fromhex(KEY_1)),
        (NO_KEY, KEY_1, KEY_1),
        (NO_KEY, KEY_1.upper(), KEY_1),
        (NO_KEY, "", ""),
        (NO_KEY, None, ""),
        (TEXT, "", ""),
        (TEXT, "a\nb", "a\nb"),
        (ADDRESS, "192.0.2.1", "192.0.2.1"),
        (ADDRESS, "::ffff:192.0.2.1", "192.0.2.1"),
        (ADDRESS, "2001:DB8:0::1", "2001:db8::1"),
        (KIND, 0, 0),
        (KIND, 65_535, 65_535),
        (number(1, 500), 500, 500),
    ],
)
def test_what_a_parameter_may_be(param: Param, value: object, read: object) -> None:
    assert read_params([value], [param]) == [read]


@pytest.mark.parametrize(
    ("param", "value", "form"),
    [
        (KEY, KEY_1[:-1], "64 hex digits"),
        (KEY, KEY_1 + "0", "64 hex digits"),
        (KEY, "g" * 64, "64 hex digits"),
        (KEY, KEY_1 + "\n", "64 hex digits"),
        (KEY, 5, "64 hex digits"),
        (KEY, None, "64 hex digits"),
        (KEY, [KEY_1], "64 hex digits"),
        (NO_KEY, "ab", "64 hex digits, or empty"),
        (TEXT, 1, "text"),
        (TEXT, None, "text"),
        (ADDRESS, "192.0.2.256", "an IP address"),
        (ADDRESS, "192.0.2.0/24", "an IP address"),
        (ADDRESS, 3_221_225_985, "an IP address"),
        (KIND, -1, "a kind, a number from 0 to 65535"),
        (KIND, 65_536, "a kind, a number from 0 to 65535"),
        (KIND, 1.0, "a kind, a number from 0 to 65535"),
        (KIND, True, "a kind, a number from 0 to 65535"),
        (KIND, "1", "a kind, a number from 0 to 65535"),
        (number(1, 500), 0, "a whole number from 1 to 500"),
        (number(1, 500), 501, "a whole number from 1 to 500"),
    ],
)
def test_what_a_parameter_may_not_be(param: Param, value: object, form: str) -> None:
    with pytest.raises(ParamError) as refusal:
        read_params(["x", value], [TEXT, param])
    assert str(refusal.value) == f"params[1] must be {form}"


def test_parameters_that_are_left_out() -> None:
    wanted = [KEY, TEXT.or_else("none"), KIND.or_else(7)]
    key = bytes.fromhex(KEY_1)
    assert read_params([KEY_1], wanted) == [key, "none", 7]
    assert read_params([KEY_1, None, 8], wanted) == [key, "none", 8]
    with pytest.raises(ParamError, match=r"params\[0\] must be 64 hex digits"):
        read_params([], wanted)


def test_parameters_that_are_too_many() -> None:
    with pytest.raises(ParamError, match="there are 2 parameters, this method takes 1"):
        read_params([KEY_1, None], [KEY])
    with pytest.raises(ParamError, match="there are 1 parameters, this method takes none"):
        read_params([None], [])


# The table


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        (Mode.NONE, EVERYWHERE),
        (Mode.FOLLOWS, EVERYWHERE | ALLOWING),
        (Mode.MANAGED, EVERYWHERE | ALLOWING),
        (Mode.CURATING, EVERYWHERE | CURATING),
    ],
)
def test_the_methods_of_a_mode(mode: Mode, names: set[str]) -> None:
    assert methods_in(mode) == sorted(names)
    assert ask(SUPPORTED, access=FakeAccess(mode)) == {"result": sorted(names)}


def test_no_method_is_offered_nowhere() -> None:
    assert {name for mode in Mode for name in methods_in(mode)} == set(METHODS)
    assert SUPPORTED not in METHODS


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_in_every_mode(mode: Mode, method: str) -> None:
    """With parameters that fit, each gives a result where it is offered, and says so where it is not."""
    given: dict[Any, object] = {KEY: KEY_1, TEXT: "text", ADDRESS: "192.0.2.9", KIND: 1}
    access = FakeAccess(mode)
    access.lists.keys[ListName.BANNED_PUBKEYS].add(bytes.fromhex(KEY_1))
    params = [given[param] for param in METHODS[method].params if param in given]
    answer = ask(method, *params, access=access)
    if method in methods_in(mode):
        assert list(answer) == ["result"]
    else:
        assert answer["error"] == (
            f"there is no method '{method}' in the mode {mode.value}: supportedmethods lists those there are"
        )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_refuses_too_many_parameters(method: str) -> None:
    access = FakeAccess(Mode.MANAGED if method in methods_in(Mode.MANAGED) else Mode.CURATING)
    assert "parameters, this method takes" in ask(method, *["x"] * 9, access=access)["error"]


# Calls


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is no call"),
        (b"[]", "the body is no call"),
        (b"{}", "missing required field `method`"),
        (b'{"method":5}', "$.method"),
        (b'{"method":"banpubkey","params":{}}', "$.params"),
        (b'{"method":"\xff"}', "the body is no call"),
        (b"[" * 50_000, "the body is no call"),
        (b'{"method":"drop tables"}', "there is no method 'drop tables': supportedmethods"),
        (b'{"method":""}', "there is no method ''"),
        (b'{"method":"supportedmethods","params":[1]}', "takes none"),
        (b'{"method":"allowkind","params":[123456789012345678901234567890]}', "params[0] must be a kind"),
    ],
)
def test_what_is_no_call(body: bytes, words: str) -> None:
    assert words in call(body)["error"]


@pytest.mark.parametrize("params", [b"", b',"params":null', b',"params":[]', b',"id":1,"jsonrpc":"2.0"'])
def test_parameters_may_be_missing(params: bytes) -> None:
    assert call(b'{"method":"listallowedkinds"%s}' % params) == {"result": []}


@pytest.mark.parametrize("level", [level for level in Level if level < Level.ADMIN])
def test_lower_levels_manage_nothing(level: Level) -> None:
    access = FakeAccess()
    answer = ask("banpubkey", KEY_1, access=access, signer=Signer(pubkey=KEY_1, level=level))
    assert answer == {"error": "only owners and admins may manage this relay"}
    assert not access.lists.keys[ListName.BANNED_PUBKEYS]


def test_the_errors_of_others_are_told() -> None:
    access = FakeAccess()
    access.failure = ControlError("the lists are away")
    assert ask("banpubkey", KEY_1, access=access) == {"error": "the lists are away"}
    assert ask("deleteevent", KEY_1, store=BrokenStore()) == {"error": "the disk is gone"}
    assert "more than 500 characters" in ask("banpubkey", KEY_1, "x" * 501)["error"]
    assert ask("changerelayname", "x" * 2001)["error"] == "the name has more than 2000 characters"
    access.snapshot = None
    assert "not ready" in ask("banpubkey", KEY_1, access=access)["error"]


def test_a_list_that_is_too_long_is_not_told() -> None:
    access = FakeAccess()
    access.lists.blocked = {str(n) for n in range(MAX_LISTED + 1)}
    assert ask("listblockedips", access=access)["error"] == (
        "there are 100001 blocked-ips, too many to be told here: use `orly acl list blocked-ips`"
    )
    access.lists.blocked.pop()
    assert len(ask("listblockedips", access=access)["result"]) == 1000  # this list has one page


def test_an_owner_cannot_be_banned() -> None:
    assert ask("banpubkey", KEYS[0])["error"] == "this key is an owner's (ORLY_OWNERS) and cannot be banned"


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
def test_of_many_users_those_with_the_most_events_are_found_in_slices(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(management_events, "SLICE_USES", 10)
    random, access = Random(limit), FakeAccess(Mode.CURATING)
    lists, keys = access.lists, [Random(number).randbytes(32) for number in range(500)]
    lists.day = NOW_S // (24 * 60 * 60)
    lists.used = {key: random.randrange(1, 20) for key in keys} | {"192.0.2.1": 99}
    for key in keys[::3]:
        lists.trusted_pubkeys.add(key)
    for key in keys[1::6]:
        lists.blacklisted_pubkeys.add(key)
    left = [(lists.used[key], key.hex()) for n, key in enumerate(keys) if n % 3 and n % 6 != 1]
    body = json.dumps({"method": "listunclassifiedusers", "params": [limit]}).encode()

    async def main() -> bytes:
        n_turns, asking = 0, asyncio.create_task(managing(access, FakeStore()).call(body, OWNER))
        while not asking.done():
            await asyncio.sleep(0)
            n_turns += 1
            lists.apply(UseChange(random.randbytes(32), 99))
        assert n_turns >= 50
        return asking.result()

    assert json.loads(asyncio.run(main()))["result"] == [
        {"pubkey": pubkey, "events": count} for count, pubkey in sorted(left, reverse=True)[:limit]
    ]


# The log


def audits(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOG]


def test_the_log_says_who_did_what(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG)
    ask("banpubkey", KEY_1, "spam\nand é")
    ask("banpubkey", "x")
    assert audits(caplog) == [
        f"audit: by={KEYS[0]} level=owner from=192.0.2.1 method=banpubkey "
        f'params=["{KEY_1}", "spam\\nand \\u00e9"] outcome=ok',
        f"audit: by={KEYS[0]} level=owner from=192.0.2.1 method=banpubkey "
        'params=["x"] outcome=error: params[0] must be 64 hex digits',
    ]


def test_the_log_is_short_and_cannot_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG)
    ask("x outcome=ok\n" * 100, "y" * 1000, {"deep": 1})
    (line,) = audits(caplog)
    method, _, rest = line.partition("method=")[2].partition(" ")
    shown, _, outcome = rest.removeprefix("params=").partition(" outcome=")
    assert len(method) == 40
    assert set(method) <= set("xoutcmek?")
    assert len(shown) == 300
    assert outcome.startswith("error: there is no method")
    assert "\n" not in line


def test_refused_calls_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG)
    management = managing(FakeAccess(), FakeStore())
    management.refused("", None, "no header")
    management.refused("192.0.2.1", Signer(pubkey=KEY_1, level=Level.WRITE), "too low")
    assert audits(caplog) == [
        "audit: by=- level=- from=- method=- params=[] outcome=error: no header",
        f"audit: by={KEY_1} level=write from=192.0.2.1 method=- params=[] outcome=error: too low",
    ]


# Any body

_params = st.lists(st.one_of(junk_json(4), st.sampled_from([KEY_1, KEYS[0], "192.0.2.1", 1, 500, ""])), max_size=4)
_calls = st.fixed_dictionaries(
    {"method": st.one_of(st.sampled_from([*METHODS, SUPPORTED]), texts(8))},
    optional={"params": st.one_of(_params, junk_json(4)), "id": junk_json(2)},
)
_bodies = st.one_of(
    st.one_of(junk_json(), _calls, _calls, _calls).map(lambda value: json.dumps(value).encode()), st.binary(max_size=40)
)


LINES: Final[list[str]] = []


class Lines(logging.Handler):
    """Keeps what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        LINES.append(record.getMessage())


ALONE: Final = logging.getLogger("management of the property test")
ALONE.addHandler(Lines())
ALONE.setLevel(logging.INFO)
ALONE.propagate = False


@QUICK
@given(_bodies, st.sampled_from(Mode))
def test_every_body_has_an_answer_and_one_log_line(body: bytes, mode: Mode) -> None:
    LINES.clear()
    management = managing(FakeAccess(mode), FakeStore(), ALONE)
    answer = json.loads(asyncio.run(management.call(body, OWNER)))
    assert list(answer) in (["result"], ["error"])
    assert len(LINES) == 1
    assert LINES[0].isprintable()
