"""The sides that can be started on this machine."""

import os
from pathlib import Path
from typing import Any

from tests.interop.orly_sides import ApplianceSide, DirectorySide, OrlySide
from tests.interop.remote_sides import RELAY_URL, RelaySide
from tests.interop.sides import Side
from tests.interop.strfry_side import RUST_NOSTR, STRFRY_BIN, StrfrySide
from tests.interop.world import Make

__all__ = ["local_makers"]


def local_makers(directory: Path) -> dict[str, Make]:
    """A maker for each kind of side; strfry and a running relay only where the environment names them.

    Args:
        directory: Each side gets one of its own in it.
    """

    def orly(name: str, now_s: int, **variables: str) -> Side:
        return OrlySide(name, directory / name, now_s, **variables)

    def appliance(name: str, now_s: int, **variables: str) -> Side:
        return ApplianceSide(name, directory / name, now_s, **variables)

    def data_directory(name: str, now_s: int, **options: Any) -> Side:
        return DirectorySide(name, directory / name, now_s, **options)

    def rust_nostr(name: str, now_s: int) -> Side:
        return StrfrySide(name, RUST_NOSTR, directory / name, now_s)

    makers: dict[str, Make] = {
        "orly": orly,
        "appliance": appliance,
        "directory": data_directory,
        "rust-nostr": rust_nostr,
    }
    if program := os.environ.get(STRFRY_BIN):

        def strfry(name: str, now_s: int, **options: Any) -> Side:
            return StrfrySide(name, [program], directory / name, now_s, **options)

        makers["strfry"] = strfry
    if url := os.environ.get(RELAY_URL):

        def relay(name: str, now_s: int) -> Side:
            return RelaySide(name, url, now_s)

        makers["relay"] = relay
    return makers
