"""The peers of this relay as they are kept on disk: those added at run time, and how the rounds with all of them went.

One JSON file, and beside it, for each peer, a file of the ids that need not travel again. Every call blocks.
"""

import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from orly.sync.negentropy.peer_memory import PeerMemory

__all__ = ["MAX_PEERS", "PEERS_FILE", "PeerBook", "PeerBookError", "PeerState"]

MAX_PEERS: Final = 1000
"""Each costs a task, and the memory of up to 1,000,000 ids, which is 16 MB."""

PEERS_FILE: Final = "negentropy.json"
"""In the directory `sync` of the data directory."""

_VERSION: Final = 1
_DIGEST_CHARACTERS: Final = 16


class PeerBookError(Exception):
    """The file of peers cannot be used; the text names it and says what to do."""


class PeerState(msgspec.Struct, frozen=True, kw_only=True):
    """One peer.

    Attributes:
        url: Where it is, in the form of `ORLY_SYNC_NEGENTROPY_PEERS`.
        is_added: It was added at run time, and is kept until it is removed.
        last_sync_s: When the last round that came to its end did so, in Unix seconds; 0 = none did.
        events_synced: Events that were fetched, and sent with success, in all.
        last_error: Why the last round failed, or what it left out; empty if neither.
        consecutive_failures: Rounds that have failed since the last that did not.
    """

    url: str
    is_added: bool = False
    last_sync_s: int = 0
    events_synced: int = 0
    last_error: str = ""
    consecutive_failures: int = 0


class _File(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    peers: tuple[PeerState, ...]


class PeerBook:
    """The files of one data directory.

    Args:
        data_dir: `ORLY_DATA_DIR`; it is made if it is not there.
    """

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "sync"
        self._path = self._directory / PEERS_FILE
        self._writing = threading.Lock()

    def load(self) -> tuple[PeerState, ...]:
        """What was saved; nothing if nothing was.

        Raises:
            PeerBookError: The directory or the file cannot be used.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise PeerBookError(f"{self._path}: {error.strerror or error}") from error
        try:
            found = msgspec.json.decode(raw, type=_File)
        except msgspec.DecodeError as error:
            raise PeerBookError(f"{self._path} is damaged: {error}; remove it and add the peers again") from error
        if found.version != _VERSION:
            raise PeerBookError(f"{self._path} has version {found.version}, this program knows version {_VERSION}")
        return found.peers

    def save(self, states: Iterable[PeerState]) -> None:
        """Replace what was saved, whole or not at all.

        Raises:
            PeerBookError: It cannot be written; the old file is as it was.
        """
        content = msgspec.json.format(msgspec.json.encode(_File(version=_VERSION, peers=tuple(states))))
        self._replace(self._path, content + b"\n")

    def load_memory(self, url: str, *, now_s: int) -> PeerMemory:
        """What was remembered of a peer's events; a file that is damaged counts as none, for it only saves work."""
        memory = PeerMemory()
        try:
            memory.restore(self._memory_path(url).read_bytes(), now_s=now_s)
        except (OSError, ValueError):
            return PeerMemory()
        return memory

    def save_memory(self, url: str, memory: bytes) -> None:
        """Keep `PeerMemory.to_bytes`; empty removes it.

        Raises:
            PeerBookError: It cannot be written.
        """
        path = self._memory_path(url)
        if memory:
            self._replace(path, memory)
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise PeerBookError(f"{path}: {error.strerror or error}") from error

    def _memory_path(self, url: str) -> Path:
        digest = hashlib.sha256(url.encode()).hexdigest()[:_DIGEST_CHARACTERS]
        return self._directory / f"negentropy-{digest}.ids"

    def _replace(self, path: Path, content: bytes) -> None:
        fresh = path.with_suffix(".new")
        try:
            with self._writing:
                with fresh.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                fresh.replace(path)
        except OSError as error:
            raise PeerBookError(f"{path} cannot be written: {error.strerror or error}") from error
