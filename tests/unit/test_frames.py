import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from orly.relay.frames import text_frame, text_header


@pytest.mark.parametrize(
    ("length_bytes", "header"),
    [
        (0, "8100"),
        (1, "8101"),
        (125, "817d"),
        (126, "817e007e"),
        (65_535, "817effff"),
        (65_536, "817f0000000000010000"),
        (2**63 - 1, "817f7fffffffffffffff"),
    ],
)
def test_header_bytes_at_every_edge(length_bytes: int, header: str) -> None:
    assert text_header(length_bytes).hex() == header


@pytest.mark.parametrize("length_bytes", [-1, -126, 2**63])
def test_a_length_no_frame_can_carry_is_refused_by_name(length_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"cannot carry {length_bytes} bytes"):
        text_header(length_bytes)


@given(st.binary(max_size=300))
def test_a_frame_is_what_the_library_would_write(payload: bytes) -> None:
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


@pytest.mark.parametrize("length_bytes", [125, 126, 65_535, 65_536])
def test_a_large_frame_is_what_the_library_would_write(length_bytes: int) -> None:
    payload = b"x" * length_bytes
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)
