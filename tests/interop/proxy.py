"""A TCP proxy before a relay that, after so many bytes, lets a test do something to it, such as end it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

__all__ = ["cutting"]

_CHUNK_BYTES = 16 * 1024


@contextmanager
def cutting(url: str, *, after_bytes: int, cut: Callable[[], None], upwards: bool = False) -> Iterator[str]:
    """Stands before a relay; its URL.

    Args:
        url: The relay's.
        after_bytes: How many bytes of one direction pass before the cut.
        cut: What is done then, once, in another thread, before any further byte passes.
        upwards: Count what clients send rather than what the relay sends.
    """
    target = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
    passed = 0
    is_cut = threading.Event()
    failures: list[BaseException] = []
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket, counts: bool) -> None:
        nonlocal passed
        with suppress(OSError):
            while chunk := source.recv(_CHUNK_BYTES):
                if counts and not is_cut.is_set():
                    passed += len(chunk)
                    if passed > after_bytes:
                        is_cut.set()
                        try:
                            cut()
                        except BaseException as error:
                            failures.append(error)
                            raise
                        break
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                relay = socket.create_connection(target)
                sockets.extend((client, relay))
                for source, sink, counts in ((client, relay, upwards), (relay, client, not upwards)):
                    threads.append(threading.Thread(target=pump, args=(source, sink, counts), daemon=True))
                    threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept, args=(listener,), daemon=True)
        acceptor.start()
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()
            for each in sockets:
                each.close()
    if failures:
        raise failures[0]
    assert is_cut.is_set(), f"only {passed} of {after_bytes} bytes passed: nothing was cut"
