"""What is to run, as `orly-launcher` worked it out from the settings: written once, read by all that runs after it.

The supervising process and the health check read it from the run directory, so that neither loads the tables of
settings. It holds no secrets.
"""

from pathlib import Path
from typing import Final, Literal

import msgspec

__all__ = ["CONFIG_FILE", "PLAN_FILE", "Plan", "PlanError", "Program", "Trust", "read_plan", "write_plan"]

PLAN_FILE: Final = "plan.json"
CONFIG_FILE: Final = "supervisord.conf"
"""What is rendered from it, beside it."""


class PlanError(Exception):
    """There is no plan to read; the message names the file."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A program and its place in the order.

    Attributes:
        name: Console script, log prefix.
        path: The executable.
        processes: How many of it run.
        priority: Lower starts earlier and stops later.
        start_s: How long it must last to count as started.
        start_retries: How often a start may fail in a row.
        stop_s: How long it may take from SIGTERM until it is killed.
        probe: How it is asked whether it is well.
        address: Where it is asked: HOST:PORT, or `unix:` and a path.
    """

    name: str
    path: str
    processes: int
    priority: int
    start_s: int
    start_retries: int
    stop_s: int
    probe: Literal["grpc", "http"]
    address: str

    @property
    def process_names(self) -> tuple[str, ...]:
        """What its processes are called: the program's name, with a number if there are several."""
        if self.processes == 1:
            return (self.name,)
        return tuple(f"{self.name}-{number}" for number in range(self.processes))


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """How a caller and a service of this machine prove who they are.

    Attributes:
        tls: Whether calls are encrypted, and whether callers show a certificate.
        ca: File of the authority's certificate; empty is the system's authorities.
        client_cert: File of the certificate to show.
        client_key: File of its key.
        server_name: Name expected in the service's certificate; empty is the host of the address.
        token_source: Where the token is found: `environment`, `file PATH`, `.env PATH`; empty if there is none.
    """

    tls: Literal["off", "tls", "mtls"] = "off"
    ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    server_name: str = ""
    token_source: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What runs.

    Attributes:
        programs: In the order in which they start.
        trust: For asking services whether they are well.
        data_dir: Directory of the store, for the log.
        log_level: The least severe level that is written.
        log_format: Lines of text, or JSON objects.
        log_file: Where services write their log instead of standard output; empty is standard output.
        crash_limit: Crashes of one program within the window that are still made up for.
        crash_window_s: The time in which they are counted.
        notes: Lines to log once.
    """

    programs: tuple[Program, ...]
    trust: Trust
    data_dir: str
    log_level: str
    log_format: Literal["text", "json"]
    log_file: str
    crash_limit: int
    crash_window_s: float
    notes: tuple[str, ...] = ()


def write_plan(run_dir: Path, plan: Plan) -> None:
    """Puts a plan into the run directory.

    Raises:
        OSError: It cannot be written.
    """
    (run_dir / PLAN_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(plan)) + b"\n")


def read_plan(run_dir: Path) -> Plan:
    """The plan in a run directory.

    Raises:
        PlanError: There is none, or it is of another version.
    """
    path = run_dir / PLAN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise PlanError(f"{path} is no plan of this version: {error}") from error
