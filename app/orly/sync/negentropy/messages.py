"""The messages of SyncWithPeer, and the requests and results that they stand for."""

from collections.abc import Iterator, Sequence
from typing import Final

from orly.nostr.filter import Filter
from orly.nostr.reason import Prefix, Refusal
from orly.pb.orlydb.v1 import types_pb2 as db_pb2
from orly.pb.orlysync.common.v1 import types_pb2 as common_pb2
from orly.pb.orlysync.negentropy.v1 import types_pb2
from orly.rpc.events import filter_from_pb
from orly.rpc.status import RefusedError
from orly.sync.negentropy.peer_loop import SyncOptions
from orly.sync.negentropy.request import MAX_BATCH_EVENTS, Direction, SyncProgress, SyncRequest, SyncResult
from orly.sync.negentropy.scope import narrowed

__all__ = ["IDS_IN_PART", "filter_from_message", "ids_in_parts", "progress_to_pb", "request_from_pb", "result_to_pb"]

IDS_IN_PART: Final = 50_000
"""Ids in one message: 1.7 MB."""


def filter_from_message(message: common_pb2.Filter) -> Filter:
    """The filter in a message; it is made as in `orlydb.v1`.

    Raises:
        FilterError: It is none; the text names the field.
    """
    return filter_from_pb(db_pb2.Filter.FromString(message.SerializeToString()))


def request_from_pb(message: types_pb2.SyncPeerRequest, url: str, options: SyncOptions) -> SyncRequest:
    """The sync that a caller asks for; what the message leaves open is as in the background.

    Args:
        message: From the caller.
        url: The relay, checked.
        options: How this service syncs.

    Raises:
        FilterError: The filter is none.
        RefusedError: Something else is out of its range; the text names the field.
    """
    try:
        direction = Direction(message.direction.lower() or "down")
    except ValueError:
        raise _invalid(f"direction {message.direction[:40]!r}: write down, up, both or none") from None
    if message.since < 0:
        raise _invalid(f"since is {message.since}")
    wanted = narrowed(
        filter_from_message(message.filter),
        since_s=message.since,
        until_s=message.until if message.HasField("until") else None,
    )
    try:
        return SyncRequest(
            url=url,
            filter=wanted,
            direction=Direction.NONE if message.dry_run else direction,
            frame_bytes=message.frame_bytes or options.frame_bytes,
            timeout_s=message.timeout_ms / 1000 or options.timeout_s,
            batch_events=message.batch or MAX_BATCH_EVENTS,
            auth_key=options.auth_key,
            private_kinds=message.private_kinds if message.HasField("private_kinds") else options.private_kinds,
            list_ids=message.list_ids,
        )
    except ValueError as error:
        raise _invalid(str(error)) from None


def progress_to_pb(url: str, progress: SyncProgress, *, error: str = "") -> types_pb2.SyncProgress:
    """The message for where a sync is, or where it broke off."""
    return types_pb2.SyncProgress(
        peer_url=url,
        error=error,
        phase=progress.phase.name.lower(),
        round=progress.round,
        have_count=progress.have,
        need_count=progress.need,
        fetched_count=progress.fetched,
        sent_count=progress.sent,
        refused=progress.refused,
        rejected=progress.rejected,
        unavailable=progress.unavailable,
        known=progress.known,
        unwanted=progress.unwanted,
        unneeded=progress.unneeded,
        bytes_sent=progress.bytes_sent,
        bytes_received=progress.bytes_received,
    )


def result_to_pb(url: str, result: SyncResult) -> types_pb2.SyncProgress:
    """The last message of a sync that came to its end."""
    message = progress_to_pb(url, result.progress)
    message.complete = True
    message.incomplete = not result.is_complete
    message.problems.extend(result.problems)
    return message


def ids_in_parts(result: SyncResult) -> Iterator[tuple[Sequence[bytes], Sequence[bytes]]]:
    """What only we had and what only the peer had, for one message after the other."""
    for start in range(0, len(result.have_ids), IDS_IN_PART):
        yield result.have_ids[start : start + IDS_IN_PART], ()
    for start in range(0, len(result.need_ids), IDS_IN_PART):
        yield (), result.need_ids[start : start + IDS_IN_PART]


def _invalid(detail: str) -> RefusedError:
    return RefusedError(Refusal(Prefix.INVALID, detail))
