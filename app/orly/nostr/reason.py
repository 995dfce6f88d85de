"""Why the relay refused something: NIP-01's machine-readable prefixes and a text for people."""

from enum import StrEnum

import msgspec

__all__ = ["Prefix", "Refusal"]


class Prefix(StrEnum):
    """The words that may stand before the colon of an OK or CLOSED message (NIP-01, NIP-42)."""

    DUPLICATE = "duplicate"
    INVALID = "invalid"
    BLOCKED = "blocked"
    RATE_LIMITED = "rate-limited"
    POW = "pow"
    RESTRICTED = "restricted"
    AUTH_REQUIRED = "auth-required"
    UNSUPPORTED = "unsupported"
    ERROR = "error"


class Refusal(msgspec.Struct, frozen=True):
    """A refusal whose text always starts with one of the known prefixes."""

    prefix: Prefix
    detail: str

    def __str__(self) -> str:
        return f"{self.prefix.value}: {self.detail}"
