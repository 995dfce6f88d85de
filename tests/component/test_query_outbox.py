"""When queries leave for a remote store: alone at once, in a crowd together."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import pytest
from tests.component.remote_world import DEADLINE_S, connected, serving, until
from tests.component.store_world import Sink

from orly.nostr.filter import Filter
from orly.pb.orlydb.v1 import service_pb2_grpc, streams_pb2
from orly.rpc.convert import STREAM_OPEN
from orly.store import remote_queries, remote_query_outbox
from orly.store.base import Query
from orly.store.remote_query_outbox import Outbox

NEVER_S = 3600.0
TURNS = 20
Context = grpc.aio.ServicerContext[Any, Any]


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await story()

    asyncio.run(bounded())


async def is_still_there(waiting: "asyncio.Task[streams_pb2.QueryRequests]") -> bool:
    for _ in range(TURNS):
        await asyncio.sleep(0)
    return not waiting.done()


def ids_of(message: streams_pb2.QueryRequests) -> list[int]:
    return [action.query_id for action in message.actions]


def test_a_lone_query_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_query_outbox, "GATHER_S", NEVER_S)

    async def story() -> None:
        outbox = Outbox()
        for query_id in range(1, 4):
            outbox.query(query_id, 10)
            assert ids_of(await outbox.next()) == [query_id]
            outbox.gather(1)

    play(story)


def test_a_message_waits_for_as_many_as_are_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_query_outbox, "GATHER_S", NEVER_S)

    async def story() -> None:
        outbox = Outbox()
        outbox.gather(3)
        leaving = asyncio.create_task(outbox.next())
        for query_id in (1, 2):
            outbox.query(query_id, 10)
            assert await is_still_there(leaving)
        outbox.query(3, 10)
        assert ids_of(await leaving) == [1, 2, 3]
        leaving = asyncio.create_task(outbox.next())
        outbox.query(4, 10)
        assert await is_still_there(leaving), "what was gathered before counts no more"
        leaving.cancel()

    play(story)


def test_a_message_waits_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_query_outbox, "GATHER_S", 0.01)

    async def story() -> None:
        outbox = Outbox()
        outbox.gather(3)
        outbox.query(1, 10)
        assert ids_of(await outbox.next()) == [1]

    play(story)


@pytest.mark.parametrize("hurry", [lambda outbox: outbox.urgent(7), Outbox.ping])
def test_what_is_urgent_takes_along_what_waits(
    hurry: Callable[[Outbox], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_query_outbox, "GATHER_S", NEVER_S)

    async def story() -> None:
        outbox = Outbox()
        outbox.gather(3)
        leaving = asyncio.create_task(outbox.next())
        outbox.query(1, 10)
        assert await is_still_there(leaving)
        hurry(outbox)
        message = await leaving
        assert ids_of(message)[0] == 1
        assert message.ping == (len(message.actions) == 1)

    play(story)


def test_a_full_message_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_query_outbox, "GATHER_S", NEVER_S)
    size = remote_query_outbox.MESSAGE_BYTES // 2

    async def story() -> None:
        outbox = Outbox()
        outbox.gather(9)
        leaving = asyncio.create_task(outbox.next())
        outbox.query(1, size)
        outbox.query(2, size - remote_query_outbox._ACTION_BYTES)
        assert await is_still_there(leaving), "both fit"
        outbox.query(3, 1)
        assert ids_of(await leaving) == [1, 2]

    play(story)


def test_what_was_expected_is_forgotten_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_query_outbox, "GATHER_S", NEVER_S)

    async def story() -> None:
        outbox = Outbox()
        outbox.gather(3)
        outbox.query(1, 10)
        outbox.clear()
        outbox.query(2, 10)
        assert ids_of(await outbox.next()) == [2]

    play(story)


class Clerk(service_pb2_grpc.DatabaseServiceServicer):
    """Answers every query but the first, and keeps what came together."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []

    async def StreamQueries(
        self, request_iterator: AsyncIterator[streams_pb2.QueryRequests], context: Context
    ) -> AsyncIterator[streams_pb2.QueryAnswers]:
        await context.send_initial_metadata(STREAM_OPEN)
        async for request in request_iterator:
            self.messages.append(ids_of(request))
            parts = [streams_pb2.AnswerPart(query_id=n, through_serial=1) for n in ids_of(request) if n > 1]
            yield streams_pb2.QueryAnswers(parts=parts)


def test_a_crowd_travels_together_and_a_slow_query_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_query_outbox, "GATHER_S", NEVER_S)
    monkeypatch.setattr(remote_queries.RemoteQueries, "_tick_s", lambda _: NEVER_S)  # a ping would take all along
    query = Query(filters=(Filter(limit=1),))

    async def story() -> None:
        clerk = Clerk()
        async with serving(clerk) as address, connected(address) as store:
            slow = store.query(query, Sink())
            await until(lambda: len(clerk.messages) == 1, "the slow query")
            for crowd in (1, 2, 2, 2):
                sinks = [Sink() for _ in range(crowd)]
                for sink in sinks:
                    store.query(query, sink)
                    for _ in range(TURNS):
                        await asyncio.sleep(0)
                for sink in sinks:
                    await sink.over()
                    assert sink.through_serial == 1
            assert clerk.messages == [[1], [2], [3, 4], [5, 6], [7, 8]]
            slow.cancel()

    play(story)
