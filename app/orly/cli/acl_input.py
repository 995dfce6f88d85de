"""The keys, ids, addresses and kinds that a command of `orly acl` is given, all read before anything is changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from orly.access.commands import MAX_REASON_CHARACTERS, Member
from orly.cli.acl_actions import Action, read_member
from orly.cli.acl_options import AclError, ChangeOptions
from orly.cli.files import input_name, opened_input, read_from
from orly.cli.lines import numbered_lines
from orly.logs import escape
from orly.process.exit_codes import ExitCode

__all__ = ["MAX_LINES", "MAX_SHOWN_PROBLEMS", "Item", "Items", "read_items", "reason_problem"]

MAX_LINES: Final = 1_000_000
"""Of one file; they take 200 MB."""

MAX_SHOWN_PROBLEMS: Final = 20
"""Bad lines named one by one; the rest are only counted."""

_MAX_LINE_BYTES: Final = 8 * 1024
_MAX_SHOWN: Final = 80
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Item(msgspec.Struct, frozen=True, gc=False):
    """What was said of a member.

    Attributes:
        reason: Why.
        line: Where it stands in the file; 0 = it was an argument.
    """

    reason: str
    line: int


Items = dict[Member, Item]
"""Each member once; what was said of it last counts."""


def read_items(action: Action, options: ChangeOptions) -> Items:
    """All members that a command is given, from its arguments or from a file.

    Raises:
        AclError: One is none; nothing else is done then.
        FileError: The file cannot be read.
    """
    if options.file is not None and options.keys:
        raise AclError(ExitCode.USAGE, "name them as arguments or in --file, not both")
    if options.file is None and not options.keys:
        raise AclError(ExitCode.USAGE, f"name at least one {action.sort.value}, or a file with --file")
    items: Items = {}
    problems = _Problems()
    if options.file is None:
        _take_arguments(action, options, items, problems)
    else:
        _take_lines(action, options, options.file, items, problems)
    if problems.count:
        raise AclError(ExitCode.USAGE, "\n".join((*problems.lines(), "nothing was changed")))
    return items


def reason_problem(reason: str) -> str:
    """What is wrong with a reason; empty if nothing is."""
    return f"the reason has more than {MAX_REASON_CHARACTERS} characters" if len(reason) > MAX_REASON_CHARACTERS else ""


class _Problems:
    def __init__(self) -> None:
        self.count = 0
        self._shown: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if self.count <= MAX_SHOWN_PROBLEMS:
            self._shown.append(text)

    def lines(self) -> Iterator[str]:
        yield from self._shown
        if self.count > len(self._shown):
            yield f"and {self.count - len(self._shown)} more"


def _take_arguments(action: Action, options: ChangeOptions, items: Items, problems: _Problems) -> None:
    for text in options.keys:
        try:
            items[read_member(action.sort, text)] = Item(options.reason or "", 0)
        except ValueError as error:
            is_secret = text.lower().startswith("nsec1")
            problems.add(f"{'nsec1...' if is_secret else escape(text)[:_MAX_SHOWN] or 'an empty argument'}: {error}")


def _take_lines(action: Action, options: ChangeOptions, file: Path, items: Items, problems: _Problems) -> None:
    name = input_name(file)
    with opened_input(file) as stream:
        pieces = numbered_lines(lambda most: read_from(stream, file, most), max_line_bytes=_MAX_LINE_BYTES)
        for number, raw in (line for _, lines in pieces for line in lines):
            if number > MAX_LINES:
                text = f"{name} has more than {MAX_LINES} lines: cut it into several files; nothing was changed"
                raise AclError(ExitCode.USAGE, text)
            try:
                found = _read_line(action, raw, number)
            except ValueError as error:
                problems.add(f"line {number} of {name}: {error}")
                continue
            if found is not None:
                member, reason = found
                items[member] = Item(reason or options.reason or "", number)


def _read_line(action: Action, raw: bytes | None, number: int) -> tuple[Member, str] | None:
    """The member on a line, and the reason behind it; None if the line says nothing.

    Raises:
        ValueError: It holds something else.
    """
    if raw is None:
        raise ValueError(f"it has more than {_MAX_LINE_BYTES} bytes")
    try:
        text = (raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw).decode().strip()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    if not text or text.startswith("#"):
        return None
    word, *rest = text.split(maxsplit=1)
    member = read_member(action.sort, word)
    reason = rest[0] if rest and action.takes_reason else ""
    if problem := reason_problem(reason):
        raise ValueError(problem)
    return member, reason
