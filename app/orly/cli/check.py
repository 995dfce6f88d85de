"""`orly check`: is the store consistent?"""

from orly.process.exit_codes import ExitCode
from orly.settings import Loaded
from orly.store.base import StoreError, StoreUnavailableError
from orly.store.lmdb.check import CheckReport, check
from orly.store.lmdb.environment import open_environment

__all__ = ["run_check"]


def run_check(loaded: Loaded, *, signatures: bool) -> tuple[ExitCode, str, str]:
    """Check the data directory; returns the exit status, what was found, and the problems, a line each."""
    settings = loaded.settings
    try:
        tables = open_environment(settings.data_dir, max_bytes=settings.db_max_bytes, read_only=True)
    except StoreUnavailableError as error:
        return ExitCode.SETTINGS, "", str(error)
    try:
        report = check(tables, verify_signatures=signatures)
    except StoreError as error:
        return ExitCode.FAILED, "", str(error)
    finally:
        tables.close()
    return (ExitCode.OK if report.is_clean else ExitCode.FAILED), _summary(report), _problems(report)


def _summary(report: CheckReport) -> str:
    return (
        f"{report.events} events, {report.versions} kept versions, {report.tombstones} tombstones, "
        f"{report.index_rows} index rows, last serial {report.last_serial}: "
        f"{'consistent' if report.is_clean else f'{report.problem_count} problems'}"
    )


def _problems(report: CheckReport) -> str:
    unnamed = report.problem_count - len(report.problems)
    return "\n".join((*report.problems, *((f"and {unnamed} more",) if unnamed else ())))
