from contextlib import closing

import pytest
from tests.factory import fake_event, make_event

from orly.intake.verify import MIN_SHARED_EVENTS, Verifier


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("count", [0, 1, MIN_SHARED_EVENTS - 1, MIN_SHARED_EVENTS, MIN_SHARED_EVENTS + 1, 33])
def test_answers_come_in_the_order_of_the_events(share: bool, count: int) -> None:
    events = [fake_event(content=str(n)) if n % 3 == 0 else make_event(content=str(n)) for n in range(count)]
    with closing(Verifier(share=share)) as verifier:
        assert verifier.verify(events) == [n % 3 != 0 for n in range(count)]


def test_it_works_batch_after_batch() -> None:
    good = [make_event(content=str(n)) for n in range(MIN_SHARED_EVENTS)]
    bad = [fake_event(content=str(n)) for n in range(MIN_SHARED_EVENTS)]
    with closing(Verifier(share=True)) as verifier:
        for _ in range(3):
            assert all(verifier.verify(good))
            assert not any(verifier.verify(bad))
