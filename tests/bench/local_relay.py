"""rust-nostr's LocalRelay as a process of its own: `python -m tests.bench.local_relay PORT`.

Events stay in memory: a database handed over from Python would be called through Python, and that is not what anybody
wants to measure.
"""

import asyncio
import sys

from nostr_sdk import LocalRelayBuilder, RateLimit

__all__ = ["main"]


async def main(port: int) -> None:
    """Serve on loopback, with the limits out of the way."""
    relay = (
        LocalRelayBuilder()
        .addr("127.0.0.1")
        .port(port)
        .max_connections(5000)
        .max_filter_limit(5000)
        .rate_limit(RateLimit(max_reqs=1_000_000, notes_per_minute=2**32 - 1))
        .build()
    )
    await relay.run()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
