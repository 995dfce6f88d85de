"""Failing assertions in the shared parts of the store tests show their values, as those in test files do."""

import pytest

pytest.register_assert_rewrite(
    "tests.component.join_hammer",
    "tests.component.lmdb_backend",
    "tests.component.remote_world",
    "tests.component.store_faults",
    "tests.component.store_suite_feed",
    "tests.component.store_suite_reading",
    "tests.component.store_suite_removal",
    "tests.component.store_suite_saving",
    "tests.component.store_world",
)
