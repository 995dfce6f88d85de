"""Which events this relay takes: limits and rules that need no store. Pure; every door asks it."""

from collections.abc import Collection
from math import ceil
from re import compile as compile_re
from typing import TYPE_CHECKING

import msgspec

from orly.access.curating import refuse_config
from orly.nostr.event import EncodedEvent, Event, EventError, decode_event
from orly.nostr.kinds import NOSTR_CONNECT, UNPUBLISHABLE_KINDS, VANISH
from orly.nostr.pow import check_work
from orly.nostr.reason import Prefix, Refusal
from orly.nostr.tags import is_protected, values

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["REPOST_KINDS", "WritePolicy", "policy_from_settings"]

REPOST_KINDS = frozenset({6, 16})

_ESCAPED_DASH = compile_re(r'"\\u002[dD]"')


class WritePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The limits on events; see the settings of the same names.

    Attributes:
        max_event_bytes: Of the canonical JSON.
        max_event_tags: Tags in one event.
        max_created_at_past_s: How old an event may be; 0 = any age.
        max_created_at_future_s: How far ahead of our clock it may be.
        min_pow_difficulty: Leading zero bits the id needs (NIP-13).
        auth_to_write: Whether publishing needs an authenticated connection (NIP-42).
        nip46_bypass_auth: Whether remote signing messages pass without it.
        curators: Keys (hex) whose configurations of the mode `curating` count, and must be readable.
    """

    max_event_bytes: int
    max_event_tags: int
    max_created_at_past_s: float
    max_created_at_future_s: float
    min_pow_difficulty: int = 0
    auth_to_write: bool = False
    nip46_bypass_auth: bool = False
    curators: frozenset[str] = frozenset()

    def check(self, event: EncodedEvent, *, now_s: int, authenticated: Collection[str]) -> Refusal | None:
        """Why the event is refused; None if it may be stored.

        Args:
            event: Well-formed; its signature need not be verified yet.
            now_s: The current time.
            authenticated: The keys (hex) that the connection has proven.
        """
        fields = event.event
        if len(event.raw) > self.max_event_bytes:
            return _invalid(f"event has {len(event.raw)} bytes, the maximum is {self.max_event_bytes}")
        if len(fields.tags) > self.max_event_tags:
            return _invalid(f"event has {len(fields.tags)} tags, the maximum is {self.max_event_tags}")
        if self.too_early_until_s(event, now_s=now_s) is not None:
            return _invalid(f"created_at is more than {self.max_created_at_future_s:.15g} s in the future")
        if self.max_created_at_past_s and fields.created_at < now_s - self.max_created_at_past_s:
            return _invalid(f"created_at is more than {self.max_created_at_past_s:.15g} s in the past")
        if fields.kind in UNPUBLISHABLE_KINDS:
            return _invalid(f"kind {fields.kind} is a credential and is not published")
        if self.min_pow_difficulty:
            lacking = check_work(event, self.min_pow_difficulty)
            if lacking is not None:
                return Refusal(Prefix.POW, lacking)
        if fields.kind == VANISH and not any(values(fields, "relay")):
            return _invalid("a request to vanish must name a relay")
        if fields.pubkey in self.curators and (unreadable := refuse_config(fields)) is not None:
            return unreadable
        return self._check_author(fields, authenticated)

    def too_early_until_s(self, event: EncodedEvent, *, now_s: int) -> int | None:
        """When an event that is too far ahead of our clock will not be any more, in Unix seconds; None = it is not."""
        ahead_s = event.event.created_at - self.max_created_at_future_s
        return ceil(ahead_s) if ahead_s > now_s else None

    def _check_author(self, event: Event, authenticated: Collection[str]) -> Refusal | None:
        bypass = self.nip46_bypass_auth and event.kind == NOSTR_CONNECT
        if self.auth_to_write and not authenticated and not bypass:
            return Refusal(Prefix.AUTH_REQUIRED, "this relay takes events from authenticated clients only")
        if event.tags and is_protected(event) and event.pubkey not in authenticated:
            if authenticated:
                return Refusal(Prefix.RESTRICTED, "a protected event is taken from its author only")
            return Refusal(Prefix.AUTH_REQUIRED, "a protected event is taken from its author only")
        if event.kind in REPOST_KINDS and _embeds_protected(event.content):
            return Refusal(Prefix.BLOCKED, "a repost must not embed a protected event")
        return None


def _invalid(detail: str) -> Refusal:
    return Refusal(Prefix.INVALID, detail)


def _embeds_protected(content: str) -> bool:
    """Whether a repost carries a protected event (NIP-70) in its content (NIP-18)."""
    if '"-"' not in content and _ESCAPED_DASH.search(content) is None:
        return False
    try:
        return is_protected(decode_event(content.encode()).event)
    except EventError:
        return False


def policy_from_settings(settings: "Settings") -> WritePolicy:
    """The limits on events."""
    return WritePolicy(
        max_event_bytes=settings.max_event_bytes,
        max_event_tags=settings.max_event_tags,
        max_created_at_past_s=settings.max_created_at_past_s,
        max_created_at_future_s=settings.max_created_at_future_s,
        min_pow_difficulty=settings.min_pow_difficulty,
        auth_to_write=settings.auth_to_write or settings.auth_required,
        nip46_bypass_auth=settings.nip46_bypass_auth,
        curators=frozenset((*settings.owners, *settings.admins) if settings.acl_mode == "curating" else ()),
    )
