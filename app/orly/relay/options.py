"""The one place where the transport reads the settings."""

from dataclasses import dataclass

from orly.relay.gate import GateRules
from orly.relay.hub import ConnectionLimits
from orly.settings import Settings

__all__ = ["ServerOptions", "options_from_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Everything the transport needs to know.

    Attributes:
        listen: IP address or name to listen on.
        port: 0 takes any free port.
        health_port: A second port that answers `/health` only; 0 for none.
        relay_url: Public URL, shown on the landing page; may be empty.
        gate: Who may connect.
        limits: Bounds of connections.
        handshake_timeout_s: How long a socket may take to get a request answered.
        stop_timeout_s: How long a stop may take in all.
        shares_ports: Whether other relay processes may listen on the same ports.
    """

    listen: str
    port: int
    health_port: int
    relay_url: str
    gate: GateRules
    limits: ConnectionLimits
    handshake_timeout_s: float
    stop_timeout_s: float
    shares_ports: bool = False


def options_from_settings(settings: Settings) -> ServerOptions:
    """What the settings say about sockets, connections and their bounds."""
    return ServerOptions(
        listen=settings.listen,
        port=settings.port,
        health_port=settings.health_port,
        relay_url=settings.relay_url,
        gate=GateRules(
            max_connections=settings.max_connections,
            max_connections_per_ip=settings.max_connections_per_ip,
            whitelist=settings.ip_whitelist,
            blacklist=settings.ip_blacklist,
            trusted_proxies=settings.trusted_proxies,
            connections_per_ip_per_minute=settings.connections_per_ip_per_minute,
        ),
        limits=ConnectionLimits(
            max_message_bytes=settings.max_message_bytes,
            max_send_backlog_bytes=settings.max_send_backlog_bytes,
            max_total_send_backlog_bytes=settings.max_total_send_backlog_bytes,
            send_timeout_s=settings.send_timeout_s,
            ping_interval_s=settings.ping_interval_s,
            pong_timeout_s=settings.pong_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
        ),
        handshake_timeout_s=settings.handshake_timeout_s,
        stop_timeout_s=settings.stop_timeout_s,
        shares_ports=settings.db_type == "grpc",
    )
