"""A connection to one of our gRPC services, and waiting until that service can work."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from pydantic import SecretStr

from orly import clock
from orly.rpc.credentials import channel_credentials
from orly.rpc.guard import AUTHORIZATION
from orly.rpc.options import CHANNEL_OPTIONS
from orly.settings import Settings
from orly.settings_service_types import UNIX_PREFIX

__all__ = [
    "AccessRefusedError",
    "NotReadyError",
    "ServiceChannel",
    "channel_from_settings",
    "open_channel",
    "wait_ready",
]

_RETRY_S: Final = 0.2
"""Pause before a service that is reached, but cannot say how it is, is asked again."""


class NotReadyError(Exception):
    """A service did not become ready in time.

    Attributes:
        service: Its gRPC name.
        address: Where it was expected.
        waited_s: For how long.
        last: What was seen of it last.
    """

    def __init__(self, text: str, *, service: str, address: str, waited_s: float, last: str) -> None:
        super().__init__(text)
        self.service = service
        self.address = address
        self.waited_s = waited_s
        self.last = last


class AccessRefusedError(NotReadyError):
    """A service is there and waiting is no use: the token, the certificates or the address must be changed."""


class _WithMetadata:
    """One method of a service; adds metadata to every call of it, at no cost to the messages of a stream."""

    __slots__ = ("_call", "_metadata")

    def __init__(self, call: Callable[..., Any], metadata: tuple[tuple[str, str], ...]) -> None:
        self._call = call
        self._metadata = metadata

    def __call__(self, *args: Any, metadata: Sequence[tuple[str, str | bytes]] | None = None, **options: Any) -> Any:
        return self._call(*args, metadata=(*self._metadata, *(metadata or ())), **options)


class ServiceChannel(grpc.aio.Channel):
    """A gRPC channel that adds the token to every call.

    gRPC sends call credentials over TLS only, and interceptors cost something for each message of a stream.

    Attributes:
        target: The address of the service.
    """

    def __init__(self, channel: grpc.aio.Channel, target: str, token: str | None) -> None:
        self.target = target
        self._channel = channel
        self._metadata = ((AUTHORIZATION, f"Bearer {token}"),) if token is not None else ()

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        """See grpc.aio.Channel; so are the others."""
        return self._with_token(self._channel.unary_unary(method, *args, **options))

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return self._with_token(self._channel.unary_stream(method, *args, **options))

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return self._with_token(self._channel.stream_unary(method, *args, **options))

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return self._with_token(self._channel.stream_stream(method, *args, **options))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    def _with_token(self, call: Callable[..., Any]) -> Callable[..., Any]:
        return _WithMetadata(call, self._metadata) if self._metadata else call


def open_channel(
    target: str,
    *,
    credentials: grpc.ChannelCredentials | None,
    token: SecretStr | str | None,
    server_name: str = "",
) -> ServiceChannel:
    """A channel that connects when it is first used and reconnects by itself, at least once a second.

    Args:
        target: `HOST:PORT` or `unix:/path`.
        credentials: TLS; None is plaintext.
        token: What every call carries.
        server_name: The name expected in the certificate of the service, if not the host; on a unix socket that is
            `localhost`.
    """
    options: list[tuple[str, str | int]] = [*CHANNEL_OPTIONS]
    if target.startswith(UNIX_PREFIX):
        server_name = server_name or "localhost"
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options=options)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options=options)
    return ServiceChannel(channel, target, token.get_secret_value() if isinstance(token, SecretStr) else token)


def channel_from_settings(settings: Settings, target: str) -> ServiceChannel:
    """A channel with the TLS and the token of the settings.

    Raises:
        CredentialsError: The certificates cannot be used.
    """
    return open_channel(
        target,
        credentials=channel_credentials(settings),
        token=settings.grpc_token,
        server_name=settings.grpc_tls_server_name,
    )


async def wait_ready(channel: ServiceChannel, *, service: str, timeout_s: float, program: str = "") -> None:
    """Wait until a service says SERVING (grpc.health.v1); it is watched, not polled.

    Args:
        channel: The way to it.
        service: Its full gRPC name, such as `orlydb.v1.DatabaseService`; empty is the process as a whole.
        timeout_s: For how long.
        program: The name of its program, for the error.

    Raises:
        AccessRefusedError: At once, when the service is there but refuses the token or the certificate, shows a
            certificate that is not trusted, or does not know the service.
        NotReadyError: It was not ready within `timeout_s`.
    """
    waiting = _Waiting(channel, service, program)
    try:
        async with asyncio.timeout(timeout_s):
            await waiting.run()
    except TimeoutError:
        raise waiting.not_ready(NotReadyError, f"was not ready within {timeout_s:g} s") from None


_REFUSED: Final = {
    grpc.StatusCode.UNAUTHENTICATED: "refuses the call",
    grpc.StatusCode.PERMISSION_DENIED: "refuses the call",
    grpc.StatusCode.UNIMPLEMENTED: "is something else",
}
_TLS_PROBLEMS: Final = (
    ("CERTIFICATE_VERIFY_FAILED: certificate has expired", "its certificate has expired"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate was not signed by the authority in ORLY_GRPC_TLS_CA"),
    ("Hostname Verification", "its certificate is for another name: see ORLY_GRPC_TLS_SERVER_NAME"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS, but ORLY_GRPC_TLS is on here"),
)
_CLOSED: Final = "Socket closed"


class _Waiting:
    """One wait for a service: what was seen of it last."""

    def __init__(self, channel: ServiceChannel, service: str, program: str) -> None:
        self._channel = channel
        self._service = service
        self._program = program
        self._watch = health_pb2_grpc.HealthStub(channel).Watch
        self._started_s = clock.monotonic_s()
        self._last = "no answer yet"

    async def run(self) -> None:
        """Watch until it serves; try again for as long as that may help."""
        while True:
            try:
                async for answer in self._watch(HealthCheckRequest(service=self._service)):
                    if self._is_serving(answer):
                        return
                self._last = "it stopped"
            except grpc.aio.AioRpcError as error:
                self._look_at(error)
            await self._until_worth_a_try()

    def _is_serving(self, answer: HealthCheckResponse) -> bool:
        if answer.status == HealthCheckResponse.SERVICE_UNKNOWN:
            self._last = f"no such service as {self._service} there"
            raise self.not_ready(AccessRefusedError, "is something else")
        self._last = HealthCheckResponse.ServingStatus.Name(answer.status)
        return bool(answer.status == HealthCheckResponse.SERVING)

    def _look_at(self, error: grpc.aio.AioRpcError) -> None:
        details = error.details() or ""
        for mark, text in _TLS_PROBLEMS:
            if mark in details:
                self._last = text
                raise self.not_ready(AccessRefusedError, "cannot be trusted") from error
        self._last = f"{error.code().name}: {details.rpartition('last error: ')[2]}"
        if _CLOSED in details:
            self._last += "; it may want TLS or another client certificate: see ORLY_GRPC_TLS"
        if error.code() in _REFUSED:
            raise self.not_ready(AccessRefusedError, _REFUSED[error.code()]) from error

    async def _until_worth_a_try(self) -> None:
        state = self._channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            await asyncio.sleep(_RETRY_S)
        else:
            await self._channel.wait_for_state_change(state)

    def not_ready(self, kind: type[NotReadyError], what: str) -> NotReadyError:
        """The error for the state things are in."""
        name = self._program or self._service or "the service"
        address = self._channel.target
        return kind(
            f"{name} at {address} {what}: {self._last}",
            service=self._service,
            address=address,
            waited_s=clock.monotonic_s() - self._started_s,
            last=self._last,
        )
