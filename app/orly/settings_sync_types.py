"""The forms that settings of syncing take beside those of `settings_types`: peers, scopes, directions."""

import re
from typing import Annotated, Final, Literal, get_args

import msgspec

from orly import units
from orly.nostr import nip19
from orly.nostr.filter import FilterError, FilterLimits, parse_filter
from orly.nostr.kinds import MAX_KIND
from orly.settings_service_types import Server
from orly.settings_types import Form, read_list, read_relay_url, show_list, show_optional

__all__ = [
    "Authors",
    "Direction",
    "FilterText",
    "Kinds",
    "OptionalServer",
    "OptionalTime",
    "RelayUrls",
    "SyncType",
    "read_filter_text",
]

_MAX_FILTER_VALUES: Final = 100_000
_INTEGER: Final = re.compile(r"[0-9]{1,18}")


def _read_urls(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(read_relay_url, read_list(text))))


def _read_kind(item: str) -> int:
    kind = units.parse_int(item)
    if not 0 <= kind <= MAX_KIND:
        raise ValueError(f"{item} is not a kind: write numbers of 0 to {MAX_KIND}")
    return kind


def _read_kinds(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(map(_read_kind, read_list(text))))


def _read_authors(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(nip19.parse_public_key, read_list(text))))


def _read_time(text: str) -> int | None:
    if not text:
        return None
    if _INTEGER.fullmatch(text) is None:
        raise ValueError("not a time: write seconds since 1970")
    return int(text)


def read_filter_text(text: str) -> str:
    """One filter of NIP-01 as JSON, checked; empty stays empty.

    Raises:
        ValueError: It is no filter; the text says where.
    """
    if not text:
        return ""
    try:
        parse_filter(msgspec.json.decode(text), FilterLimits(max_values=_MAX_FILTER_VALUES))
    except msgspec.DecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    except FilterError as error:
        raise ValueError(str(error)) from None
    return text


def _read_direction(text: str) -> str:
    if text.lower() not in ("down", "up", "both"):
        raise ValueError("write down, up or both")
    return text.lower()


def _read_sync_type(text: str) -> str:
    if text.lower() not in ("", "local", "grpc"):
        raise ValueError("write local or grpc")
    return text.lower()


def _read_optional_server(text: str) -> str:
    form: Form = get_args(Server)[1]
    return str(form.read(text)) if text else ""


RelayUrls = Annotated[tuple[str, ...], Form(name="comma list of URLs", read=_read_urls, show=show_list)]
Kinds = Annotated[tuple[int, ...], Form(name="comma list of kinds", read=_read_kinds, show=show_list)]
Authors = Annotated[
    tuple[str, ...], Form(name="comma list of npub or 64 hex digits", read=_read_authors, show=show_list)
]
OptionalTime = Annotated[int | None, Form(name="seconds since 1970", read=_read_time, show=show_optional)]
FilterText = Annotated[str, Form(name="filter as JSON", read=read_filter_text)]
Direction = Annotated[Literal["down", "up", "both"], Form(name="`down`, `up` or `both`", read=_read_direction)]
SyncType = Annotated[Literal["", "local", "grpc"], Form(name="`local` or `grpc`", read=_read_sync_type)]
OptionalServer = Annotated[str, Form(name="HOST:PORT or `unix:/path`", read=_read_optional_server)]
