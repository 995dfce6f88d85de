"""Publish one signed note to a relay and read it back: `python hello.py ws://localhost:3334`."""

import asyncio
import json
import secrets
import sys
import time

from websockets.asyncio.client import connect

from orly.nostr.signing import sign_event


async def main(url: str) -> None:
    """Say hello with a throwaway key."""
    event = sign_event(secrets.token_bytes(32), created_at=int(time.time()), kind=1, content="hello")
    async with connect(url) as client:
        await client.send('["EVENT",' + event.raw.decode() + "]")
        sys.stdout.write(f"{await client.recv()!s}\n")
        await client.send(json.dumps(["REQ", "hello", {"ids": [event.event.id]}]))
        while json.loads(answer := await client.recv())[0] != "EOSE":
            sys.stdout.write(f"{answer!s}\n")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:3334"))
