import time

from orly import clock


def test_unix_time() -> None:
    before = time.time()
    seconds, exact = clock.now_s(), clock.now()
    after = time.time()
    assert int(before) <= seconds <= after
    assert before <= exact <= after


def test_monotonic_time() -> None:
    before = time.monotonic()
    assert before <= clock.monotonic_s() <= time.monotonic()
