from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orly.cli.lines import CHUNK_BYTES, numbered_lines


def read_all(pieces: Iterable[bytes], max_line_bytes: int = 100) -> list[tuple[int, bytes | None]]:
    """The lines of a stream that comes in these pieces; checks that every byte is counted."""
    source = [piece for piece in pieces if piece]
    expected = sum(map(len, source))

    def read(max_bytes: int) -> bytes:
        assert max_bytes == CHUNK_BYTES
        return source.pop(0) if source else b""

    counted, found = 0, []
    for n_bytes, lines in numbered_lines(read, max_line_bytes=max_line_bytes):
        counted += n_bytes
        found += lines
    assert counted == expected
    return found


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (b"a\r\nb\r\n", [b"a\r", b"b\r"]),
        (b"\n\n", [b"", b""]),
    ],
)
def test_lines_are_numbered_from_one(data: bytes, lines: list[bytes]) -> None:
    assert read_all([data]) == list(enumerate(lines, start=1))


@given(pieces=st.lists(st.binary(max_size=8).map(lambda raw: raw.replace(b"\x00", b"\n"))))
def test_how_the_stream_is_cut_does_not_matter(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    texts = whole.split(b"\n")
    expected = texts if texts[-1] else texts[:-1]
    assert read_all(pieces, max_line_bytes=len(whole)) == list(enumerate(expected, start=1))


@pytest.mark.parametrize("ending", [b"", b"\n", b"\nnext\n"])
@pytest.mark.parametrize("piece_bytes", [1, 3, 1000])
def test_a_line_may_be_as_long_as_the_limit(ending: bytes, piece_bytes: int) -> None:
    def cut(data: bytes) -> list[bytes]:
        return [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)]

    after = [(2, b"next")] if ending == b"\nnext\n" else []
    assert read_all(cut(b"x" * 10 + ending), max_line_bytes=10) == [(1, b"x" * 10), *after]
    assert read_all(cut(b"x" * 11 + ending), max_line_bytes=10) == [(1, None), *after]


def test_a_line_that_is_too_long_is_not_kept_in_memory() -> None:
    endless = [b"x" * 1000] * 1000 + [b"\nok\n"]
    assert read_all(endless, max_line_bytes=10) == [(1, None), (2, b"ok")]
