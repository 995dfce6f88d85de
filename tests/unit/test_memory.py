import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from orly.process.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def large_blocks():
    for _ in range(20):
        blocks = [b"x" * 3_000_000 for _ in range(3)]
        del blocks
large_blocks()
before = faults()
large_blocks()
sys.stdout.write(str(faults() - before))
"""


def faults(how: str) -> int:
    """Page faults of a process that uses and frees large blocks, again and again."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_freed_blocks_are_used_again() -> None:
    assert faults("kept") * 10 < faults("default")


@pytest.mark.parametrize(
    "modules",
    [
        "orly.cli.run, orly.store.lmdb.store, orly.relay.relay",
        "orly.cli.run, orly.opening.service, orly.cli.remote_sets",
        "orly.db.run",
    ],
)
def test_numpy_is_for_those_who_reconcile(modules: str) -> None:
    code = f"import sys; import {modules}; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
