"""What a door asks of access control, whether that runs in its own process or in another."""

from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

import msgspec

from orly.access.commands import Command, Entry, Member
from orly.access.snapshot import ListName, Snapshot

__all__ = ["REPORTER_BYTES", "AccessControl", "ControlError", "Listed", "Use", "UseMark"]


class ControlError(Exception):
    """Access control cannot do what was asked; the text is fit for whoever asked."""


class Listed(msgspec.Struct, frozen=True):
    """A member of a list, and what is known of it."""

    member: Member
    entry: Entry


class Use(msgspec.Struct, frozen=True):
    """Events that somebody published who has a daily limit.

    Attributes:
        pubkey: The author, 32 bytes.
        address: The place they came from (`orly.access.addresses.place_of`); empty if that does not count.
        n_events: How many.
        was_over: They were refused, for the limit was reached: an offence of the address.
    """

    pubkey: bytes
    address: str
    n_events: int
    was_over: bool = False


REPORTER_BYTES: Final = 16


class UseMark(msgspec.Struct, frozen=True):
    """Tells reports of use from each other, so that one that is repeated is counted once.

    Attributes:
        reporter: A process, `REPORTER_BYTES` random bytes.
        number: Grows with every report of that process.
        day: Of Unix time, when the events came.
    """

    reporter: bytes
    number: int
    day: int


class AccessControl(Protocol):
    """Used from one event loop."""

    @property
    def snapshot(self) -> Snapshot | None:
        """The lists as far as they are known here; None until they are. It changes in place, and may be replaced."""

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have something called after every change of the snapshot but of what was used; returns what ends that."""

    async def change(self, commands: Sequence[Command], *, by: str) -> None:
        """Carry out commands, all or none; afterwards they hold here, and soon everywhere.

        Args:
            commands: What is to be done, 400 at most.
            by: The key (hex) of whoever asks; empty for an operator of this machine.

        Raises:
            CommandError: One cannot be done; the text says why.
            ControlError: The lists cannot be changed now.
        """

    async def listed(self, name: ListName, *, after: Member | None = None, limit: int = 1000) -> Sequence[Listed]:
        """A page of a list's members in order; an empty one is the end.

        Raises:
            ControlError: The list cannot be read now.
        """

    async def entry_of(self, name: ListName, member: Member) -> Entry | None:
        """What is known of a member; None if it is not on the list.

        Raises:
            ControlError: The list cannot be read now.
        """

    async def use_once(self, event_id: bytes) -> bool:
        """Note that an event (32 bytes) has allowed a request (NIP-98); False if it did before, at whichever process.

        Raises:
            ControlError: That cannot be told, or noted, now.
        """

    async def used(self, uses: Collection[Use], *, mark: UseMark | None = None) -> None:
        """Count events for the limits of a day.

        Args:
            uses: What came.
            mark: If there is one, a second report with it counts nothing, nor does one of a day that is over.

        Raises:
            CommandError: It makes no sense.
            ControlError: It is not known whether they were counted.
        """
