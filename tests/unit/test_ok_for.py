"""The OK message for every outcome of a save: four elements, and the prefix that clients act on."""

import json

import pytest
from tests.factory import fake_event

from orly.relay.ingest import ok_for
from orly.store.base import SaveResult, SaveStatus

EVENT = fake_event()

EXPECTED = {
    SaveStatus.STORED: (True, ""),
    SaveStatus.DELIVERED: (True, ""),
    SaveStatus.DUPLICATE: (True, "duplicate: already have this event"),
    SaveStatus.SUPERSEDED: (False, "duplicate: a newer version of this event is stored"),
    SaveStatus.DELETED: (False, "blocked: this event was deleted"),
    SaveStatus.VANISHED: (False, "blocked: its author, or recipient, asked to vanish"),
    SaveStatus.EXPIRED: (False, "invalid: event has expired"),
    SaveStatus.FAILED: (False, 'error: no room, "nothing" written'),
}


@pytest.mark.parametrize("status", SaveStatus)
def test_ok(status: SaveStatus) -> None:
    detail = 'no room, "nothing" written' if status is SaveStatus.FAILED else ""
    message = json.loads(ok_for(EVENT, SaveResult(status, detail=detail)))
    assert message == ["OK", EVENT.event.id, *EXPECTED[status]]
