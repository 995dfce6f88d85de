"""How both ends of our gRPC connections are set up; the names and units of the options are gRPC's own."""

from typing import Final

from orly.units import MIB

__all__ = ["CHANNEL_OPTIONS", "MAX_MESSAGE_BYTES", "SERVER_OPTIONS"]

MAX_MESSAGE_BYTES: Final = 64 * MIB
"""Longest message, in both directions and on both sides; what is longer must be streamed."""

_BOTH: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A peer that is gone without a word is noticed within 30 s, also while nothing is under way.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

SERVER_OPTIONS: Final = (
    *_BOTH,
    ("grpc.so_reuseport", 0),  # a second server on the same port is a mistake, not a partner
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

CHANNEL_OPTIONS: Final = (
    *_BOTH,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # in truth the longest that one attempt to connect may take
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),  # a container that restarts may have a new address
    ("grpc.enable_http_proxy", 0),  # services are not behind the proxy that the environment may name
    ("grpc.use_local_subchannel_pool", 1),  # closing a channel closes its connection
)
