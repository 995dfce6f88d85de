"""The rules of access control, from the settings."""

from typing import TYPE_CHECKING

from orly.access.levels import Mode
from orly.access.snapshot import Rules

if TYPE_CHECKING:
    from orly.settings import Settings

__all__ = ["rules_from_settings"]


def rules_from_settings(settings: "Settings") -> Rules:
    """What stays as it is while a process runs."""
    return Rules(
        mode=Mode(settings.acl_mode or "none"),
        owners=frozenset(map(bytes.fromhex, settings.owners)),
        admins=frozenset(map(bytes.fromhex, settings.admins)),
        reads_restricted=settings.acl_restrict_reads,
        throttles=settings.follows_throttle,
        throttle_increment_s=settings.follows_throttle_increment_s,
        throttle_max_s=settings.follows_throttle_max_s,
    )
