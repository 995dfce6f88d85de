"""Whether every process of a running appliance is well: `python -m orly.appliance.healthcheck [RUN_DIR]`.

Services are asked by `grpc.health.v1`, relay workers by HTTP `/health`. Workers share a port and the kernel picks one
for each connection, so they are asked several times over: one that hangs is found with near certainty. Which
processes should run is read from the run directory. Nothing slow to load is loaded: this runs every few seconds.
"""

import http.client
import json
import os
import ssl
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from orly.appliance.plan import Plan, PlanError, Program, Trust, read_plan
from orly.appliance.run_dir import is_locked
from orly.appliance.state_file import ProcessState, read_states
from orly.env_file import EnvFileError, parse_env

__all__ = ["Finding", "NotRunningError", "examine", "main", "probe_grpc", "probe_http"]

TIMEOUT_S: Final = 3.0
"""How long an answer may take."""

ASKED_PER_WORKER: Final = 8
"""Connections for each worker that shares a port: of four, one that hangs is missed once in ten thousand checks."""

_DEFAULT_RUN_DIR: Final = "/run/orly"
_TOKEN: Final = "ORLY_GRPC_TOKEN"  # noqa: S105  (its name)


class NotRunningError(Exception):
    """No launcher runs with the run directory; the message names it."""


class _TokenError(Exception):
    """The token cannot be found where the launcher found it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found of one process.

    Attributes:
        name: What it is called.
        program: What its program is called.
        state: What its supervisor says.
        pid: Its process id; 0 if it does not run.
        since: When it was started or ended last, in Unix seconds; 0 if never.
        problem: Why it is not well; None if it is.
    """

    name: str
    program: str
    state: str
    pid: int
    since: float
    problem: str | None


def examine(run_dir: Path, environ: Mapping[str, str], *, timeout_s: float = TIMEOUT_S) -> list[Finding]:
    """Ask every program that should run.

    Args:
        run_dir: That of the launcher.
        environ: Where the token is, if the launcher had it from the environment.
        timeout_s: How long an answer may take.

    Raises:
        NotRunningError: There is nobody to ask.
    """
    if not is_locked(run_dir):
        raise NotRunningError(f"no orly-launcher runs with the run directory {run_dir}")
    try:
        plan = read_plan(run_dir)
    except PlanError as error:
        raise NotRunningError(str(error)) from error
    states = read_states(run_dir)
    with ThreadPoolExecutor(max_workers=len(plan.programs)) as pool:
        answers = list(pool.map(lambda program: _ask(program, plan, environ, timeout_s), plan.programs))
    return [
        _finding(name, program, states.get(name), answer)
        for program, answer in zip(plan.programs, answers, strict=True)
        for name in program.process_names
    ]


def probe_grpc(address: str, trust: Trust, token: str | None, *, timeout_s: float) -> str | None:
    """Ask a service for its health; returns what is wrong, or None."""
    options = [("grpc.ssl_target_name_override", trust.server_name)] if trust.server_name else []
    try:
        credentials = _credentials(trust)
    except OSError as error:
        return f"a certificate cannot be read: {error}"
    channel = (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    )
    with channel:
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"no answer from {address} within {timeout_s:g} s"
            details = (error.details() or "").rpartition("last error: ")[2]
            return f"{address}: {error.code().name}: {details}"
    if answer.status == HealthCheckResponse.SERVING:
        return None
    return f"{address} says {HealthCheckResponse.ServingStatus.Name(answer.status)}"


def probe_http(address: str, *, times: int, timeout_s: float) -> str | None:
    """Ask for `/health`, each time over a connection of its own; returns what is wrong first, or None."""
    for _ in range(times):
        if (problem := _ask_once(address, timeout_s)) is not None:
            return problem
    return None


def main(arguments: list[str], environ: Mapping[str, str], say: Callable[[str], object]) -> int:
    """Say what is not well, a line for each process; returns 0 if there is nothing to say, else 1."""
    run_dir = Path(arguments[0] if arguments else environ.get("ORLY_RUN_DIR") or _DEFAULT_RUN_DIR)
    try:
        findings = examine(run_dir, environ)
    except NotRunningError as error:
        say(f"{error}\n")
        return 1
    bad = [finding for finding in findings if finding.problem is not None]
    for finding in bad:
        say(f"{finding.name}: {finding.problem}\n")
    return 1 if bad else 0


def _ask(program: Program, plan: Plan, environ: Mapping[str, str], timeout_s: float) -> str | None:
    match program.probe:
        case "grpc":
            try:
                token = _token(plan.trust.token_source, environ)
            except _TokenError as error:
                return str(error)
            return probe_grpc(program.address, plan.trust, token, timeout_s=timeout_s)
        case "http":
            times = program.processes * ASKED_PER_WORKER if program.processes > 1 else 1
            return probe_http(program.address, times=times, timeout_s=timeout_s)


def _finding(name: str, program: Program, state: ProcessState | None, answer: str | None) -> Finding:
    if state is None:
        return Finding(name=name, program=program.name, state="down", pid=0, since=0, problem="was not started")
    return Finding(
        name=name,
        program=program.name,
        state=state.state,
        pid=state.pid,
        since=state.since,
        problem=answer if state.state == "up" else f"is {state.state}",
    )


def _ask_once(address: str, timeout_s: float) -> str | None:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout_s)
    try:
        connection.request("GET", "/health", headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read(4096)
    except TimeoutError:
        return f"no answer from {address} within {timeout_s:g} s"
    except OSError as error:
        return f"{address}: {error.strerror or error}"
    except http.client.HTTPException as error:
        return f"{address} does not speak HTTP: {type(error).__name__}"
    finally:
        connection.close()
    return None if response.status == http.HTTPStatus.OK else f"{address} says {response.status}{_reason(body)}"


def _reason(body: bytes) -> str:
    try:
        return f": {json.loads(body)['reason']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _credentials(trust: Trust) -> grpc.ChannelCredentials | None:
    if trust.tls == "off":
        return None
    authority = trust.ca or ssl.get_default_verify_paths().cafile
    roots = Path(authority).read_bytes() if authority else None
    if trust.tls == "tls":
        return grpc.ssl_channel_credentials(roots)
    return grpc.ssl_channel_credentials(
        roots, Path(trust.client_key).read_bytes(), Path(trust.client_cert).read_bytes()
    )


def _token(source: str, environ: Mapping[str, str]) -> str | None:
    """The token, from where the launcher had it."""
    kind, _, place = source.partition(" ")
    try:
        if kind == "":
            return None
        if kind == "file":
            return Path(place).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        if kind == ".env":
            return parse_env(Path(place).read_text(encoding="utf-8"))[_TOKEN]
        return environ[_TOKEN]
    except (OSError, UnicodeDecodeError, EnvFileError) as error:
        raise _TokenError(f"the token cannot be read from {place}: {error}") from error
    except KeyError:
        raise _TokenError(f"{_TOKEN} is not set here, but the launcher has it from {source}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, sys.stdout.write))  # noqa: TID251  (no settings are loaded here)
