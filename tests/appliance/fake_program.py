"""A program that does what a test tells it, run by a launcher in place of a service.

The variable FAKE holds a JSON object: for each program, or for one process of it, a list of steps. It uses nothing but
the standard library, so that it starts in no time.
"""

import json
import os
import signal
import socket
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import FrameType

DEADLINE_S = 30.0
_name = os.environ.get("SUPERVISOR_PROCESS_NAME", "")
_on_stop: list[list[str]] = []


def say(text: str) -> None:
    """A line that is no record."""
    os.write(1, f"{text}\n".encode())


def own(text: str, level: str = "INFO ") -> None:
    """A record in the project's own format."""
    os.write(1, f"2026-01-15T15:23:13.271Z {_name} {level} fake | {text}\n".encode())


def flood(count: int, long_bytes: int) -> None:
    """Many records; each hundredth is long."""
    for number in range(count):
        own(f"line {number} " + ("x" * long_bytes if number % 100 == 0 else "x"))


def await_file(path: str, timeout_s: float) -> bool:
    """Whether a file came within the time."""
    end_s = time.monotonic() + timeout_s
    while not os.path.exists(path):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.005)
    return True


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(HTTPServer):
    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


def _stop(number: int, frame: FrameType | None) -> None:
    own("stops")
    for step in _on_stop:
        do(*step)
    own("gone")
    os._exit(0)


def do(verb: str, *values: str) -> None:
    """One step."""
    match verb:
        case "say":
            say(values[0])
        case "part":
            os.write(1, values[0].encode())
        case "own":
            own(values[0])
        case "environment":
            own(json.dumps({name: value for name, value in os.environ.items() if name.startswith("ORLY_")}))
        case "flood":
            flood(int(values[0]), int(values[1]))
        case "touch":
            open(values[0], "a").close()
        case "await":
            if not await_file(values[0], float(values[1]) if len(values) > 1 else DEADLINE_S):
                say(f"waited for {values[0]}")
                os._exit(69)
        case "once":
            if not os.path.exists(values[0]):
                open(values[0], "a").close()
                do(*values[1:])
        case "linger":
            time.sleep(float(values[0]))
        case "exit":
            os._exit(int(values[0]))
        case "kill":
            os.kill(os.getpid(), int(values[0]))
            signal.pause()
        case "raise":
            raise RuntimeError(values[0])
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "stopping":
            _on_stop.append(list(values))
        case "fork":
            ready, said = os.pipe()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                own(f"grandchild {os.getpid()}")
                os.write(said, b"x")
                time.sleep(DEADLINE_S)
                os._exit(0)
            os.read(ready, 1)
        case "orphan":
            if os.fork() == 0:
                if os.fork() == 0:
                    os.setsid()
                    own(f"orphan {os.getpid()}")
                    await_file(values[0], DEADLINE_S)
                os._exit(0)
            os.wait()
        case "health":
            _Server((os.environ["ORLY_LISTEN"], int(os.environ["ORLY_PORT"])), _Health).serve_forever()
        case "serve":
            while True:
                time.sleep(DEADLINE_S)
        case _:
            raise ValueError(verb)


def main() -> None:
    """Do the steps for this process."""
    signal.signal(signal.SIGTERM, _stop)
    scripts = json.loads(os.environ["FAKE"])
    for step in scripts.get(_name) or scripts.get(_name.rpartition("-")[0]) or []:
        do(*step)


if __name__ == "__main__":
    main()
