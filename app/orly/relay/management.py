"""The management of a relay by its owners and admins (NIP-86): the table of methods, and who called which."""

import json
import logging
from collections.abc import Callable, Sequence
from re import compile as compile_re
from typing import Any, Final

import msgspec

from orly.access.commands import (
    AddKey,
    AllowKind,
    BlockAddress,
    CommandError,
    DisallowKind,
    UnblockAddress,
    applies_in,
)
from orly.access.control import AccessControl, ControlError
from orly.access.decide import NO_SNAPSHOT
from orly.access.levels import Level, Mode
from orly.access.snapshot import ListName
from orly.relay.http_auth import Signer
from orly.relay.management_events import (
    curating_config,
    delete_event,
    delete_events_of,
    events_of,
    is_configured,
    unclassified,
)
from orly.relay.management_lists import (
    Asked,
    Method,
    adding,
    changing,
    describe_address,
    dropping,
    kinds_of,
    listing,
    naming,
    setting,
)
from orly.relay.management_params import (
    ADDRESS,
    EVENT_ID,
    KEY,
    KIND,
    NO_KEY,
    TEXT,
    ParamError,
    number,
    read_params,
)
from orly.relay.management_reports import needing_moderation
from orly.store.base import EventStore, StoreError

__all__ = ["METHODS", "SUPPORTED", "Management", "methods_in"]

SUPPORTED: Final = "supportedmethods"

MAX_PAGE: Final = 500
MAX_OFFSET: Final = 10_000_000
MAX_USERS: Final = 10_000

MAX_SHOWN_PARAMS: Final = 300
"""Characters of the parameters that the log shows."""

_CURATING: Final = ListName.TRUSTED_PUBKEYS
"""A list that means something in the mode `curating` only."""

_log: Final = logging.getLogger(__name__)
_NOT_IN_A_NAME: Final = compile_re("[^A-Za-z0-9_]")

METHODS: Final[dict[str, Method]] = {
    "banpubkey": adding(ListName.BANNED_PUBKEYS),
    "unbanpubkey": dropping(ListName.BANNED_PUBKEYS),
    "listbannedpubkeys": listing(ListName.BANNED_PUBKEYS, naming(member="pubkey")),
    "allowpubkey": adding(ListName.ALLOWED_PUBKEYS),
    "unallowpubkey": dropping(ListName.ALLOWED_PUBKEYS),
    "listallowedpubkeys": listing(ListName.ALLOWED_PUBKEYS, naming(member="pubkey")),
    "listeventsneedingmoderation": Method(needing_moderation),
    "allowevent": adding(ListName.ALLOWED_EVENTS),
    "unallowevent": dropping(ListName.ALLOWED_EVENTS),
    "listallowedevents": listing(ListName.ALLOWED_EVENTS, naming(member="id")),
    "banevent": adding(ListName.BANNED_EVENTS),
    "unbanevent": dropping(ListName.BANNED_EVENTS),
    "listbannedevents": listing(ListName.BANNED_EVENTS, naming(member="id")),
    "changerelayname": setting("name"),
    "changerelaydescription": setting("description"),
    "changerelayicon": setting("icon"),
    "allowkind": changing(AllowKind, KIND),
    "disallowkind": changing(DisallowKind, KIND),
    "listallowedkinds": kinds_of(ListName.ALLOWED_KINDS),
    "listdisallowedkinds": kinds_of(ListName.DISALLOWED_KINDS),
    "blockip": changing(BlockAddress, ADDRESS, TEXT.or_else("")),
    "unblockip": changing(UnblockAddress, ADDRESS),
    "listblockedips": listing(ListName.BLOCKED_IPS, describe_address),
    "trustpubkey": adding(ListName.TRUSTED_PUBKEYS),
    "untrustpubkey": dropping(ListName.TRUSTED_PUBKEYS),
    "listtrustedpubkeys": listing(ListName.TRUSTED_PUBKEYS, naming(member="pubkey", note=True)),
    "blacklistpubkey": adding(ListName.BLACKLISTED_PUBKEYS),
    "unblacklistpubkey": dropping(ListName.BLACKLISTED_PUBKEYS),
    "listblacklistedpubkeys": listing(ListName.BLACKLISTED_PUBKEYS, naming(member="pubkey")),
    "listunclassifiedusers": Method(unclassified, (number(1, MAX_USERS).or_else(100),), _CURATING),
    "markspam": changing(
        lambda event_id, pubkey, reason: AddKey(ListName.SPAM_EVENTS, event_id, reason, pubkey),
        EVENT_ID,
        NO_KEY,
        TEXT.or_else(""),
        needs=ListName.SPAM_EVENTS,
    ),
    "unmarkspam": dropping(ListName.SPAM_EVENTS),
    "listspamevents": listing(ListName.SPAM_EVENTS, naming(member="event_id", author=True)),
    "getcuratingconfig": Method(curating_config, (), _CURATING),
    "isconfigured": Method(is_configured, (), _CURATING),
    "deleteevent": Method(delete_event, (EVENT_ID,)),
    "geteventsforpubkey": Method(events_of, (KEY, number(1, MAX_PAGE).or_else(100), number(0, MAX_OFFSET).or_else(0))),
    "deleteeventsforpubkey": Method(delete_events_of, (KEY,)),
}


def methods_in(mode: Mode) -> list[str]:
    """The methods that mean something in a mode, but the one that lists them; in order."""
    return sorted(name for name, method in METHODS.items() if method.needs is None or applies_in(mode, method.needs))


class _Call(msgspec.Struct, frozen=True):
    method: str
    params: list[Any] | None = None


class _CallError(ValueError):
    """Something is no call, or one of a method that is not offered."""


class Management:
    """Carries out calls, and logs each; used from one event loop.

    Args:
        access: Has the lists.
        store: Has the events.
        now_s: Unix time.
        log: Where calls are written.
    """

    def __init__(
        self,
        access: AccessControl,
        store: EventStore,
        now_s: Callable[[], int],
        log: logging.Logger = _log,
    ) -> None:
        self._access = access
        self._store = store
        self._now_s = now_s
        self._log = log

    async def call(self, request_body: bytes, signer: Signer) -> bytes:
        """The answer to one call, as JSON with `result` or `error`.

        Args:
            request_body: JSON with `method` and `params`.
            signer: Who calls.
        """
        method, params = "-", list[Any]()
        outcome = "error: broken off"
        try:
            asked = _decode(request_body)
            method, params = asked.method, asked.params or []
            result = await self._result(method, params, signer)
            answer = msgspec.json.encode({"result": result})
            outcome = "ok"
        except (_CallError, ParamError, CommandError, ControlError, StoreError) as error:
            outcome = f"error: {error}"
            answer = msgspec.json.encode({"error": str(error)})
        finally:
            self._audit(signer.pubkey, signer.level.label, signer.address, method, params, outcome)
        return answer

    def refused(self, address: str, signer: Signer | None, text: str) -> None:
        """Log a call that was not carried out, for it is not from somebody who may make it."""
        by, level = (signer.pubkey, signer.level.label) if signer else ("-", "-")
        self._audit(by, level, address, "-", [], f"error: {text}")

    async def _result(self, name: str, params: Sequence[object], signer: Signer) -> object:
        if signer.level < Level.ADMIN:
            raise _CallError("only owners and admins may manage this relay")
        snapshot = self._access.snapshot
        if snapshot is None:
            raise ControlError(NO_SNAPSHOT.detail)
        offered = methods_in(snapshot.rules.mode)
        if name == SUPPORTED:
            read_params(params, ())
            return offered
        if name not in offered:
            mode = f" in the mode {snapshot.rules.mode.value}" if name in METHODS else ""
            raise _CallError(f"there is no method {name[:40]!r}{mode}: {SUPPORTED} lists those there are")
        method = METHODS[name]
        values = read_params(params, method.params)
        asked = Asked(access=self._access, store=self._store, snapshot=snapshot, by=signer.pubkey, now_s=self._now_s())
        return await method.act(asked, *values)

    def _audit(self, by: str, level: str, address: str, method: str, params: Sequence[object], outcome: str) -> None:
        self._log.info(
            "audit: by=%s level=%s from=%s method=%s params=%s outcome=%s",
            by,
            level,
            address or "-",
            method if method == "-" else _NOT_IN_A_NAME.sub("?", method[:40]),
            _shown(params),
            outcome,
        )


def _decode(body: bytes) -> _Call:
    try:
        return msgspec.json.decode(body, type=_Call)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _CallError(f"the body is no call, a JSON object with method and params: {error}") from None


def _shown(params: Sequence[object]) -> str:
    """The parameters as ASCII; none that is offered has a list or an object in it."""
    plain = [each if isinstance(each, str | int | float | None) else type(each).__name__ for each in params]
    return json.dumps(plain)[:MAX_SHOWN_PARAMS]
