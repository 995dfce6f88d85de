"""Levels and modes of access control, by the names that settings, answers and tools use."""

from enum import Enum, IntEnum

__all__ = ["Level", "Mode"]


class Level(IntEnum):
    """What a key may do at most; each level may do what those below it may."""

    NONE = 0
    READ = 1
    WRITE = 2
    ADMIN = 3
    """Moderates: keeps the lists, reads what is hidden, exports and imports."""
    OWNER = 4

    @property
    def label(self) -> str:
        """As answers and tools write it."""
        return self.name.lower()


class Mode(Enum):
    """How the relay decides who may write; `ORLY_ACL_MODE`."""

    NONE = "none"
    """Everybody."""
    FOLLOWS = "follows"
    """Whom the admins and owners follow."""
    MANAGED = "managed"
    """Who is on the list of allowed keys."""
    CURATING = "curating"
    """Everybody, but who is not trusted a limited number of events a day."""
