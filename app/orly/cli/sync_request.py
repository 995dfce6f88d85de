"""The sync that the options of `orly sync` describe."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from orly import units
from orly.cli.sync_options import OptionError, SyncOptions
from orly.cli.sync_times import parse_range, parse_time
from orly.nostr import nip19
from orly.nostr.event import MAX_CREATED_AT
from orly.nostr.filter import Filter, FilterError, FilterLimits, parse_filter
from orly.settings import Settings
from orly.settings_types import read_relay_url
from orly.sync.negentropy.request import MAX_BATCH_EVENTS, MIN_FRAME_BYTES, Direction, SyncRequest
from orly.units import MIB

__all__ = ["MAX_FRAME_BYTES", "TIMEOUT_S", "read_request", "read_secret_file"]

MAX_FRAME_BYTES: Final = 8 * MIB
"""No relay takes a longer message."""

TIMEOUT_S: Final = (1, 24 * 60 * 60)
"""The shortest and the longest silence that may be asked for."""

_MAX_FILTER_VALUES: Final = 100_000
_MAX_FILE_BYTES: Final = 8192
"""More than a key or a token with white space around it takes; whatever is longer is another file."""

_T = TypeVar("_T")


def read_request(options: SyncOptions, settings: Settings, now_s: int) -> SyncRequest:
    """The sync that the options describe, with the settings for what they leave open.

    Args:
        options: Those of the command line.
        settings: For the silence that is borne, the key, and private kinds.
        now_s: Unix time, for ages.

    Raises:
        OptionError: An option cannot be used; the text names it.
    """
    if options.frame_bytes and not MIN_FRAME_BYTES <= options.frame_bytes <= MAX_FRAME_BYTES:
        raise OptionError(
            f"--frame-size-limit {options.frame_bytes}: write {MIN_FRAME_BYTES} to {MAX_FRAME_BYTES}, or 0 for no limit"
        )
    if not 1 <= options.batch <= MAX_BATCH_EVENTS:
        raise OptionError(f"--batch {options.batch}: write 1 to {MAX_BATCH_EVENTS}")
    return SyncRequest(
        url=_url(options.url),
        filter=_filter(options, now_s),
        direction=_direction(options),
        frame_bytes=options.frame_bytes,
        timeout_s=_timeout_s(options.timeout) if options.timeout is not None else settings.sync_negentropy_timeout_s,
        batch_events=options.batch,
        auth_key=_auth_key(options, settings),
        private_kinds=options.private_kinds or settings.sync_negentropy_private_kinds,
        list_ids=options.print_missing,
    )


def _url(text: str) -> str:
    try:
        url = read_relay_url(text)
    except ValueError as error:
        raise OptionError(f"{text}: {error}") from None
    if not url:
        raise OptionError("URL is empty: name the other relay, such as wss://relay.example.com")
    return url


def _direction(options: SyncOptions) -> Direction:
    try:
        given = Direction.DOWN if options.direction is None else Direction(options.direction)
    except ValueError:
        raise OptionError(f"--dir {options.direction}: write down, up, both or none") from None
    if options.print_missing and options.direction is not None and given is not Direction.NONE:
        raise OptionError("--print-missing transfers nothing: leave --dir out, or write --dir none")
    return Direction.NONE if options.dry_run or options.print_missing else given


def _filter(options: SyncOptions, now_s: int) -> Filter:
    try:
        given = parse_filter(msgspec.json.decode(options.filter_json), FilterLimits(max_values=_MAX_FILTER_VALUES))
    except (msgspec.DecodeError, UnicodeError, RecursionError, FilterError) as error:
        raise OptionError(f"--filter: {error}") from None
    since, until = given.since, given.until
    if options.span is not None:
        if options.since is not None or options.until is not None or since != 0 or until != MAX_CREATED_AT:
            raise OptionError("--range excludes --since and --until, and those of the filter")
        first, last = _read("--range", parse_range, options.span, now_s)
        since = since if first is None else first
        until = until if last is None else last
    if options.since is not None:
        since = max(since, _read("--since", parse_time, options.since, now_s))
    if options.until is not None:
        until = min(until, _read("--until", parse_time, options.until, now_s))
    if since > until:
        raise OptionError(f"nothing can be from {since} on and up to {until}: see --since, --until and --filter")
    return msgspec.structs.replace(given, since=since, until=until)


def _read(option: str, parse: Callable[[str, int], _T], text: str, now_s: int) -> _T:
    try:
        return parse(text, now_s)
    except ValueError as error:
        raise OptionError(f"{option}: {error}") from None


def _timeout_s(text: str) -> float:
    least, most = TIMEOUT_S
    try:
        timeout_s = units.parse_duration(text)
    except ValueError as error:
        raise OptionError(f"--timeout {text}: {error}") from None
    if not least <= timeout_s <= most:
        raise OptionError(f"--timeout {text}: write {least}s to {units.format_duration(most)}")
    return timeout_s


def _auth_key(options: SyncOptions, settings: Settings) -> bytes | None:
    if options.auth_key_file is None:
        secret = settings.sync_negentropy_secret_key or settings.relay_secret_key
        return None if secret is None else bytes.fromhex(secret.get_secret_value())
    if options.server is not None:
        raise OptionError(
            "--auth-key-file has no effect with --server: the service has a key, ORLY_SYNC_NEGENTROPY_SECRET_KEY"
        )
    try:
        return bytes.fromhex(nip19.parse_secret_key(read_secret_file("--auth-key-file", options.auth_key_file)))
    except nip19.Nip19Error as error:
        raise OptionError(f"--auth-key-file {options.auth_key_file}: {error}") from None


def read_secret_file(option: str, file: Path) -> str:
    """The text in a file, without white space around it.

    Raises:
        OptionError: It cannot be read, or holds no such text; what it holds is never repeated.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
        text = data.decode("ascii").strip()
    except OSError as error:
        raise OptionError(f"{option} {file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise OptionError(f"{option} {file} holds more than plain text") from None
    if not text or len(data) > _MAX_FILE_BYTES:
        raise OptionError(f"{option} {file} is {'longer than a secret' if text else 'empty'}")
    return text
