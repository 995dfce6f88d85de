"""Whose lists `orly acl` works on: those of an `orly-acl`, or those in the data directory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol

from orly import clock
from orly.access.commands import Entry, Member
from orly.access.control import AccessControl, Listed
from orly.access.snapshot import ListName, Snapshot
from orly.acl.engine import AclEngine
from orly.acl.rules import rules_from_settings
from orly.appliance.planning import local_address
from orly.cli.acl_options import AclError, Where
from orly.cli.server_option import RemoteError, server_address
from orly.opening.store import OpenedStore, open_store
from orly.process.exit_codes import ExitCode
from orly.process.serve import ServiceError
from orly.process.streams import tell
from orly.services import ACL
from orly.settings import Settings
from orly.settings_access import acl_server
from orly.settings_service_types import UNIX_PREFIX
from orly.store.base import StoreError, StoreLockedError, StoreMissingError, StoreUnavailableError
from orly.store.lmdb.environment import open_environment

if TYPE_CHECKING:
    from orly.acl.remote import RemoteAccess

__all__ = ["Reading", "followed", "lists_of", "opened_to_change", "opened_to_read", "service_of"]

ANSWER_S: Final = 2.0
"""How long it may take a service of this machine to take a connection."""


class Reading(Protocol):
    """What is read of access control; see `AccessControl`."""

    @property
    def snapshot(self) -> Snapshot | None:
        """The lists."""

    async def listed(self, name: ListName, *, after: Member | None = None, limit: int = 1000) -> Sequence[Listed]:
        """A page of a list."""

    async def entry_of(self, name: ListName, member: Member) -> Entry | None:
        """What is known of a member."""


def lists_of(access: Reading) -> Snapshot:
    """The lists, which are there once it is open."""
    snapshot = access.snapshot
    assert snapshot is not None
    return snapshot


@asynccontextmanager
async def opened_to_read(settings: Settings, where: Where) -> AsyncIterator[Reading]:
    """The lists, to be read.

    Raises:
        AclError: They are out of reach.
    """
    async with AsyncExitStack() as stack:
        if (server := await service_of(settings, where)) is not None:
            yield await followed(settings, server, stack)
        else:
            yield await _stored(settings, stack)


@asynccontextmanager
async def opened_to_change(settings: Settings, where: Where) -> AsyncIterator[AccessControl]:
    """The lists, to be changed.

    Raises:
        AclError: They are out of reach, or another process has them.
    """
    async with AsyncExitStack() as stack:
        if (server := await service_of(settings, where)) is not None:
            yield await followed(settings, server, stack)
        else:
            yield await _own(settings, stack)


# Which


async def service_of(settings: Settings, where: Where) -> str | None:
    """The `orly-acl` that has the lists; None if it is the data directory.

    Raises:
        AclError: It may not be called in the way that was asked for.
    """
    if where.server is not None:
        return _given(settings, where.server)
    if (server := acl_server(settings)) is not None:
        return server
    here = local_address(settings.acl_listen)
    if settings.launcher_acl_enabled and await _answers(here) and _is_in_use(settings):
        return here
    return None


def _given(settings: Settings, text: str) -> str:
    try:
        address = server_address(settings, text)
    except RemoteError as error:
        raise AclError(error.code, str(error).replace("ORLY_GRPC_SERVER=", "--server ")) from None
    assert address is not None  # one was given
    return address


async def _answers(address: str) -> bool:
    """Whether somebody listens there."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            if address.startswith(UNIX_PREFIX):
                _, writer = await asyncio.open_unix_connection(address.removeprefix(UNIX_PREFIX))
            else:
                host, _, port = address.rpartition(":")
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
        return True
    return False


def _is_in_use(settings: Settings) -> bool:
    """Whether another process has the store: if none has, an `orly-acl` that answers belongs to another one."""
    if settings.db_type == "grpc":
        return True
    try:
        open_environment(settings.data_dir, max_bytes=settings.db_max_bytes, read_only=True).close()
        open_environment(settings.data_dir, max_bytes=settings.db_max_bytes).close()
    except StoreLockedError:
        return True
    except StoreUnavailableError:
        return False  # there is none yet, or its opening says what is wrong with it
    return False


# A service


async def followed(settings: Settings, address: str, stack: AsyncExitStack) -> "RemoteAccess":
    """The lists of a service, once they are there.

    Raises:
        AclError: They do not come.
    """
    from orly.acl.remote import RemoteAccess  # what gRPC needs is for those who use it
    from orly.opening.access import SERVICE
    from orly.rpc.channel import AccessRefusedError, NotReadyError, channel_from_settings, wait_ready
    from orly.rpc.credentials import CredentialsError

    timeout_s = settings.grpc_acl_timeout_s
    until_s = clock.monotonic_s() + timeout_s
    try:
        channel = channel_from_settings(settings, address)
    except CredentialsError as error:
        raise AclError(ExitCode.SETTINGS, str(error)) from None
    try:
        await wait_ready(channel, service=SERVICE, timeout_s=timeout_s, program=ACL.name)
    except BaseException as error:
        await channel.close()
        if isinstance(error, NotReadyError):
            code = ExitCode.SETTINGS if isinstance(error, AccessRefusedError) else ExitCode.UNAVAILABLE
            raise AclError(code, str(error)) from None
        raise
    access = RemoteAccess(channel, timeout_s=timeout_s)
    stack.push_async_callback(access.aclose)
    try:
        async with asyncio.timeout(until_s - clock.monotonic_s()):
            await access.came()
    except TimeoutError:
        text = f"the lists of {ACL.name} at {address} did not come within {timeout_s:g} s"
        raise AclError(ExitCode.UNAVAILABLE, text) from None
    return access


# The data directory


async def _stored(settings: Settings, stack: AsyncExitStack) -> Reading:
    """The lists as they are stored, whoever else uses them."""
    from orly.cli.acl_stored import NoLists, StoredLists
    from orly.cli.read_only import ReadOnlyStore

    try:
        if settings.db_type == "grpc":
            store = (await _opened(settings, stack)).store
        else:
            follower = await ReadOnlyStore.open(settings.data_dir, max_bytes=settings.db_max_bytes)
            stack.push_async_callback(follower.close)
            assert isinstance(follower, ReadOnlyStore)
            store = follower
        lists = StoredLists(store, rules_from_settings(settings), now_s=clock.now_s)
        await lists.load()
    except StoreMissingError as error:
        tell(f"orly: {error} yet: the lists are empty")
        return NoLists(rules_from_settings(settings))
    except StoreUnavailableError as error:
        raise AclError(ExitCode.SETTINGS, str(error)) from None
    except StoreError as error:
        raise AclError(ExitCode.FAILED, str(error)) from None
    return lists


async def _own(settings: Settings, stack: AsyncExitStack) -> AclEngine:
    """The lists in the data directory, which nobody else has meanwhile."""
    if settings.db_type == "grpc":
        text = (
            f"the lists are in the store of orly-db at {settings.grpc_server}, and whoever decides by them would not "
        )
        raise AclError(ExitCode.UNAVAILABLE, f"{text}hear of a change\n{_advice(settings)}")
    try:
        opened = await _opened(settings, stack)
        engine = AclEngine(opened.store, rules_from_settings(settings), now_s=clock.now_s)
        stack.push_async_callback(engine.aclose)
        await engine.start()
    except StoreLockedError as error:
        raise AclError(ExitCode.UNAVAILABLE, f"{error}\n{_advice(settings)}") from None
    except StoreUnavailableError as error:
        raise AclError(ExitCode.SETTINGS, str(error)) from None
    except StoreError as error:
        raise AclError(ExitCode.FAILED, str(error)) from None
    return engine


async def _opened(settings: Settings, stack: AsyncExitStack) -> OpenedStore:
    try:
        opened = await open_store(settings, stop=asyncio.Event())
    except ServiceError as error:
        raise AclError(error.code, str(error)) from None
    assert opened is not None  # nobody sets the event
    stack.push_async_callback(opened.close)
    return opened


def _advice(settings: Settings) -> str:
    """What can be done when another process has the lists."""
    url = settings.relay_url or f"http://127.0.0.1:{settings.port}"
    return (
        f"If orly-acl runs, have it do this: --server {local_address(settings.acl_listen)}\n"
        f"If a relay has them alone, manage that: --url {url} --auth-key-file FILE, which holds the key of one of "
        "ORLY_OWNERS or ORLY_ADMINS, or stop it first"
    )
