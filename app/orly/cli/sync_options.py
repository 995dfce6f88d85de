"""The options of `orly sync` as they were given."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["OptionError", "SyncOptions"]


class OptionError(Exception):
    """The command line asks for what cannot be; the text names the option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """The options as they were given; None is not given.

    Attributes:
        url: The other relay.
        filter_json: One NIP-01 filter.
        direction: `down`, `up`, `both` or `none`.
        since: Seconds since 1970, or an age.
        until: Likewise.
        span: Two ages, `START-END`.
        data_dir: The store, instead of ORLY_DATA_DIR.
        server: The `orly-sync-negentropy` that shall do it.
        token_file: Holds the token for it.
        tls_ca: The authority that signed its certificate.
        dry_run: Compare only.
        print_missing: Compare only, and print ids.
        timeout: A duration.
        batch: Ids in one request.
        frame_bytes: Longest reconciliation message that is sent; 0 is no limit.
        auth_key_file: Holds the secret key for NIP-42.
        private_kinds: Send private kinds too.
        as_json: Report in JSON lines.
        verbose: Log what is going on.
    """

    url: str
    filter_json: str = "{}"
    direction: str | None = None
    since: str | None = None
    until: str | None = None
    span: str | None = None
    data_dir: str | None = None
    server: str | None = None
    token_file: Path | None = None
    tls_ca: Path | None = None
    dry_run: bool = False
    print_missing: bool = False
    timeout: str | None = None
    batch: int = 500
    frame_bytes: int = 60_000
    auth_key_file: Path | None = None
    private_kinds: bool = False
    as_json: bool = False
    verbose: bool = False
