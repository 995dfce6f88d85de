"""The store suite on LMDB."""

from tests.component.lmdb_backend import LmdbBackend
from tests.component.store_suite_direct import DirectSuite


class TestLmdbStore(DirectSuite):
    backend = LmdbBackend()


class TestLmdbStoreWithSmallGenerations(DirectSuite):
    """The same with index rows that are partly in memory, partly in the tables, and partly in both."""

    backend = LmdbBackend(generation_events=2)
