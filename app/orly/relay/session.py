"""What one client may say and what it is answered: the Nostr side of a connection."""

import secrets
from collections import deque
from collections.abc import Sequence
from typing import Final, assert_never

from orly.nostr.event import EventError, decode_event
from orly.nostr.filter import Filter
from orly.nostr.kinds import NOSTR_CONNECT
from orly.nostr.message import (
    AuthMessage,
    CloseMessage,
    CountMessage,
    EventMessage,
    MessageError,
    NegCloseMessage,
    NegMsgMessage,
    NegOpenMessage,
    ReqMessage,
    auth_text,
    closed_text,
    neg_err_text,
    notice_text,
    ok_text,
    parse_message,
)
from orly.nostr.nip42 import check_auth
from orly.nostr.reason import Prefix, Refusal
from orly.nostr.signing import verify_event
from orly.relay.context import SessionContext, SessionRules
from orly.relay.negotiating import Negotiating
from orly.relay.peer import Peer
from orly.relay.reading import Reading
from orly.relay.visitor import Visitor
from orly.token_bucket import TokenBucket

__all__ = ["RelaySession", "SessionContext", "SessionRules"]

MAX_UNANSWERED_EVENTS: Final = 2000
"""Events of one connection on their way to the store; beyond it the socket is not read."""

FEW_UNANSWERED_EVENTS: Final = 16
"""The same while the events of all connections together take too much memory."""

MESSAGES_PER_TURN: Final = 256
"""Messages of one connection handled before others get their turn."""

TURN_S: Final = 0.005
"""Loop time after which a connection that asks for much gives up its turn."""

MAX_UNREADABLE: Final = 100
"""Unreadable messages in a row after which the client is shown the door."""

MAX_KEYS: Final = 64
"""Keys that one connection may prove."""


_TOO_MANY_EVENTS: Final = Refusal(Prefix.RATE_LIMITED, "too many events on this connection, slow down")
_TOO_MANY_FROM_ADDRESS: Final = Refusal(Prefix.RATE_LIMITED, "too many events from your address, slow down")
_TOO_MANY_REQUESTS: Final = Refusal(Prefix.RATE_LIMITED, "too many requests, slow down")
_TOO_MANY_AUTHS: Final = Refusal(Prefix.RATE_LIMITED, "too many attempts to authenticate from your address, slow down")
_NOT_OFFERED: Final = Refusal(Prefix.BLOCKED, "negentropy is not offered by this relay")


class RelaySession:
    """Messages of a connection are handled strictly in order: a REQ sees the events sent before it."""

    __slots__ = (
        "_backlog",
        "_bucket",
        "_challenge",
        "_closed",
        "_context",
        "_is_reading",
        "_negotiating",
        "_place",
        "_reading",
        "_rules",
        "_turn_scheduled",
        "_unanswered",
        "_unreadable",
        "authenticated",
        "peer",
        "visitor",
    )

    def __init__(self, peer: Peer, context: SessionContext) -> None:
        rules = context.rules
        self.peer = peer
        self.authenticated: frozenset[str] = frozenset()
        self.visitor = Visitor(context.access, peer.remote_ip)
        self._place = self.visitor.place or None
        self._context = context
        self._rules = rules
        self._reading = Reading(peer, context)
        self._negotiating: Negotiating | None = None
        self._backlog: deque[bytes] = deque()
        self._bucket: TokenBucket | None = None
        self._challenge = ""
        self._unanswered = 0
        self._unreadable = 0
        self._is_reading = True
        self._turn_scheduled = False
        self._closed = False
        context.sessions.add(self)
        if rules.auth_on_connect or rules.auth_required:
            self.challenge()

    # What the connection calls

    def receive(self, messages: list[bytes]) -> None:
        """Handle messages now, or queue them behind what must be answered first."""
        self._backlog.extend(messages)
        if not self._turn_scheduled:
            self._turn()

    def writable(self) -> None:
        """Go on with the stored answers that were held back."""
        self._reading.writable()
        if self._negotiating is not None:
            self._negotiating.writable()

    def closed(self) -> None:
        """The connection is gone."""
        self._closed = True
        self._context.sessions.discard(self)
        self._backlog.clear()
        self._reading.end()
        if self._negotiating is not None:
            self._negotiating.end()

    def revise(self) -> None:
        """The lists have changed: show more or less from now on, or end what is open."""
        self._let_see()
        refusal = self.visitor.refuse_read()
        if refusal is not None:
            self._reading.refuse_all(refusal)
            if self._negotiating is not None:
                self._negotiating.refuse_all(str(refusal))

    def _let_see(self) -> None:
        self._reading.let_see(self.authenticated, sees_hidden=self.visitor.standing.moderates)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open or under way."""
        is_negotiating = self._negotiating is not None and not self._negotiating.is_idle
        return self._reading.is_idle and not (is_negotiating or self._unanswered or self._backlog)

    # Order and back-pressure

    def _turn(self) -> None:
        """Handle what is queued, as far as order and fairness allow."""
        self._turn_scheduled = False
        backlog = self._backlog
        most_unanswered = FEW_UNANSWERED_EVENTS if self._context.ingest.is_full else MAX_UNANSWERED_EVENTS
        end_s = self._context.monotonic_s() + TURN_S
        for _ in range(MESSAGES_PER_TURN):
            if not backlog or self._closed:
                break
            if backlog[0].startswith(b'["EVENT",'):
                if self._unanswered >= most_unanswered:
                    break
                self._handle(backlog.popleft())
            elif self._unanswered:
                break
            else:
                self._handle(backlog.popleft())
                if self._context.monotonic_s() > end_s:
                    self._schedule_turn()
                    break
        else:
            self._schedule_turn()
        self._throttle()

    def _schedule_turn(self) -> None:
        if self._backlog and not self._closed:
            self._turn_scheduled = True
            self._context.loop.call_soon(self._turn)

    def _throttle(self) -> None:
        """Read from the socket only while what was read is worked off."""
        if self._closed:
            return
        if self._backlog and self._is_reading:
            self._is_reading = False
            self.peer.pause_reading()
        elif not self._backlog and not self._is_reading:
            self._is_reading = True
            self.peer.resume_reading()

    def answered(self, payloads: Sequence[bytes], count: int) -> None:
        """The OKs of events, from the ingest."""
        self._unanswered -= count
        if self._closed:
            return
        for payload in payloads:
            self.peer.send(payload)
        if self._backlog and not self._turn_scheduled:
            self._turn()

    # Messages

    def _handle(self, data: bytes) -> None:
        try:
            message = parse_message(data, self._rules.request_limits)
        except MessageError as error:
            self._refuse_message(error)
            return
        self._unreadable = 0
        match message:
            case EventMessage():
                self._unanswered += 1
                self._context.ingest.submit(self, message.raw)
            case ReqMessage():
                self._request(message)
            case CloseMessage():
                self._reading.close(message.sub_id)
            case CountMessage():
                self._count(message)
            case AuthMessage():
                self._authenticate(message)
            case NegOpenMessage() | NegMsgMessage() | NegCloseMessage():
                self._negotiate(message)
            case _:
                assert_never(message)

    def _refuse_message(self, error: MessageError) -> None:
        self._unreadable += 1
        if error.sub_id is None:
            self.peer.send(notice_text(str(error.refusal)))
        elif error.is_negentropy:
            self._refuse_negotiation(error.sub_id, error.refusal)
        else:
            self._reading.close(error.sub_id)
            self.peer.send(closed_text(error.sub_id, error.refusal))
        if self._unreadable > MAX_UNREADABLE:
            self.peer.close(1008, "too many unreadable messages")
            self.closed()

    def _request(self, message: ReqMessage) -> None:
        self._reading.close(message.sub_id)
        refusal = self._refuse_request(message.filters) or self._reading.open(message.sub_id, message.filters)
        if refusal is not None:
            self.peer.send(closed_text(message.sub_id, refusal))

    def _count(self, message: CountMessage) -> None:
        refusal = self._refuse_request(message.filters) or self._reading.count(message.sub_id, message.filters)
        if refusal is not None:
            self.peer.send(closed_text(message.sub_id, refusal))

    def _negotiate(self, message: NegOpenMessage | NegMsgMessage | NegCloseMessage) -> None:
        """Reconcile (NIP-77): whoever may ask for events by a filter may reconcile by it."""
        if self._negotiating is None:
            sets = self._context.sets
            if sets is None:
                self._refuse_negotiation(message.sub_id, _NOT_OFFERED)
                return
            self._negotiating = Negotiating(self.peer, self._context, sets)
        match message:
            case NegOpenMessage():
                refusal = self._refuse_request((message.filter,))
                if refusal is not None:
                    self._refuse_negotiation(message.sub_id, refusal)
                    return
                if self._rules.full_sync_pubkeys and not self.authenticated:
                    self.challenge()  # one of those keys would see more, and no other refusal makes it show itself
                self._negotiating.open(message.sub_id, message.filter, self._reading.scope, message.message)
            case NegMsgMessage():
                self._negotiating.go_on(message.sub_id, message.message)
            case NegCloseMessage():
                self._negotiating.close(message.sub_id)
            case _:
                assert_never(message)

    def _refuse_negotiation(self, sub_id: str, refusal: Refusal) -> None:
        if self._negotiating is not None:
            self._negotiating.close(sub_id)
        self.peer.send(neg_err_text(sub_id, str(refusal)))

    def _refuse_request(self, filters: tuple[Filter, ...]) -> Refusal | None:
        """Whether the client may not read, or needs a key for it that it has not proven."""
        refusal = self.visitor.refuse_read()
        if refusal is not None:
            if refusal.prefix is Prefix.AUTH_REQUIRED:
                self.challenge()
            return refusal
        rates = self._context.rates
        is_limited = rates is not None and not self.visitor.standing.moderates
        if is_limited and rates is not None and not rates.take_request(self._place, self.authenticated):
            return _TOO_MANY_REQUESTS
        if self.authenticated:
            return None
        if self._rules.auth_required and not self._is_remote_signing(filters):
            self.challenge()
            return Refusal(Prefix.AUTH_REQUIRED, "this relay answers authenticated clients only")
        private = self._reading.scope.private_kinds
        if private and all(wanted.kinds and wanted.kinds <= private for wanted in filters):
            self.challenge()
            return Refusal(Prefix.AUTH_REQUIRED, "these kinds are read by their parties only")
        return None

    def _is_remote_signing(self, filters: tuple[Filter, ...]) -> bool:
        return self._rules.nip46_bypass_auth and all(wanted.kinds == frozenset({NOSTR_CONNECT}) for wanted in filters)

    # Authentication and rate

    def challenge(self) -> None:
        """Ask the client to authenticate; once per connection, the challenge stays valid (NIP-42)."""
        if not self._challenge:
            self._challenge = secrets.token_hex(16)
            self.peer.send(auth_text(self._challenge))

    def _own_urls(self) -> list[str]:
        if self._rules.relay_url:
            return [self._rules.relay_url]
        return [f"{'wss' if self.peer.secure else 'ws'}://{self.peer.host}/"]

    def _authenticate(self, message: AuthMessage) -> None:
        try:
            event = decode_event(message.raw)
        except EventError as error:
            refusal = Refusal(Prefix.INVALID, str(error))
            answer = notice_text(str(refusal)) if error.event_id is None else ok_text(error.event_id, refusal)
            self.peer.send(answer)
            return
        rates = self._context.rates
        if rates is not None and not rates.take_auth(self._place):
            self.peer.send(ok_text(event.event.id, _TOO_MANY_AUTHS))
            return
        problem = check_auth(
            event.event,
            challenge=self._challenge,
            own_urls=self._own_urls(),
            now_s=self._context.now_s(),
            window_s=self._rules.auth_time_window_s,
        )
        if problem is None and not self._challenge:
            problem = "no challenge was sent on this connection"
        if problem is None and not verify_event(event):
            problem = "the signature does not match"
        if problem is None and len(self.authenticated) >= MAX_KEYS and event.event.pubkey not in self.authenticated:
            problem = f"this connection has proven {MAX_KEYS} keys, the maximum"
        if problem is not None:
            self.peer.send(ok_text(event.event.id, Refusal(Prefix.INVALID, problem)))
            return
        self.authenticated |= {event.event.pubkey}
        self.visitor.has_proven(self.authenticated)
        self._let_see()
        self.peer.send(ok_text(event.event.id))

    def refuse_event(self) -> Refusal | None:
        """Take a token for one event; why there is none, or None."""
        rates = self._context.rates
        is_limited = rates is not None and not self.visitor.standing.moderates
        if is_limited and rates is not None and not rates.take_event_from(self._place):
            return _TOO_MANY_FROM_ADDRESS
        now_s = self._context.monotonic_s()
        if self._bucket is None:
            self._bucket = TokenBucket(self._rules.max_events_per_second, self._rules.max_events_burst, now_s)
        return None if self._bucket.take(now_s) else _TOO_MANY_EVENTS
