"""What every event store must do, whatever lies behind it.

A backend is put to the test by a class that inherits `StoreSuite` and sets `backend`; see `test_store_lmdb.py`.
"""

from tests.component.store_suite_feed import FeedSuite
from tests.component.store_suite_hiding import HidingSuite
from tests.component.store_suite_markers import MarkerSuite
from tests.component.store_suite_reading import DeliverySuite, FilterSuite, ScopeSuite
from tests.component.store_suite_removal import DeletionSuite, ExpirySuite, VanishSuite
from tests.component.store_suite_saving import SavingSuite

__all__ = ["StoreSuite"]


class StoreSuite(
    SavingSuite,
    DeletionSuite,
    ExpirySuite,
    VanishSuite,
    FilterSuite,
    ScopeSuite,
    DeliverySuite,
    FeedSuite,
    HidingSuite,
    MarkerSuite,
):
    """All of it."""
