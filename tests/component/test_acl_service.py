"""The ACLService over gRPC: every call, the lists by their names in ORLY, and relays that follow the lists."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import grpc
import pytest
from tests.component.acl_world import (
    ADMIN,
    ANYBODY,
    BY,
    OTHER,
    OWNER,
    AclWorld,
    acl_world,
    config_event,
    follow_list,
    following,
    key,
    put_markers,
    rules,
    serving_acl,
)
from tests.component.async_test import async_test
from tests.factory import KEYS, NOW_S, fake_event, make_event
from tests.wsclient import DEADLINE_S, until

from orly.access.commands import (
    AddKey,
    AllowKind,
    BlockAddress,
    Command,
    CommandError,
    DisallowKind,
    DropKey,
    Member,
    SetInfo,
    UnblockAddress,
)
from orly.access.control import ControlError, Listed, Use, UseMark
from orly.access.curating import CONFIG_D, CONFIG_KIND, CuratingConfig
from orly.access.levels import Mode
from orly.access.snapshot import (
    DAY_S,
    KEY_LISTS,
    AddressChange,
    Change,
    DayChange,
    KeyChange,
    KindChange,
    ListName,
    Snapshot,
    UseChange,
)
from orly.acl import lists, remote, wire
from orly.acl.lists import MAX_COMMANDS
from orly.acl.remote import RemoteAccess
from orly.acl.service import ADMINISTRATIVE, FOR_RELAYS, MAX_EVENTS_USED, SERVICE_NAME
from orly.acl.wire import PLACE, encode, snapshot_parts
from orly.nostr.event import EncodedEvent
from orly.nostr.nip98 import WINDOW_S
from orly.pb.orlyacl.v1 import lists_pb2, service_pb2, types_pb2, watch_pb2
from orly.rpc.events import to_pb
from orly.store.base import StoreError

ADDRESS, ELSEWHERE = "192.0.2.1", "2001:db8::1"
BANNED = ListName.BANNED_PUBKEYS
CURATING = rules(Mode.CURATING)
FOLLOWS = rules(Mode.FOLLOWS)
THROTTLED = rules(Mode.FOLLOWS, throttles=True)
EMPTY = types_pb2.Empty()
EVENT_ID = "ab" * 32
METHODS: Final = service_pb2.DESCRIPTOR.services_by_name["ACLService"].methods


@asynccontextmanager
async def acl(directory: Path, chosen: Any = None, *stored: EncodedEvent) -> AsyncIterator[tuple[AclWorld, Any]]:
    """A world with some events, and the stub of its service."""
    async with acl_world(directory, chosen, is_started=False) as world:
        await world.put(*stored)
        await world.engine.start()
        async with serving_acl(world) as served, asyncio.timeout(3 * DEADLINE_S):
            yield world, served.stub


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def invalid(call: Any) -> str:
    """Why a call is refused; it must be for what it asks."""
    code, text = await refusal(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("invalid: ")
    return text.removeprefix("invalid: ")


# Every call


@pytest.mark.parametrize("mode", Mode)
def test_every_call_answers(tmp_path: Path, mode: Mode) -> None:
    asked_wrongly = set()

    @async_test
    async def play() -> None:
        async with acl(tmp_path, rules(mode)) as (_, stub):
            for method in METHODS:
                request = getattr(
                    {"lists": lists_pb2, "types": types_pb2, "watch": watch_pb2}[
                        method.input_type.file.name.rpartition("/")[2].removesuffix(".proto")
                    ],
                    method.input_type.name,
                )()
                call = getattr(stub, method.name)(request, wait_for_ready=True)
                if method.server_streaming:
                    assert (await call.read()).rules
                    call.cancel()
                    continue
                if await call.code() is grpc.StatusCode.OK:
                    assert (await call).DESCRIPTOR.full_name == method.output_type.full_name
                    continue
                assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT, method.name
                assert (await call.details()).startswith("invalid: "), method.name
                asked_wrongly.add(method.name)

    play()
    without_arguments = {method.name for method in METHODS if method.input_type.name == "Empty"}
    assert not asked_wrongly & without_arguments
    assert {"BanPubkey", "BlockIP", "MarkSpam", "CheckAccess", "CheckPolicy", "ChangeLists"} <= asked_wrongly
    assert not asked_wrongly & {"Configure", "AllowKind", "GetAccessLevel", "UpdatePeerAdmins"}


def test_which_calls_change_something() -> None:
    changing = {name.removeprefix(f"{SERVICE_NAME}/") for name in ADMINISTRATIVE}
    reading = {method.name for method in METHODS} - changing
    assert {name for name in reading if not name.startswith(("List", "Get", "Check"))} == {
        "Ready",
        "WatchSnapshot",
        "ReportUse",
        "RateLimitCheck",
        "UseOnce",
        "IsCuratingConfigured",
    }
    assert "GetThrottleDelay" in reading
    assert {"Configure", "ChangeLists", "AddFollow", "UpdatePeerAdmins", "BanPubkey", "UnmarkSpam"} <= changing
    assert {f"{SERVICE_NAME}/{name}" for name in ("WatchSnapshot", "ReportUse", "UseOnce")} == FOR_RELAYS


@async_test
async def test_a_service_without_lists_says_so(tmp_path: Path) -> None:
    async with acl_world(tmp_path, is_started=False) as world, serving_acl(world) as served:
        assert not (await served.stub.Ready(EMPTY)).ready
        for call in (
            served.stub.GetMode(EMPTY),
            served.stub.GetAccessLevel(types_pb2.GetAccessLevelRequest(pubkey=key(OTHER))),
            served.stub.BanPubkey(lists_pb2.PubkeyReasonRequest(pubkey=KEYS[OTHER])),
            served.stub.UpdatePeerAdmins(types_pb2.UpdatePeerAdminsRequest(peer_pubkeys=[key(OTHER)])),
        ):
            assert await refusal(call) == (
                grpc.StatusCode.INTERNAL,
                "error: access control is not ready yet",
            )
        code, text = await refusal(served.stub.WatchSnapshot(EMPTY).read())
        assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "error: access control is not ready yet")
        async with following(served.address, waits=False) as access:
            await world.engine.start()
            await asyncio.wait_for(access.came(), DEADLINE_S)
        assert (await served.stub.Ready(EMPTY)).ready


@async_test
async def test_a_store_that_fails_is_an_error(tmp_path: Path) -> None:
    async with acl(tmp_path) as (world, stub):
        world.store.change_error = world.store.read_error = StoreError("the disk is full")
        assert await refusal(stub.BlockIP(lists_pb2.IPReasonRequest(ip=ADDRESS))) == (
            grpc.StatusCode.INTERNAL,
            "error: the store did not take the change: the disk is full",
        )
        assert await refusal(stub.ListBannedPubkeys(EMPTY)) == (
            grpc.StatusCode.INTERNAL,
            "error: the list cannot be read: the disk is full",
        )
        assert await refusal(stub.GetAdminRelays(EMPTY)) == (grpc.StatusCode.INTERNAL, "error: the disk is full")


# The lists by their names in ORLY


def pubkey(add: str, drop: str, rows: str, note: str = "reason") -> Any:
    request = lists_pb2.PubkeyNoteRequest if note == "note" else lists_pb2.PubkeyReasonRequest
    return pytest.param(
        add,
        [request(pubkey=each, **{note: "why"}) for each in (KEYS[OTHER], KEYS[ANYBODY].upper())],
        drop,
        [lists_pb2.PubkeyRequest(pubkey=each) for each in (KEYS[OTHER], KEYS[ANYBODY])],
        rows,
        sorted(({"pubkey": each, note: "why"} for each in (KEYS[OTHER], KEYS[ANYBODY])), key=str),
        id=add,
    )


def event(add: str, drop: str, rows: str) -> Any:
    ids = [f"{n:02x}" * 32 for n in range(2)]
    return pytest.param(
        add,
        [lists_pb2.EventReasonRequest(event_id=each, reason="why") for each in ids],
        drop,
        [lists_pb2.EventRequest(event_id=each) for each in ids],
        rows,
        [{"event_id": each, "reason": "why"} for each in ids],
        id=add,
    )


@pytest.mark.parametrize(
    ("add", "added", "drop", "dropped", "rows", "wanted"),
    [
        pubkey("BanPubkey", "UnbanPubkey", "ListBannedPubkeys"),
        pubkey("AllowPubkey", "DisallowPubkey", "ListAllowedPubkeys"),
        pubkey("TrustPubkey", "UntrustPubkey", "ListTrustedPubkeys", "note"),
        pubkey("BlacklistPubkey", "UnblacklistPubkey", "ListBlacklistedPubkeys"),
        event("BanEvent", "UnbanEvent", "ListBannedEvents"),
        event("AllowEvent", "DisallowEvent", "ListAllowedEvents"),
        pytest.param(
            "MarkSpam",
            [lists_pb2.MarkSpamRequest(event_id=EVENT_ID, pubkey=KEYS[OTHER].upper(), reason="buy")],
            "UnmarkSpam",
            [lists_pb2.EventRequest(event_id=EVENT_ID)],
            "ListSpamEvents",
            [{"event_id": EVENT_ID, "pubkey": KEYS[OTHER], "reason": "buy"}],
            id="MarkSpam",
        ),
        pytest.param(
            "BlockIP",
            [lists_pb2.IPReasonRequest(ip=each, reason="rude") for each in ("::ffff:192.0.2.1", "2001:DB8::1")],
            "UnblockIP",
            [lists_pb2.IPRequest(ip=each) for each in (ADDRESS, "2001:db8:0::1")],
            "ListBlockedIPs",
            [{"ip": ADDRESS, "reason": "rude"}, {"ip": ELSEWHERE, "reason": "rude"}],
            id="BlockIP",
        ),
    ],
)
def test_a_list_is_kept_by_its_calls(
    tmp_path: Path,
    add: str,
    added: Sequence[Any],
    drop: str,
    dropped: Sequence[Any],
    rows: str,
    wanted: list[dict[str, Any]],
) -> None:
    @async_test
    async def play() -> None:
        async with acl(tmp_path, CURATING) as (_, stub):

            async def listed() -> list[dict[str, Any]]:
                (field,) = (await getattr(stub, rows)(EMPTY)).ListFields()
                return [
                    {each.name: value for each, value in row.ListFields() if each.name != "added" or value != NOW_S}
                    for row in field[1]
                ]

            for request in added:
                await getattr(stub, add)(request)
            assert await listed() == wanted
            for request in dropped[:-1]:
                await getattr(stub, drop)(request)
            assert len(await listed()) == 1
            await getattr(stub, drop)(dropped[-1])
            await getattr(stub, drop)(dropped[-1])
            assert not (await getattr(stub, rows)(EMPTY)).ListFields()

    play()


@async_test
async def test_kinds(tmp_path: Path) -> None:
    async with acl(tmp_path) as (world, stub):

        async def allowed() -> list[int]:
            return list((await stub.ListAllowedKinds(EMPTY)).kinds)

        for kind in (40_000, 7, 1):
            await stub.AllowKind(lists_pb2.KindRequest(kind=kind))
        assert await allowed() == [1, 7, 40_000]
        await stub.DisallowKind(lists_pb2.KindRequest(kind=7))
        assert await allowed() == [1, 40_000]
        assert world.lists.kinds[ListName.DISALLOWED_KINDS] == {7}
        assert await invalid(stub.AllowKind(lists_pb2.KindRequest(kind=-1))) == (
            "a kind is a number from 0 to 65535, not -1"
        )


@pytest.mark.parametrize(
    ("call", "request_", "text"),
    [
        ("BanPubkey", lists_pb2.PubkeyReasonRequest(pubkey="npub1x"), "'npub1x' is not 64 hex digits"),
        ("BanPubkey", lists_pb2.PubkeyReasonRequest(pubkey="ab" * 31), f"'{'ab' * 31}' is not 64 hex digits"),
        ("BanPubkey", lists_pb2.PubkeyReasonRequest(pubkey="ab " * 22), f"'{'ab ' * 22}' is not 64 hex digits"),
        (
            "BanPubkey",
            lists_pb2.PubkeyReasonRequest(pubkey=KEYS[OWNER]),
            "this key is an owner's (ORLY_OWNERS) and cannot be banned",
        ),
        (
            "BlacklistPubkey",
            lists_pb2.PubkeyReasonRequest(pubkey=KEYS[ADMIN]),
            "this key is an admin's (ORLY_ADMINS) and cannot be banned",
        ),
        (
            "TrustPubkey",
            lists_pb2.PubkeyNoteRequest(pubkey=KEYS[OTHER], note="x" * 501),
            "the reason has more than 500 characters",
        ),
        ("UnbanEvent", lists_pb2.EventRequest(event_id=""), "'' is not 64 hex digits"),
        ("MarkSpam", lists_pb2.MarkSpamRequest(event_id=EVENT_ID, pubkey="x"), "'x' is not 64 hex digits"),
        (
            "BlockIP",
            lists_pb2.IPReasonRequest(ip="192.0.2.0/24"),
            "'192.0.2.0/24' is no IP address, and no IPv6 network of 64 bits",
        ),
        ("BlockIP", lists_pb2.IPReasonRequest(ip="fe80::1%eth0"), "write the address without its zone: fe80::1"),
        ("AddFollow", types_pb2.AddFollowRequest(pubkey=b"x"), "a key has 32 bytes, not 1"),
        (
            "UpdatePeerAdmins",
            types_pb2.UpdatePeerAdminsRequest(peer_pubkeys=[bytes(32), b"xy"]),
            "a key has 32 bytes, not 2",
        ),
        ("GetAccessLevel", types_pb2.GetAccessLevelRequest(pubkey=b"x"), "a key has 32 bytes, not 1"),
        ("GetAccessLevel", types_pb2.GetAccessLevelRequest(address="here"), "'here' is no IP address"),
        (
            "CheckAccess",
            types_pb2.CheckAccessRequest(operation="delete"),
            "operation must be read, write or admin, not 'delete'",
        ),
        ("RateLimitCheck", lists_pb2.RateLimitCheckRequest(pubkey=KEYS[2], ip="x"), "'x' is no IP address"),
        ("Configure", types_pb2.ConfigureRequest(settings={"name": "x" * 2_001}), "the name has more than 2000 ch"),
        ("ChangeLists", watch_pb2.ChangeListsRequest(commands=b"\xc1"), "the message cannot be read: "),
        (
            "ChangeLists",
            watch_pb2.ChangeListsRequest(commands=encode([AllowKind(1)] * (MAX_COMMANDS + 1))),
            "401 commands are more than the 400 that are taken at once",
        ),
        ("ChangeLists", watch_pb2.ChangeListsRequest(commands=encode([3])), "the message cannot be read: "),
        ("ListMembers", watch_pb2.ListMembersRequest(list="friends"), "there is no list 'friends'"),
        (
            "ListMembers",
            watch_pb2.ListMembersRequest(list="banned-pubkeys", after=encode(None)),
            "the message cannot be read: a member is no NoneType",
        ),
        (
            "GetMember",
            watch_pb2.GetMemberRequest(list="blocked-ips", member=encode("1" * 65)),
            "the message cannot be read: a member of 65 characters is too long",
        ),
        ("ReportUse", watch_pb2.ReportUseRequest(uses=encode([Use(b"x", "", 1)])), "a key has 32 bytes, not 1"),
        (
            "ReportUse",
            watch_pb2.ReportUseRequest(uses=encode([]), mark=encode(UseMark(bytes(17), 1, 1))),
            "a process that reports is named by 16 bytes, not 17",
        ),
        ("ReportUse", watch_pb2.ReportUseRequest(uses=encode([]), mark=b"\xc1"), "the message cannot be read: "),
        (
            "ReportUse",
            watch_pb2.ReportUseRequest(uses=encode([Use(bytes(32), "::FFFF:192.0.2.1", 1)])),
            "the address must be written 192.0.2.1, not '::FFFF:192.0.2.1'",
        ),
        (
            "ReportUse",
            watch_pb2.ReportUseRequest(uses=encode([Use(bytes(32), "", -1)])),
            "a number of events is from 0 to 1000000000, not -1",
        ),
        (
            "ReportUse",
            watch_pb2.ReportUseRequest(uses=encode([Use(bytes(32), "", MAX_EVENTS_USED + 1)])),
            "a number of events is from 0 to 1000000000, not 1000000001",
        ),
    ],
)
def test_what_cannot_be_asked(tmp_path: Path, call: str, request_: Any, text: str) -> None:
    @async_test
    async def play() -> None:
        async with acl(tmp_path) as (world, stub):
            version = world.lists.version
            assert (await invalid(getattr(stub, call)(request_))).startswith(text)
            assert world.lists.version == version

    play()


# Questions


@pytest.mark.parametrize(
    ("number", "address", "levels"),
    [
        (OWNER, ADDRESS, "owner owner owner owner"),
        (OWNER, ELSEWHERE, "owner owner owner owner"),
        (ADMIN, "", "admin admin admin admin"),
        (2, ADDRESS, "banned banned banned banned"),
        (2, "", "banned banned banned banned"),
        (2, ELSEWHERE, "blocked blocked blocked blocked"),
        (3, "", "write read read banned"),
        (4, ADDRESS, "write write write write"),
        (4, "::ffff:192.0.2.9", "blocked blocked blocked blocked"),
        (5, "", "write write read write"),
        (6, "", "write read read write"),
        (None, "", "read read read read"),
        (None, ADDRESS, "read read read read"),
        (None, ELSEWHERE, "blocked blocked blocked blocked"),
    ],
)
def test_levels(tmp_path: Path, number: int | None, address: str, levels: str) -> None:
    @async_test
    async def play() -> None:
        stored = (follow_list(OWNER, KEYS[5]), config_event(OWNER))
        modes = (Mode.NONE, Mode.FOLLOWS, Mode.MANAGED, Mode.CURATING)
        async with acl(tmp_path, rules(), *stored) as (world, _):
            await world.change(
                AddKey(BANNED, key(2)),
                AddKey(ListName.BLACKLISTED_PUBKEYS, key(3)),
                AddKey(ListName.ALLOWED_PUBKEYS, key(4)),
                BlockAddress(ELSEWHERE),
                BlockAddress("192.0.2.9"),
                BlockAddress("::"),
            )
            for mode, wanted in zip(modes, levels.split(), strict=True):
                await world.restart(rules(mode))
                async with serving_acl(world) as served:
                    pubkey = b"" if number is None else key(number)
                    request = types_pb2.GetAccessLevelRequest(pubkey=pubkey, address=address)
                    assert (await served.stub.GetAccessLevel(request)).level == wanted, mode
                    read = types_pb2.CheckAccessRequest(pubkey=pubkey, address=address, operation="read")
                    assert (await served.stub.CheckAccess(read)).level == wanted, mode

    play()


@async_test
async def test_access(tmp_path: Path) -> None:
    async with acl(tmp_path, rules(Mode.MANAGED, reads_restricted=True)) as (world, stub):
        await world.change(AddKey(ListName.ALLOWED_PUBKEYS, key(2)), AddKey(BANNED, key(3)), DisallowKind(7))

        async def answer(operation: str, number: int | None, kind: int = 1) -> tuple[bool, str]:
            pubkey = b"" if number is None else key(number)
            found = await stub.CheckAccess(
                types_pb2.CheckAccessRequest(pubkey=pubkey, operation=operation, kind=kind, address=ADDRESS)
            )
            return found.allowed, found.reason.partition(":")[0]

        for operation, who in (
            ("read", {OWNER: "", ADMIN: "", 2: "", 3: "blocked", 4: "restricted", None: "auth-required"}),
            ("write", {OWNER: "", ADMIN: "", 2: "", 3: "blocked", 4: "restricted", None: "restricted"}),
            ("admin", {OWNER: "", ADMIN: "", 2: "restricted", 3: "restricted", None: "restricted"}),
        ):
            for number, prefix in who.items():
                assert await answer(operation, number) == (not prefix, prefix), (operation, number)
        for number in (OWNER, 2):
            assert await answer("write", number, 7) == (False, "blocked")
            assert await answer("read", number, 7) == (True, "")


@pytest.mark.parametrize(("chosen", "prefix"), [(FOLLOWS, "restricted"), (THROTTLED, ""), (rules(), "")])
def test_who_may_write_slowly_may_write(tmp_path: Path, chosen: Any, prefix: str) -> None:
    @async_test
    async def play() -> None:
        async with acl(tmp_path, chosen) as (_, stub):
            request = types_pb2.CheckAccessRequest(pubkey=key(OTHER), operation="write", kind=1)
            answer = await stub.CheckAccess(request)
            assert (answer.allowed, answer.reason.partition(":")[0]) == (not prefix, prefix)

    play()


@async_test
async def test_kinds_of_the_configuration_bind_all_but_moderators(tmp_path: Path) -> None:
    async with acl(tmp_path, CURATING, config_event(OWNER, ("kind", "1"))) as (_, stub):
        for number, kind, allowed in ((OTHER, 1, True), (OTHER, 2, False), (ADMIN, 2, True)):
            answer = await stub.CheckAccess(
                types_pb2.CheckAccessRequest(pubkey=key(number), operation="write", kind=kind)
            )
            assert answer.allowed is allowed, (number, kind)
            offered = to_pb(make_event(number, kind).event)
            assert (await stub.CheckPolicy(types_pb2.CheckPolicyRequest(event=offered))).allowed is allowed


@async_test
async def test_policy(tmp_path: Path) -> None:
    async with acl(tmp_path, CURATING, config_event(OWNER, ("daily_limit", "2"), ("ip_daily_limit", "3"))) as (
        world,
        stub,
    ):
        await world.change(AddKey(BANNED, key(3)), AddKey(ListName.TRUSTED_PUBKEYS, key(4)), BlockAddress(ELSEWHERE))

        async def answer(number: int, address: str = "", pubkey: bytes = b"") -> str:
            found = await stub.CheckPolicy(
                types_pb2.CheckPolicyRequest(event=to_pb(make_event(number).event), address=address, pubkey=pubkey)
            )
            assert found.allowed is (found.error == "")
            return str(found.error)

        assert await answer(2) == ""
        assert await answer(3) == "blocked: its author is banned on this relay"
        assert await answer(2, pubkey=key(3)) == "blocked: the key you authenticated with is banned on this relay"
        assert await answer(2, ELSEWHERE) == "blocked: your address is blocked on this relay"
        await world.engine.used([Use(key(2), ADDRESS, 1), Use(key(5), ADDRESS, 1)])
        assert await answer(2, ADDRESS) == ""
        await world.engine.used([Use(key(5), ADDRESS, 1)])
        over = "rate-limited: 3 events a day are taken from one address"
        assert await answer(2, "::ffff:192.0.2.1") == over
        assert await answer(2) == ""
        await world.engine.used([Use(key(2), "", 1)])
        assert await answer(2) == "rate-limited: 2 events a day are taken of a key that is not trusted"
        for number in (4, OWNER):
            assert await answer(number, ADDRESS) == ""
        assert await answer(2, ADDRESS, key(ADMIN)) == ""
        wrong_id = to_pb(make_event(2).event)
        wrong_id.content = b"forged"
        assert "id" in await invalid(stub.CheckPolicy(types_pb2.CheckPolicyRequest(event=wrong_id)))
        assert await invalid(stub.CheckPolicy(types_pb2.CheckPolicyRequest())) == "id has 0 bytes, not 32"
        await world.change(AddKey(ListName.BANNED_EVENTS, make_event(4).id))
        assert await answer(4) == "blocked: this event is banned on this relay"


@async_test
async def test_limits_of_the_day(tmp_path: Path) -> None:
    async with acl(tmp_path, CURATING) as (world, stub):

        async def answer(number: int, ip: str = "") -> tuple[bool, str]:
            found = await stub.RateLimitCheck(lists_pb2.RateLimitCheckRequest(pubkey=KEYS[number], ip=ip))
            return found.allowed, found.message

        await world.engine.used([Use(key(2), ADDRESS, 1)])
        assert await answer(2, ADDRESS) == (True, ""), "the relay is not set up"
        await world.put(config_event(OWNER, ("daily_limit", "2"), ("ip_daily_limit", "3")))
        await until(lambda: world.lists.curating is not None, "the configuration")
        assert await answer(2, ADDRESS) == (True, "")
        await world.engine.used([Use(key(2), ADDRESS, 1)])
        by_key = "rate-limited: 2 events a day are taken of a key that is not trusted"
        by_address = "rate-limited: 3 events a day are taken from one address"
        assert await answer(2, ADDRESS) == (False, by_key)
        assert await answer(2) == (False, by_key)
        assert await answer(3, ADDRESS) == (True, "")
        await world.engine.used([Use(key(3), ADDRESS, 1)])
        assert await answer(3, "::ffff:192.0.2.1") == (False, by_address)
        assert await answer(3, ELSEWHERE) == (True, "")
        assert await answer(OWNER, ADDRESS) == (True, "")
        await world.change(AddKey(ListName.TRUSTED_PUBKEYS, key(2)))
        assert await answer(2, ADDRESS) == (True, "")


@async_test
async def test_how_long_strangers_wait(tmp_path: Path) -> None:
    async with acl(tmp_path, THROTTLED, follow_list(OWNER, KEYS[4])) as (world, stub):

        async def delays(number: int | None, ip: str = ADDRESS, count: int = 3) -> list[int]:
            pubkey = b"" if number is None else key(number)
            request = types_pb2.ThrottleDelayRequest(pubkey=pubkey, ip=ip)
            return [(await stub.GetThrottleDelay(request)).delay_ms for _ in range(count)]

        assert await delays(2) == [25, 50, 75]
        assert await delays(3, "::ffff:192.0.2.1", 1) == [100]
        assert await delays(3, "") == [50, 75, 100]
        for number in (OWNER, ADMIN, 4, None):
            assert await delays(number) == [0, 0, 0]
        await stub.AddFollow(types_pb2.AddFollowRequest(pubkey=key(2)))
        assert await delays(2) == [0, 0, 0]
        world.clock.now += 1
        assert await delays(3, "", 1) == [25]


@pytest.mark.parametrize("chosen", [rules(), FOLLOWS, rules(Mode.MANAGED), CURATING])
def test_elsewhere_nobody_waits(tmp_path: Path, chosen: Any) -> None:
    @async_test
    async def play() -> None:
        async with acl(tmp_path, chosen) as (_, stub):
            request = types_pb2.ThrottleDelayRequest(pubkey=key(OTHER), ip=ADDRESS)
            assert [(await stub.GetThrottleDelay(request)).delay_ms for _ in range(2)] == [0, 0]

    play()


@async_test
async def test_who_is_followed_and_where(tmp_path: Path) -> None:
    stored = (
        follow_list(OWNER, KEYS[4], KEYS[5]),
        fake_event(OWNER, kind=10_002, tags=[("r", "wss://a.example"), ("r", "wss://b.example", "read"), ("r",)]),
        fake_event(ADMIN, kind=10_002, tags=[("r", "wss://b.example"), ("x", "wss://c.example")], created_at=1),
        fake_event(OTHER, kind=10_002, tags=[("r", "wss://d.example")]),
    )
    async with acl(tmp_path, FOLLOWS, *stored) as (world, stub):
        assert list((await stub.GetFollowedPubkeys(EMPTY)).pubkeys) == sorted((key(4), key(5)))
        assert list((await stub.GetAdminRelays(EMPTY)).urls) == ["wss://a.example", "wss://b.example"]
        await world.change(AddKey(BANNED, key(2)))
        await stub.AddFollow(types_pb2.AddFollowRequest(pubkey=key(2)))
        assert [row.member for row in await world.engine.listed(ListName.ALLOWED_PUBKEYS)] == [key(2)]
        assert key(2) not in world.lists.keys[BANNED]
        for peers in ([key(6), key(7)], [key(7)], []):
            await stub.UpdatePeerAdmins(types_pb2.UpdatePeerAdminsRequest(peer_pubkeys=peers))
            assert set(world.lists.keys[ListName.PEER_PUBKEYS]) == set(peers)


@pytest.mark.parametrize("mode", Mode)
def test_the_mode(tmp_path: Path, mode: Mode) -> None:
    @async_test
    async def play() -> None:
        async with acl(tmp_path, rules(mode)) as (_, stub):
            assert (await stub.GetMode(EMPTY)).mode == (await stub.GetType(EMPTY)).mode == mode.value
            info = await stub.GetACLInfo(EMPTY)
            assert info.name == mode.value
            assert info.description.endswith(".")

    play()


# Configuring


def config_of(world: AclWorld) -> CuratingConfig | None:
    return world.lists.curating


def signed_config(number: int, *tags: tuple[str, ...], d: str = CONFIG_D, created_at: int = NOW_S) -> EncodedEvent:
    return make_event(number, CONFIG_KIND, created_at, [("d", d), *tags])


@async_test
async def test_configuring_by_event(tmp_path: Path) -> None:
    async with acl(tmp_path, CURATING) as (world, stub):

        async def configure(event: Any, **settings: str) -> str:
            message = to_pb(event.event) if isinstance(event, EncodedEvent) else event
            answer = await stub.Configure(types_pb2.ConfigureRequest(event=message, settings=settings))
            assert answer.applied is (answer.error == "")
            return str(answer.error)

        assert not (await stub.IsCuratingConfigured(EMPTY)).value
        assert (await stub.GetCuratingConfig(EMPTY)).config_event_id == ""
        good = signed_config(ADMIN, ("daily_limit", "7"), ("kind", "1"), ("kind_range", "5-9"), ("kind_category", "dm"))
        forged = to_pb(good.event)
        forged.sig = bytes(64)
        for event, text in (
            (forged, "invalid: the signature does not match"),
            (make_event(OWNER), "invalid: it is no configuration: kind 30078 with the d tag curating-config"),
            (signed_config(OWNER, d="x"), "invalid: it is no configuration: kind 30078 with the d tag curating-config"),
            (signed_config(OTHER), "restricted: only owners and admins configure this relay"),
            (signed_config(OWNER, ("kind", "x")), "invalid: kind must be a whole number, not 'x'"),
        ):
            assert await configure(event) == text
        unknown = "'port' cannot be set at run time; only name, description, icon can"
        assert await configure(good, port="1", name="x") == unknown
        assert config_of(world) is None
        assert world.lists.info == {}
        assert await world.seen() == []

        assert await configure(good, name="x") == ""
        assert config_of(world) == CuratingConfig(daily_limit=7, kinds=(1,), ranges=((5, 9),), categories=("dm",))
        assert world.lists.info == {"name": "x"}
        assert await world.seen() == [good.event.id]
        assert (await stub.IsCuratingConfigured(EMPTY)).value
        assert await stub.GetCuratingConfig(EMPTY) == lists_pb2.CuratingConfigResponse(
            config_event_id=good.event.id,
            config_pubkey=KEYS[ADMIN],
            configured_at=NOW_S,
            daily_limit=7,
            ip_daily_limit=500,
            first_ban_hours=1,
            second_ban_hours=168,
            kind_categories=["dm"],
            allowed_ranges=["5-9"],
            allowed_kinds=[1],
        )
        assert await configure(good) == "", "once more is no error"
        older = signed_config(ADMIN, created_at=NOW_S - 1)
        assert await configure(older) == "blocked: it was not stored: superseded"
        wrong_id = to_pb(good.event)
        wrong_id.created_at += 1
        assert "id" in await invalid(stub.Configure(types_pb2.ConfigureRequest(event=wrong_id)))


@async_test
async def test_configuring_what_the_relay_says_of_itself(tmp_path: Path) -> None:
    async with acl(tmp_path) as (world, stub):

        async def configure(**settings: str) -> str:
            return str((await stub.Configure(types_pb2.ConfigureRequest(settings=settings))).error)

        assert await configure() == ""
        assert await configure(name="A", description="B", icon="https://example.com/i.png") == ""
        assert world.lists.info == {"name": "A", "description": "B", "icon": "https://example.com/i.png"}
        assert await configure(name="", icon="") == ""
        assert await configure(zap="1", name="C") == (
            "'zap' cannot be set at run time; only name, description, icon can"
        )
        assert world.lists.info == {"description": "B"}
        await world.restart()
        assert world.lists.info == {"description": "B"}


# Following


def some_command(random: Random) -> Command:
    name = random.choice([each for each in KEY_LISTS if each not in KEY_LISTS[:2]])
    member = key(random.randint(2, 7))
    address = f"192.0.2.{random.randint(1, 3)}"
    commands: list[Command] = [
        AddKey(name, member, random.choice(["", "ß" * 500])),
        DropKey(name, member),
        AllowKind(random.randint(0, 3)),
        DisallowKind(random.randint(0, 3)),
        BlockAddress(address, "", random.choice([0, NOW_S + 1_000])),
        UnblockAddress(address),
        SetInfo(random.choice(["name", "icon"]), random.choice(["", "x", "y"])),
    ]
    return random.choice(commands)


async def until_equal(access: RemoteAccess, world: AclWorld) -> None:
    await until(lambda: access.snapshot == world.lists, "the same lists on both sides")


@pytest.mark.parametrize("seed", range(4))
def test_who_follows_has_the_same_lists(tmp_path: Path, seed: int) -> None:
    random = Random(seed)

    @async_test
    async def play() -> None:
        async with (
            acl_world(tmp_path, CURATING) as world,
            serving_acl(world) as served,
            following(served.address) as early,
            following(served.address) as other,
        ):
            versions = []
            for _ in range(25):
                commands = [some_command(random) for _ in range(random.randint(1, 6))]
                match random.randint(0, 3):
                    case 0:
                        await world.change(*commands)
                    case 1:
                        await early.change(commands, by=BY)
                        assert early.snapshot == world.lists, "it holds at once where it was asked for"
                    case 2:
                        await other.used([Use(key(random.randint(2, 5)), ADDRESS, random.randint(0, 2))])
                        assert other.snapshot is not None
                        assert other.snapshot.used == world.lists.used
                    case _:
                        world.engine.set_peers({key(random.randint(2, 7)) for _ in range(2)})
                assert early.snapshot is not None
                versions.append(early.snapshot.version)
            await world.put(config_event(OWNER, ("daily_limit", "3")))
            await until(lambda: world.lists.curating is not None, "the configuration")
            await until_equal(early, world)
            await until_equal(other, world)
            assert versions == sorted(versions)
            async with following(served.address) as late:
                assert late.snapshot == world.lists
            await same_answers(world, early)

    play()


async def same_answers(world: AclWorld, access: RemoteAccess) -> None:
    """What is asked of one side is answered as by the other."""
    members: list[Member] = [*(key(n) for n in range(8)), *range(5), *(f"192.0.2.{n}" for n in range(5))]
    for name in ListName:
        rows = list(await world.engine.listed(name))
        assert list(await access.listed(name)) == rows
        for row in rows[:2]:
            for limit in (0, 1, 2):
                assert list(await access.listed(name, after=row.member, limit=limit)) == list(
                    await world.engine.listed(name, after=row.member, limit=limit)
                )
        for member in members:
            assert await access.entry_of(name, member) == await world.engine.entry_of(name, member)


@async_test
async def test_a_page_of_a_list_from_afar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [n.to_bytes(32, "big") for n in range(2_500)]
    async with acl_world(tmp_path, is_started=False) as world:
        await put_markers(world.store, ListName.ALLOWED_EVENTS, members)
        await world.engine.start()
        async with serving_acl(world) as served, following(served.address) as access:
            assert [row.member for row in await access.listed(ListName.ALLOWED_EVENTS)] == members[:1_000]
            assert len(await access.listed(ListName.ALLOWED_EVENTS, limit=2_400)) == 2_400
            assert len((await served.stub.ListAllowedEvents(EMPTY)).events) == 2_500
            monkeypatch.setattr(lists, "MAX_LISTED_BYTES", 1)
            found: list[Listed] = []
            while page := await access.listed(
                ListName.ALLOWED_EVENTS, after=found[-1].member if found else None, limit=2_400
            ):
                assert len(page) <= 1_000
                found += page
            assert [row.member for row in found] == members


@async_test
async def test_errors_are_the_same_from_afar(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world, serving_acl(world) as served, following(served.address) as access:
        too_many: list[Command] = [AllowKind(1)] * (MAX_COMMANDS + 1)
        wrong: list[list[Command]] = [
            [AddKey(BANNED, b"x")],
            [AddKey(BANNED, key(OWNER))],
            [BlockAddress("x")],
            [SetInfo("name", "x" * 2_001)],
            too_many,
        ]
        for commands in wrong:
            texts = []
            for control in (world.engine, access):
                with pytest.raises(CommandError) as caught:
                    await control.change(commands, by=BY)
                texts.append(str(caught.value))
            assert texts[0] == texts[1]
        world.store.change_error = world.store.read_error = StoreError("the disk is full")
        calls: list[Callable[[Any], Any]] = [
            lambda control: control.change([AllowKind(1)], by=BY),
            lambda control: control.listed(BANNED),
            lambda control: control.entry_of(BANNED, key(OTHER)),
        ]
        for call in calls:
            texts = []
            for control in (world.engine, access):
                with pytest.raises(ControlError) as failed:
                    await call(control)
                texts.append(str(failed.value))
            assert texts[0] == texts[1]
            assert texts[0].endswith("the disk is full")
        world.store.change_error = None
        await access.change([AddKey(BANNED, key(OTHER), "rude")], by=BY)
        world.store.read_error = None
        entry = await access.entry_of(BANNED, key(OTHER))
        assert entry is not None
        assert (entry.by, entry.reason) == (BY, "rude")
        await access.change([], by=BY)


@async_test
async def test_an_event_allows_one_request_whoever_is_asked(tmp_path: Path) -> None:
    async with acl_world(tmp_path) as world, serving_acl(world) as served, following(served.address) as access:
        first, second = make_event(0), make_event(1)
        assert await access.use_once(first.id)
        assert not await access.use_once(first.id)
        assert not await world.engine.use_once(first.id)
        assert await world.engine.use_once(second.id)
        assert not await access.use_once(second.id)
        with pytest.raises(CommandError, match="an event id has 32 bytes, not 1"):
            await access.use_once(b"x")


@async_test
async def test_a_service_that_began_again_knows_what_was_used(tmp_path: Path) -> None:
    used, unused = make_event(0), make_event(1)
    async with acl_world(tmp_path) as world:
        async with serving_acl(world) as served, following(served.address) as access:
            assert await access.use_once(used.id)
        await world.restart()
        async with serving_acl(world) as served, following(served.address) as one, following(served.address) as two:
            assert not await one.use_once(used.id)
            assert not await two.use_once(used.id)
            assert await one.use_once(unused.id)
            assert not await two.use_once(unused.id)


@async_test
async def test_an_event_whose_use_is_not_noted_allows_nothing_and_is_not_spent(tmp_path: Path) -> None:
    event = make_event(0)
    async with acl_world(tmp_path) as world, serving_acl(world) as served, following(served.address) as access:
        world.store.change_error = StoreError("the disk is full")
        with pytest.raises(ControlError, match="the store did not note that the event is used: the disk is full"):
            await access.use_once(event.id)
        world.store.change_error = None
        assert await access.use_once(event.id)
        assert not await access.use_once(event.id)


@async_test
async def test_what_was_used_is_kept_for_as_long_as_it_counts(tmp_path: Path) -> None:
    events = [make_event(n) for n in range(4)]
    async with acl_world(tmp_path) as world:
        for event in events[:2]:
            assert await world.engine.use_once(event.id)
        world.clock.now += 2 * WINDOW_S
        assert await world.engine.use_once(events[2].id)
        assert await world.kept("acl/once/") == sorted(f"acl/once/{event.id.hex()}" for event in events[:3])
        await world.restart()
        world.clock.now += 1
        assert await world.engine.use_once(events[3].id)
        assert await world.kept("acl/once/") == sorted(f"acl/once/{event.id.hex()}" for event in events[2:])


@async_test
async def test_a_long_list_arrives_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "HIDE_WAIT_S", 0.01)
    random = Random(1)
    members = sorted({random.randbytes(32) for _ in range(100_000)})
    async with acl_world(tmp_path, rules(owners=frozenset()), is_started=False) as world:
        await put_markers(world.store, BANNED, members)
        await put_markers(world.store, ListName.ALLOWED_EVENTS, members[:70_000:2])
        world.store.hide_error = StoreError("later")  # a hundred thousand keys need not be hidden here
        await world.engine.start()
        async with serving_acl(world) as served, following(served.address) as access:
            assert access.snapshot is not None
            assert access.snapshot.keys[BANNED].rows() == b"".join(members)
            assert access.snapshot.keys[ListName.ALLOWED_EVENTS].rows() == b"".join(members[:70_000:2])
            assert access.snapshot == world.lists
            await world.engine.change([DropKey(BANNED, members[50_000]), AddKey(BANNED, bytes(32))], by=BY)
            await until_equal(access, world)
            assert members[50_000] not in access.snapshot.keys[BANNED]
            assert bytes(32) in access.snapshot.keys[BANNED]
            assert len((await served.stub.ListBannedPubkeys(EMPTY)).pubkeys) == 100_000


@async_test
async def test_who_follows_too_slowly_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orly.acl.board.MAX_UNREAD", 10)
    async with acl_world(tmp_path) as world, serving_acl(world) as served, following(served.address) as access:
        first = access.snapshot
        assert first is not None
        version = first.version
        world.engine.set_peers([n.to_bytes(32, "big") for n in range(11)])
        await until_equal(access, world)
        assert access.snapshot is not first
        assert access.snapshot is not None
        assert access.snapshot.version > version
        await access.change([AddKey(BANNED, key(OTHER))], by=BY)
        assert access.snapshot == world.lists
        call = served.stub.WatchSnapshot(EMPTY)
        while not (await call.read()).is_complete:
            pass
        world.engine.set_peers([])
        code, text = await refusal(call.read())
        assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "error: too much has changed, begin again")


@async_test
async def test_the_last_lists_stand_while_the_service_is_away(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/acl"
    async with (
        acl_world(tmp_path) as world,
        following(address, waits=False) as access,
        following(address, timeout_s=0.05, waits=False) as hasty,
    ):
        changes: list[int] = []
        access.listen(lambda: changes.append(0 if access.snapshot is None else access.snapshot.version))
        for _ in range(3):
            async with serving_acl(world, address):
                await until_equal(access, world)
                await access.change([DisallowKind(len(changes))], by=BY)
                assert access.snapshot == world.lists
            before, kinds = access.snapshot, set(world.lists.kinds[ListName.DISALLOWED_KINDS])
            assert before is not None
            for call in (hasty.change([AddKey(BANNED, key(OTHER))], by=BY), hasty.entry_of(BANNED, key(OTHER))):
                with pytest.raises(ControlError):
                    await call
            await world.change(DisallowKind(100 + len(changes)), AddKey(BANNED, len(changes).to_bytes(32, "big")))
            assert access.snapshot is before
            assert before.kinds[ListName.DISALLOWED_KINDS] == kinds
            assert access.snapshot != world.lists
            await world.restart()
            assert key(OTHER) not in world.lists.keys[BANNED]
        async with serving_acl(world, address):
            await until_equal(access, world)
        assert len(changes) >= 4
        assert changes == sorted(changes)


@async_test
async def test_who_never_heard_of_any_lists_has_none(tmp_path: Path) -> None:
    async with following(f"unix:{tmp_path}/nobody", timeout_s=0.05, waits=False) as access:
        with pytest.raises(ControlError, match=r"access control did not answer within 0\.05 s"):
            await access.change([AllowKind(1)], by=BY)
        assert access.snapshot is None
    with pytest.raises(ControlError, match="access control is closed"):
        await access.listed(BANNED)


@async_test
async def test_who_asks_is_told_when_it_is_closed(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/acl"
    async with acl_world(tmp_path) as world, serving_acl(world, address):
        async with following(address) as access:
            world.store.hold_changes()
            changing = asyncio.create_task(access.change([AllowKind(0)], by=BY))
            await until(lambda: world.store.n_waiting == 1, "the change")
            other = asyncio.create_task(access.change([AllowKind(1)], by=BY))
            for _ in range(5):
                await asyncio.sleep(0)
            other.cancel()
            await asyncio.wait((other,))
            assert other.cancelled(), "who gives up himself is told nothing else"
        with pytest.raises(ControlError, match="access control is closed"):
            await asyncio.wait_for(changing, DEADLINE_S)
        world.store.let_changes()
        await until(lambda: 0 in world.lists.kinds[ListName.ALLOWED_KINDS], "the change that was under way")


# Peers that make no sense


class Fake:
    """What stands in for the service: the messages of each call of WatchSnapshot; the last goes on with `later`."""

    def __init__(self, *calls: Iterable[bytes], place: str = "") -> None:
        self.calls = [list(each) for each in calls]
        self.later: asyncio.Queue[bytes] = asyncio.Queue()
        self.n_calls = 0
        self.n_answers = 0
        self.answer = b""
        self.place = ((PLACE, place),) if place else ()

    async def watch(self, request: bytes, context: Any) -> None:
        messages = self.calls[min(self.n_calls, len(self.calls) - 1)]
        self.n_calls += 1
        if self.place:
            await context.send_initial_metadata(self.place)
        for message in messages:
            await context.write(message)
        while self.n_calls >= len(self.calls):
            await context.write(await self.later.get())

    async def answering(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(self.place)
        self.n_answers += 1
        return self.answer

    @asynccontextmanager
    async def serving(self, address: str) -> AsyncIterator[None]:
        server = grpc.aio.server()
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self.answering)
            for name in ("ChangeLists", "ListMembers", "GetMember", "ReportUse")
        }
        handlers["WatchSnapshot"] = grpc.unary_stream_rpc_method_handler(self.watch)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
        server.add_insecure_port(address)
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)


def part(**fields: Any) -> bytes:
    return watch_pb2.SnapshotPart(**fields).SerializeToString()


def changed(*changes: Change) -> bytes:
    return part(changes=encode(changes))


def whole(snapshot: Snapshot) -> list[bytes]:
    return [each.SerializeToString() for each in snapshot_parts(snapshot)]


RULES = part(rules=encode(rules()))
SENSELESS: Final[dict[str, list[bytes]]] = {
    "nothing": [],
    "no message": [b"\xff\xff\xff"],
    "text that is none": [b"\x12\x01\xff"],
    "an end without rules": [part(is_complete=True)],
    "rules that are none": [part(rules=b"\xc1")],
    "rules of a mode that is none": [part(rules=encode({"mode": "x"}))],
    "a list that is none": [RULES, part(list="friends", keys=bytes(32))],
    "keys on a list of kinds": [RULES, part(list="allowed-kinds", keys=bytes(32))],
    "keys in disorder": [RULES, part(list="spam-events", keys=b"\xff" * 32 + bytes(32)), part(is_complete=True)],
    "half a key": [RULES, part(list="spam-events", keys=b"\xff" * 16), part(is_complete=True)],
    "changes that are none": [RULES, part(changes=b"\x91\xc0")],
    "changes of nobody": [RULES, part(changes=encode([{"type": "UseChange", "who": 7, "n_events": 1}]))],
    "a short key": [RULES, changed(KeyChange(BANNED, b"x", True)), part(is_complete=True)],
    "a kind on a list of keys": [RULES, changed(KindChange(BANNED, 1, True)), part(is_complete=True)],
}


@async_test
async def test_lists_that_make_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LONGEST_PAUSE_S", 0.05)
    snapshot = Snapshot(rules())
    snapshot.apply(KeyChange(BANNED, key(OTHER), True))
    address = f"unix:{tmp_path}/fake"
    fake = Fake(*SENSELESS.values(), whole(snapshot))
    async with following(address, waits=False) as access, fake.serving(address):
        heard: list[int] = []
        access.listen(lambda: heard.append(fake.n_calls))
        await asyncio.wait_for(access.came(), DEADLINE_S)
        assert access.snapshot == snapshot
        assert heard == [len(SENSELESS) + 1]


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xff\xff",
        part(is_complete=True),
        part(list="spam-events", keys=bytes(32)),
        changed(KeyChange(BANNED, b"x", True)),
        changed(KindChange(BANNED, 1, True)),
        part(changes=b"\x91\xc0"),
    ],
)
def test_changes_that_make_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: bytes) -> None:
    monkeypatch.setattr(remote, "LONGEST_PAUSE_S", 0.05)
    first, second = Snapshot(rules()), Snapshot(rules())
    first.apply(KeyChange(BANNED, key(OTHER), True))
    second.apply(AddressChange(ADDRESS, True))

    @async_test
    async def play() -> None:
        address = f"unix:{tmp_path}/fake"
        fake = Fake([*whole(first), message], [b"\xff"], [*whole(second), changed(AddressChange(ELSEWHERE, True))])
        async with following(address, waits=False) as access, fake.serving(address):
            seen: list[tuple[int, list[bytes]]] = []

            def look() -> None:
                assert access.snapshot is not None
                seen.append((access.snapshot.version, list(access.snapshot.keys[BANNED])))

            access.listen(look)
            second.apply(AddressChange(ELSEWHERE, True))
            await until(lambda: access.snapshot == second, "lists that make sense")
            versions, keys = zip(*seen, strict=True)
            assert list(versions) == sorted(set(versions))
            assert keys == ([key(OTHER)], [], [])

    play()


@async_test
async def test_answers_that_make_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "HEAR_S", 0.01)
    address = f"unix:{tmp_path}/fake"
    snapshot = Snapshot(rules())
    fake = Fake(whole(snapshot), place="first 7")
    async with following(address, waits=False) as access, fake.serving(address):
        await asyncio.wait_for(access.came(), DEADLINE_S)
        fake.answer = b"\xff"
        for call in (access.change([], by=BY), access.listed(BANNED), access.entry_of(BANNED, key(OTHER))):
            with pytest.raises(ControlError, match="the answer of access control cannot be read"):
                await call
        fake.answer = watch_pb2.ListMembersResponse(members=b"\xc1").SerializeToString()
        with pytest.raises(ControlError, match="the answer of access control cannot be read: "):
            await access.listed(BANNED)
        fake.answer = watch_pb2.GetMemberResponse(entry=b"\xc1").SerializeToString()
        with pytest.raises(ControlError, match="the answer of access control cannot be read: "):
            await access.entry_of(BANNED, key(OTHER))
        fake.answer = b""
        await access.change([], by=BY)
        for place in ("first 8", "second 0", "first", "x y", "first ²"):
            fake.place = ((PLACE, place),) if place.isascii() else ()
            await access.change([], by=BY)
        assert access.snapshot == snapshot


@async_test
async def test_who_changes_the_lists_waits_until_it_is_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "HEAR_S", DEADLINE_S)
    address = f"unix:{tmp_path}/fake"
    before = Snapshot(rules())
    changes: list[Change] = [KeyChange(BANNED, key(OTHER), True), UseChange(ADDRESS, 3)]
    fake = Fake(whole(before), place="first 7")
    async with following(address, waits=False) as access, fake.serving(address):
        await asyncio.wait_for(access.came(), DEADLINE_S)
        for change, call in zip(changes, (access.change([], by=BY), access.used([])), strict=True):
            n_answers = fake.n_answers + 1
            fake.place = ((PLACE, f"first {7 + n_answers}"),)
            waiting = asyncio.ensure_future(call)
            await until_answered(fake, n_answers)
            done, _ = await asyncio.wait((waiting,), timeout=0.05)
            assert not done
            fake.later.put_nowait(changed(change))
            await asyncio.wait_for(waiting, DEADLINE_S)
            before.apply(change)
            assert access.snapshot == before


async def until_answered(fake: Fake, n_answers: int) -> None:
    await until(lambda: fake.n_answers == n_answers, "the answer")


def test_parts_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PART_KEYS", 2)
    monkeypatch.setattr(wire, "PART_CHANGES", 3)
    snapshot = Snapshot(CURATING)
    for n in range(5):
        snapshot.apply(KeyChange(BANNED, n.to_bytes(32, "big"), True))
        snapshot.apply(AddressChange(f"192.0.2.{n}", True))
    snapshot.apply(DayChange(7))
    snapshot.apply(UseChange(key(OTHER), 3))
    snapshot.apply(UseChange(ADDRESS, 4))
    parts = list(snapshot_parts(snapshot))
    assert [len(each.keys) for each in parts if each.keys] == [64, 64, 32]
    assert len([each for each in parts if each.changes]) == 3
    reader = wire.SnapshotReader(40)
    for each in parts[:-1]:
        reader.take(each)
        assert reader.snapshot is None
    reader.take(parts[-1])
    assert reader.snapshot == snapshot
    assert reader.snapshot is not None
    assert reader.snapshot.version > 40


def test_parts_are_of_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PART_CHANGES", 2)
    snapshot, before = Snapshot(CURATING), Snapshot(CURATING)
    for each in (snapshot, before):
        for n in range(5):
            each.apply(KeyChange(BANNED, n.to_bytes(32, "big"), True))
            each.apply(UseChange(n.to_bytes(32, "big"), n + 1))
    reader = wire.SnapshotReader(0)
    for n, part_of_it in enumerate(snapshot_parts(snapshot)):
        reader.take(part_of_it)
        snapshot.apply(UseChange(bytes([n]) * 32, 100))
        snapshot.apply(KeyChange(BANNED, bytes([n]) * 32, False))
        snapshot.apply(AddressChange(f"192.0.2.{n}", True))
    assert reader.snapshot == before


@async_test
async def test_counts_that_come_over_the_wire_are_no_news(tmp_path: Path) -> None:
    async with (
        acl_world(tmp_path, CURATING) as world,
        serving_acl(world) as served,
        following(served.address) as access,
    ):
        heard: list[int] = []
        assert access.snapshot is not None
        snapshot = access.snapshot
        access.listen(lambda: heard.append(snapshot.version))
        mark = UseMark(bytes(16), 1, NOW_S // DAY_S)
        for _ in range(2):
            await access.used([Use(key(2), "2001:db8::/64", 3)], mark=mark)
        assert snapshot.used == world.lists.used == {key(2): 3, "2001:db8::/64": 3}
        assert heard == []
        await access.change([AddKey(BANNED, key(3))], by=BY)
        assert heard == [snapshot.version]
