"""Settings of the transport, the same constants for both ends. Data only.

The library's defaults let each connection grow its windows with the bandwidth it measures, which holds
hundreds of megabytes for ten silos; a fixed look-ahead holds a quarter of a piece for each stream.

Source: https://github.com/grpc/grpc, ``include/grpc/impl/channel_arg_names.h`` and ``doc/keepalive.md``.
"""

from __future__ import annotations

from typing import TypeAlias

from secagg.link.frames import MAX_FRAME_SIZE

Options: TypeAlias = tuple[tuple[str, int], ...]

LOOKAHEAD = 256 * 1024
"""Bytes that the other end may send ahead of what was read."""
KEEPALIVE = 30
"""Seconds without a byte after which a connection is asked whether it still is one."""
KEEPALIVE_TIMEOUT = 20
"""Seconds that the answer may take."""

_BOTH: Options = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", LOOKAHEAD),
    ("grpc.max_send_message_length", MAX_FRAME_SIZE),
    ("grpc.max_receive_message_length", MAX_FRAME_SIZE),
    ("grpc.keepalive_time_ms", KEEPALIVE * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT * 1000),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT * 1000),  # The library waits for the longer of the two.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # A silo that trains sends nothing for an hour.
)

CHANNEL_OPTIONS: Options = (
    *_BOTH,
    ("grpc.enable_retries", 0),  # What is sent again, and when, is decided by the link.
)

SERVER_OPTIONS: Options = (
    *_BOTH,
    ("grpc.so_reuseport", 0),  # A port in use is an error, not a port shared with a stranger.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE * 1000 // 2),
    ("grpc.max_concurrent_streams", 16),
)
