"""What tools and other languages ask access control, answered as a relay process decides it."""

from collections.abc import Callable
from typing import Final

from orly.access.addresses import place_of
from orly.access.commands import CommandError, SetInfo, read_address
from orly.access.control import ControlError
from orly.access.curating import CuratingConfigError, is_config, parse_config
from orly.access.decide import (
    Standing,
    Treatment,
    block_of,
    level_of,
    refuse_read,
    refuse_write,
    standing_of,
    treatment_of,
)
from orly.access.levels import Level, Mode
from orly.access.snapshot import ListName, Snapshot
from orly.access.throttle import Throttle
from orly.acl.engine import AclEngine
from orly.acl.sources import relays_of
from orly.nostr.event import decode_event, encode_event
from orly.nostr.signing import verify_event
from orly.pb.orlyacl.v1 import lists_pb2, types_pb2
from orly.rpc.events import from_pb
from orly.store.base import EventStore, SaveStatus

__all__ = ["Questions"]

_DESCRIPTIONS: Final = {
    Mode.NONE: "Everybody may write.",
    Mode.FOLLOWS: "Those may write whom the owners and admins follow.",
    Mode.MANAGED: "Those may write who are on the list of allowed keys.",
    Mode.CURATING: "Everybody may write, but who is not trusted a limited number of events a day.",
}
_INFO_FIELDS: Final = ("name", "description", "icon")


class Questions:
    """Each call may raise `CommandError` for what it asks, and `ControlError` while nothing is known yet."""

    def __init__(self, engine: AclEngine, store: EventStore, *, now_s: Callable[[], int]) -> None:
        self._engine = engine
        self._store = store
        self._now_s = now_s
        self._throttle: Throttle | None = None

    @property
    def _lists(self) -> Snapshot:
        if self._engine.snapshot is None:
            raise ControlError("access control is not ready yet")
        return self._engine.snapshot

    def _standing(self, pubkey: bytes, address: str) -> Standing:
        if pubkey and len(pubkey) != 32:
            raise CommandError(f"a key has 32 bytes, not {len(pubkey)}")
        keys = [pubkey] if pubkey else []
        return standing_of(self._lists, keys, read_address(address) if address else "")

    def level(self, request: types_pb2.GetAccessLevelRequest) -> types_pb2.GetAccessLevelResponse:
        """What a key may do at most; `banned` and `blocked` stand for who may do nothing for that reason."""
        return types_pb2.GetAccessLevelResponse(level=self._level_word(request.pubkey, request.address))

    def _level_word(self, pubkey: bytes, address: str) -> str:
        standing = self._standing(pubkey, address)
        if standing.barred is None:
            return standing.level.label
        return "blocked" if address and block_of(self._lists, read_address(address)) else "banned"

    def access(self, request: types_pb2.CheckAccessRequest) -> types_pb2.CheckAccessResponse:
        """Whether a key may do something."""
        standing = self._standing(request.pubkey, request.address)
        match request.operation:
            case "read":
                refusal = refuse_read(standing)
                reason = "" if refusal is None else str(refusal)
            case "write":
                reason = self._why_not_write(request, standing)
            case "admin":
                reason = "" if standing.moderates else "restricted: only owners and admins may do that"
            case other:
                raise CommandError(f"operation must be read, write or admin, not {other[:40]!r}")
        level = self._level_word(request.pubkey, request.address)
        return types_pb2.CheckAccessResponse(allowed=not reason, reason=reason, level=level)

    def _why_not_write(self, request: types_pb2.CheckAccessRequest, standing: Standing) -> str:
        if standing.barred is not None:
            return str(standing.barred)
        lists = self._lists
        allowed = lists.kinds[ListName.ALLOWED_KINDS]
        if (allowed and request.kind not in allowed) or request.kind in lists.kinds[ListName.DISALLOWED_KINDS]:
            return f"blocked: kind {request.kind} is not taken on this relay"
        is_slow = lists.rules.mode is Mode.FOLLOWS and lists.rules.throttles
        if standing.level >= Level.ADMIN:
            return ""
        if lists.curating is not None and not lists.curating.takes_kind(request.kind):
            return f"blocked: kind {request.kind} is not taken on this relay"
        if standing.level >= Level.WRITE or (is_slow and request.pubkey):
            return ""
        return "restricted: this key may not write to this relay"

    def policy(self, request: types_pb2.CheckPolicyRequest) -> types_pb2.CheckPolicyResponse:
        """Whether an event may be stored; its signature is not checked."""
        event = decode_event(encode_event(from_pb(request.event)))
        standing = self._standing(request.pubkey, request.address)
        refusal = refuse_write(self._lists, event, standing)
        if refusal is not None:
            return types_pb2.CheckPolicyResponse(allowed=False, error=str(refusal))
        if treatment_of(self._lists, event, standing) is Treatment.COUNTED:
            over = self._over(event.pubkey, request.address)
            return types_pb2.CheckPolicyResponse(allowed=not over, error=over)
        return types_pb2.CheckPolicyResponse(allowed=True)

    def _over(self, pubkey: bytes, address: str) -> str:
        lists = self._lists
        if lists.curating is None:
            return ""
        if lists.used.get(pubkey, 0) >= lists.curating.daily_limit:
            return f"rate-limited: {lists.curating.daily_limit} events a day are taken of a key that is not trusted"
        place = place_of(read_address(address)) if address else ""
        if place and lists.used.get(place, 0) >= lists.curating.ip_daily_limit:
            return f"rate-limited: {lists.curating.ip_daily_limit} events a day are taken from one address"
        return ""

    def rate_limit(self, pubkey: bytes, address: str) -> lists_pb2.RateLimitCheckResponse:
        """Whether a key has anything left of its day."""
        lists, address = self._lists, read_address(address) if address else ""
        is_free = pubkey in lists.keys[ListName.TRUSTED_PUBKEYS] or level_of(lists, pubkey) >= Level.ADMIN
        over = "" if is_free else self._over(pubkey, address)
        return lists_pb2.RateLimitCheckResponse(allowed=not over, message=over)

    def mode(self) -> types_pb2.TypeResponse:
        """The mode."""
        return types_pb2.TypeResponse(mode=self._lists.rules.mode.value)

    def info(self) -> types_pb2.ACLInfoResponse:
        """The mode in words."""
        mode = self._lists.rules.mode
        return types_pb2.ACLInfoResponse(
            name=mode.value, description=_DESCRIPTIONS[mode], documentation="docs/access.md"
        )

    def throttle_delay(self, request: types_pb2.ThrottleDelayRequest) -> types_pb2.ThrottleDelayResponse:
        """How long an event of a stranger waits; counts it. Relay processes count for themselves."""
        lists = self._lists
        standing = self._standing(request.pubkey, request.ip)
        may_wait = lists.rules.mode is Mode.FOLLOWS and lists.rules.throttles
        if not may_wait or not request.pubkey or standing.level >= Level.WRITE:
            return types_pb2.ThrottleDelayResponse(delay_ms=0)
        if self._throttle is None:
            self._throttle = Throttle(lists.rules.throttle_increment_s, lists.rules.throttle_max_s)
        place = place_of(read_address(request.ip)) if request.ip else ""
        delay_s = self._throttle.delay_s(request.pubkey, place, self._now_s())
        return types_pb2.ThrottleDelayResponse(delay_ms=round(delay_s * 1000))

    async def admin_relays(self) -> list[str]:
        """The relays that the owners and admins say they use."""
        rules = self._lists.rules
        return await relays_of(self._store, rules.owners | rules.admins)

    def curating_config(self) -> lists_pb2.CuratingConfigResponse:
        """The configuration; what is documented as default where there is none."""
        config, event = self._lists.curating, self._engine.config_event
        if config is None or event is None:
            return lists_pb2.CuratingConfigResponse()
        return lists_pb2.CuratingConfigResponse(
            config_event_id=event.id,
            config_pubkey=event.pubkey,
            configured_at=event.created_at,
            daily_limit=config.daily_limit,
            ip_daily_limit=config.ip_daily_limit,
            first_ban_hours=config.first_ban_hours,
            second_ban_hours=config.second_ban_hours,
            kind_categories=config.categories,
            allowed_ranges=[f"{first}-{last}" for first, last in config.ranges],
            allowed_kinds=config.kinds,
        )

    def is_configured(self) -> lists_pb2.CuratingConfiguredResponse:
        """Whether there is one."""
        return lists_pb2.CuratingConfiguredResponse(value=self._lists.curating is not None)

    async def configure(self, request: types_pb2.ConfigureRequest) -> types_pb2.ConfigureResponse:
        """Store a configuration event, and set what the relay says of itself."""
        unknown = sorted(set(request.settings) - set(_INFO_FIELDS))
        problem = f"{unknown[0]!r} cannot be set at run time; only {', '.join(_INFO_FIELDS)} can" if unknown else ""
        if not problem and request.HasField("event"):
            problem = await self._configure_by_event(request)
        if not problem and request.settings:
            infos = [SetInfo(field, request.settings[field]) for field in _INFO_FIELDS if field in request.settings]
            await self._engine.change(infos, by="")
        return types_pb2.ConfigureResponse(applied=not problem, error=problem)

    async def _configure_by_event(self, request: types_pb2.ConfigureRequest) -> str:
        event = decode_event(encode_event(from_pb(request.event)))
        if not verify_event(event):
            return "invalid: the signature does not match"
        if not is_config(event.event):
            return "invalid: it is no configuration: kind 30078 with the d tag curating-config"
        if level_of(self._lists, event.pubkey) < Level.ADMIN:
            return "restricted: only owners and admins configure this relay"
        try:
            parse_config(event.event)
        except CuratingConfigError as error:
            return f"invalid: {error}"
        (result,) = await self._store.save([event])
        if result.status not in (SaveStatus.STORED, SaveStatus.DUPLICATE):
            return f"blocked: it was not stored: {result.status.name.lower()} {result.detail}".rstrip()
        await self._engine.refresh()
        return ""
