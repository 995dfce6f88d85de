"""The appliance as a container: started with an operator's options, looked at from outside, always removed."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from docker import DockerClient
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.types import Healthcheck

__all__ = ["HARDENED", "LABEL", "START_S", "Appliance", "Process", "Run", "appliance", "run_to_end", "wait_until"]

LABEL: Final = "orly-image-test"
"""Stands on every container, volume and network of these tests, so that what is left over can be found."""

START_S: Final = 60.0
"""How long a container may take until it serves, on a loaded machine."""

POLL_S: Final = 0.1
T = TypeVar("T")
NS_PER_S: Final = 1_000_000_000

HARDENED: Final[Mapping[str, Any]] = {
    "read_only": True,
    "tmpfs": {"/run/orly": "mode=1777", "/tmp": "mode=1777"},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}
"""How the compose files run the image."""

_LIST_PROCESSES: Final = """
import json, os
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        argv = open(f"/proc/{pid}/cmdline").read().split("\\0")[:-1]
        status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        pss = [line.split()[1] for line in open(f"/proc/{pid}/smaps_rollup") if line.startswith("Pss:")]
    except OSError:
        continue
    if int(pid) != os.getpid() and argv:
        found.append([int(pid), argv, [int(uid) for uid in status["Uid"].split()], int(pss[0]) * 1024])
print(json.dumps(found))
"""


def wait_until(check: Callable[[], T], awaited: str, *, within_s: float = START_S) -> T:
    """What `check` returns as soon as that is true; past the deadline it fails and says what was awaited."""
    end_s = time.monotonic() + within_s
    while not (found := check()):
        assert time.monotonic() < end_s, f"waited {within_s:g} s for {awaited}"
        time.sleep(POLL_S)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of a container.

    Attributes:
        pid: Its number inside the container.
        uids: Real, effective, saved and file system user.
        pss_bytes: Its memory, shared pages by share.
    """

    pid: int
    argv: tuple[str, ...]
    uids: tuple[int, ...]
    pss_bytes: int

    @property
    def program(self) -> str:
        """The name of the console script it runs, or of its executable; the first process is `launcher`."""
        if self.pid == 1:
            return "launcher"
        scripts = [word.rpartition("/")[2] for word in self.argv[:2]]
        return scripts[-1] if scripts[0].startswith("python") else scripts[0]


@dataclass(slots=True)
class Appliance:
    """A container of the image."""

    container: Container

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The port that Docker published for the relay's."""
        self.container.reload()
        return int(self.container.attrs["NetworkSettings"]["Ports"]["3334/tcp"][0]["HostPort"])

    def logs(self) -> str:
        """All it has written so far."""
        return bytes(self.container.logs()).decode(errors="replace")

    def processes(self, program: str | None = None) -> list[Process]:
        """Its processes, or those of one program, by number."""
        found = [
            Process(pid=pid, argv=tuple(argv), uids=tuple(uids), pss_bytes=pss)
            for pid, argv, uids, pss in json.loads(self.execute("python", "-c", _LIST_PROCESSES))
        ]
        named = [process for process in found if program is None or process.program == program]
        return sorted(named, key=lambda process: process.pid)

    def send(self, number: signal.Signals, process: Process) -> None:
        """Sends a signal to one process of the container."""
        self.execute("sh", "-c", f"kill -{int(number)} {process.pid}")

    def execute(self, *command: str) -> str:
        """Runs a command inside, as the user the services run as; what it wrote to standard output."""
        user = self.container.attrs["Config"]["User"]
        # apart: Docker sends the two as they come, in no order that could be relied on
        code, streams = self.container.exec_run(list(command), user="10001:10001" if user == "0" else user, demux=True)
        output, said = (stream.decode() if isinstance(stream, bytes) else "" for stream in streams)
        assert code == 0, output + said
        return output

    def health(self) -> str:
        """What Docker says: `starting`, `healthy` or `unhealthy`."""
        self.container.reload()
        return str(self.container.attrs["State"]["Health"]["Status"])

    def health_report(self) -> str:
        """What the last health check printed."""
        self.container.reload()
        reports = self.container.attrs["State"]["Health"]["Log"]
        return str(reports[-1]["Output"]) if reports else ""

    def wait_healthy(self) -> None:
        """Waits until the image's own health check is content."""

        def check() -> bool:
            self.container.reload()
            assert self.container.status == "running", f"the container is {self.container.status}"
            return self.health() == "healthy"

        wait_until(check, "the container to be healthy")

    def wait_exit(self, *, within_s: float = START_S) -> int:
        """Waits until it has ended; the exit code."""

        def has_ended() -> bool:
            self.container.reload()
            return self.container.status == "exited"

        wait_until(has_ended, "the container to end", within_s=within_s)
        return int(self.container.attrs["State"]["ExitCode"])

    def stop(self, *, grace_s: int) -> tuple[int, float]:
        """`docker stop`; the exit code, and how long it took in seconds."""
        started_s = time.monotonic()
        self.container.stop(timeout=grace_s)
        return self.wait_exit(), time.monotonic() - started_s


@dataclass(frozen=True, slots=True)
class Run:
    """A command that ran to its end in a container of its own."""

    code: int
    output: str


@contextmanager
def appliance(client: DockerClient, image: str, *, serves: bool = True, **options: Any) -> Iterator[Appliance]:
    """Runs a container that is removed afterwards, with its anonymous volumes; its log is shown when the test fails.

    Args:
        client: The engine.
        image: What to run.
        serves: Wait until it is healthy.
        options: As for `containers.run`.
    """
    defaults: dict[str, Any] = {
        "detach": True,
        "labels": [LABEL],
        "ports": {"3334/tcp": ("127.0.0.1", None)},
        # as in the image, but at once and often
        "healthcheck": Healthcheck(interval=NS_PER_S, timeout=10 * NS_PER_S, start_period=NS_PER_S, retries=2),
    }
    container = client.containers.create(image, **{**defaults, **options})
    try:
        container.start()
        running = Appliance(container)
        if serves:
            running.wait_healthy()
        yield running
    except BaseException:
        sys.stderr.write(f"--- log of {container.short_id}\n{container.logs().decode(errors='replace')}---\n")
        raise
    finally:
        remove(container)


def remove(container: Container) -> None:
    """Ends and removes a container; one that is gone already is fine."""
    try:
        container.remove(force=True, v=True)
    except NotFound:
        return
    except APIError as error:
        if "already in progress" not in str(error):
            raise


def run_to_end(client: DockerClient, image: str, command: Sequence[str] = (), **options: Any) -> Run:
    """Runs a container until it ends by itself, and removes it."""
    with appliance(client, image, serves=False, command=list(command) or None, **options) as ran:
        return Run(ran.wait_exit(), ran.logs())
