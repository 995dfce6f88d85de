"""What every gRPC call passes before it is served: the token, the limit of its peer, the audit log."""

import hmac
import inspect
import ipaddress
import logging
import re
import sys
from asyncio import CancelledError
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote

import grpc

from orly import clock
from orly.rpc.health import HEALTH_SERVICE
from orly.token_bucket import TokenBucket

__all__ = ["ADMINISTRATIVE", "AUTHORIZATION", "MAX_PEERS", "Guard", "PeerLimits", "peer_host"]

log = logging.getLogger(__name__)

ADMINISTRATIVE: Final = frozenset(
    f"orlydb.v1.DatabaseService/{method}" for method in ("DeleteEvent", "Export", "HideEvents", "Import", "ShowEvents")
)
"""Calls that take or change the store as a whole; SaveEvent is not among them: there is no log line per event."""

AUTHORIZATION: Final = "authorization"
"""The metadata that carries the token, as `Bearer TOKEN` (RFC 6750)."""

MAX_PEERS: Final = 4096
"""Addresses whose calls are counted; beyond it the one that has been silent longest is forgotten."""

_BURST_S: Final = 2
"""What a peer may do at once, in seconds of its rate."""

_HEALTH_PREFIX: Final = f"{HEALTH_SERVICE}/"
_ODD: Final = re.compile(r"[^\w.@+-]", re.ASCII)

_Context = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    _Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]  # generic in the stubs only
else:
    _Handler = grpc.RpcMethodHandler


class _Peer:
    __slots__ = ("bucket", "is_refusal_told")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.is_refusal_told = False


class PeerLimits:
    """A token bucket for each peer; memory is bounded.

    Args:
        per_second: Calls a peer may make for long, and twice that at once; 0 is no limit.
        max_peers: How many are remembered.
    """

    def __init__(self, per_second: int, max_peers: int = MAX_PEERS) -> None:
        self._per_second = per_second
        self._max_peers = max_peers
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def take(self, host: str, now_s: float) -> bool:
        """Count one call; False if it is too many."""
        if not self._per_second:
            return True
        peer = self._peers.get(host)
        if peer is None:
            peer = self._peers[host] = _Peer(TokenBucket(self._per_second, self._per_second * _BURST_S, now_s))
            if len(self._peers) > self._max_peers:
                self._peers.popitem(last=False)
        else:
            self._peers.move_to_end(host)
        if not peer.bucket.take(now_s):
            return False
        peer.is_refusal_told = False
        return True

    def must_tell(self, host: str) -> bool:
        """Whether this is the first refusal that would be logged since a call of the peer was allowed."""
        peer = self._peers[host]
        was_told, peer.is_refusal_told = peer.is_refusal_told, True
        return not was_told

    def __len__(self) -> int:
        """How many peers are remembered."""
        return len(self._peers)


class Guard(grpc.aio.ServerInterceptor):
    """Refuses calls without the token and calls beyond a peer's rate, and writes the audit log.

    It costs something for each call and nothing for each message of a stream. A peer is an address of the network;
    all callers over unix sockets are one, and so are all on the same loopback address. Health checks are counted
    apart, so that a busy caller does not make a service look dead.

    Args:
        token: What a call must carry; None is nothing.
        max_calls_per_second: See `PeerLimits`.
        audited: Calls that leave one INFO line, as `package.Service/Method`; the refused ones too, but of a row that
            was refused for its rate only the first.
        uncounted: Calls that no peer makes too many of: those that a relay passes on for its clients, whom it limits.
        monotonic_s: A steady clock.
    """

    def __init__(
        self,
        *,
        token: str | None,
        max_calls_per_second: int,
        audited: Collection[str] = ADMINISTRATIVE,
        uncounted: Collection[str] = (),
        monotonic_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._token = None if token is None else token.encode()
        self._max_calls_per_second = max_calls_per_second
        self._audited = frozenset(audited)
        self._uncounted = frozenset(uncounted)
        self._monotonic_s = monotonic_s
        self._calls = PeerLimits(max_calls_per_second)
        self._health_checks = PeerLimits(max_calls_per_second)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Called by gRPC for every call, before any message of it is read."""
        rpc = _text(handler_call_details.method).removeprefix("/")
        if self._token is not None:
            problem = _token_problem(handler_call_details.invocation_metadata, self._token)
            if problem:
                return self._refusing(rpc, grpc.StatusCode.UNAUTHENTICATED, problem)
        handler = await continuation(handler_call_details)
        if handler is None:
            return self._refusing(rpc, grpc.StatusCode.UNIMPLEMENTED, f"there is no {rpc} here")
        if rpc in self._uncounted or (not self._max_calls_per_second and rpc not in self._audited):
            return handler
        return self._guarded(rpc, handler)

    def _refusing(self, rpc: str, code: grpc.StatusCode, text: str) -> _Handler:
        """A handler that reads no message, whatever the call would send."""

        async def refuse(requests: object, context: _Context) -> None:
            del requests
            await self._admit(rpc, context)
            with self._auditing(rpc, context):
                await context.abort(code, text)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _guarded(self, rpc: str, handler: _Handler) -> _Handler:
        async def answer(request: Any, context: _Context) -> Any:
            await self._admit(rpc, context)
            with self._auditing(rpc, context):
                return await behaviour(request, context)

        async def stream(request: Any, context: _Context) -> None:
            await self._admit(rpc, context)
            with self._auditing(rpc, context):
                if not inspect.isasyncgenfunction(behaviour):
                    await behaviour(request, context)
                    return
                async with aclosing(behaviour(request, context)) as answers:
                    async for message in answers:
                        await context.write(message)

        behaviour: Any
        if handler.request_streaming:
            behaviour = handler.stream_stream if handler.response_streaming else handler.stream_unary
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.response_streaming
                else grpc.stream_unary_rpc_method_handler
            )
        else:
            behaviour = handler.unary_stream if handler.response_streaming else handler.unary_unary
            make = (
                grpc.unary_stream_rpc_method_handler
                if handler.response_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(
            stream if handler.response_streaming else answer, handler.request_deserializer, handler.response_serializer
        )

    async def _admit(self, rpc: str, context: _Context) -> None:
        host = peer_host(context.peer())
        limits = self._health_checks if rpc.startswith(_HEALTH_PREFIX) else self._calls
        if limits.take(host, self._monotonic_s()):
            return
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        if rpc in self._audited and limits.must_tell(host):
            self._log(rpc, context, code.name, duration_s=0.0)
        await context.abort(code, f"rate-limited: {host} makes more than {self._max_calls_per_second} calls a second")

    def _auditing(self, rpc: str, context: _Context) -> AbstractContextManager[None]:
        return self._audit(rpc, context) if rpc in self._audited else nullcontext()

    @contextmanager
    def _audit(self, rpc: str, context: _Context) -> Iterator[None]:
        started_s = self._monotonic_s()
        try:
            yield
        finally:
            self._log(rpc, context, _outcome(context, sys.exception()), duration_s=self._monotonic_s() - started_s)

    def _log(self, rpc: str, context: _Context, outcome: str, *, duration_s: float) -> None:
        log.info(
            "audit: peer=%s caller=%s rpc=%s outcome=%s duration_ms=%.1f",
            unquote(context.peer()),
            self._caller(context, outcome),
            rpc,
            outcome,
            duration_s * 1000,
        )

    def _caller(self, context: _Context, outcome: str) -> str:
        names = list(context.auth_context().get("x509_common_name", ()))
        if names:
            return "certificate:" + _ODD.sub("_", names[0].decode(errors="replace"))
        return "none" if self._token is None or outcome == grpc.StatusCode.UNAUTHENTICATED.name else "token"


def peer_host(peer: str) -> str:
    """The host of a peer as gRPC names it (`ipv4:127.0.0.1:5`, `ipv6:%5B::1%5D:5`, `unix:`), without its port."""
    scheme, _, rest = unquote(peer).partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return scheme
    host = rest.rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("ascii", "replace")


def _token_problem(metadata: Iterable[tuple[str, str | bytes]] | None, token: bytes) -> str:
    """What is wrong with the token of a call; empty if nothing is. Takes as long for any token of the same length."""
    given = [value for key, value in metadata or () if key == AUTHORIZATION]
    if not given:
        return "this service wants a token: set ORLY_GRPC_TOKEN"
    scheme, _, shown = _text(given[0]).partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer":
        return "the token must come as one `authorization: Bearer TOKEN`"
    if not hmac.compare_digest(shown.encode("utf-8", "replace"), token):
        return "this is not the token that this service wants: ORLY_GRPC_TOKEN differs"
    return ""


def _outcome(context: _Context, error: BaseException | None) -> str:
    """The name of the status that a call ended with."""
    if isinstance(error, CancelledError):
        return grpc.StatusCode.CANCELLED.name
    code: object = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return grpc.StatusCode.OK.name if error is None else grpc.StatusCode.UNKNOWN.name
