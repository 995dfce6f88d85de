"""Python's garbage collector, set up for processes that create many objects and few cycles."""

import gc

__all__ = ["settle_collector"]


def settle_collector() -> None:
    """Leave what start-up made to itself, and collect less often: neither requests nor events make cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
