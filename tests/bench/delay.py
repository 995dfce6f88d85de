"""`python -m tests.bench.delay PORT ROUND_TRIP_MS`: passes connections on to a port of this machine as from afar."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import uvloop

_READ_BYTES: Final = 256 * 1024
_WINDOW_BYTES: Final = 16 * 1024 * 1024
"""Under way in one direction; more than a sync has there, so that only the time counts."""


@contextmanager
def far_away(port: int, round_trip_ms: float) -> Iterator[int]:
    """A port that leads to another, whose answers take so much longer; a process of its own stands between."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.delay", str(port), str(round_trip_ms)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        yield int(child.stdout.readline())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WINDOW_BYTES // _READ_BYTES)

    async def read() -> None:
        data = b"."
        while data:
            with suppress(ConnectionError):
                data = await reader.read(_READ_BYTES)
            await under_way.put((loop.time() + delay_s, data))

    reading = asyncio.create_task(read())
    with closing(writer), suppress(ConnectionError):
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                break
            writer.write(data)
            await writer.drain()
    reading.cancel()


async def _main(port: int, delay_s: float) -> None:
    async def accept(near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port, limit=_WINDOW_BYTES)
        await asyncio.gather(_carry(near_reader, far_writer, delay_s), _carry(far_reader, near_writer, delay_s))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_WINDOW_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1]), float(sys.argv[2]) / 2000))
