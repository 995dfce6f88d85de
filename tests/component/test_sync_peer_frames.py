"""Frames of a client: any chunking gives the same messages, and every broken rule its close code."""

from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.component.fake_peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from orly.sync.peer_frames import FrameError, FrameSplitter, Masker, close_payload

MAX_BYTES: Final = 70_000
TEXTS: Final = st.lists(
    st.one_of(
        st.text(max_size=20).map(str.encode),
        st.integers(min_value=0, max_value=MAX_BYTES).map(lambda size: b"x" * size),
        st.sampled_from([b"x" * size for size in (125, 126, 127, 65535, 65536, MAX_BYTES)]),
    ),
    max_size=8,
)


def split(*chunks: bytes) -> tuple[list[bytes], FrameSplitter]:
    splitter = FrameSplitter(MAX_BYTES)
    messages: list[bytes] = []
    for chunk in chunks:
        splitter.feed(chunk, messages)
    return messages, splitter


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(texts=TEXTS, data=st.data())
def test_any_chunking_gives_the_same_messages(texts: list[bytes], data: st.DataObject) -> None:
    stream = b""
    for text in texts:
        pieces = chunked(text, data.draw(st.lists(st.integers(min_value=0), max_size=3)))
        for number, piece in enumerate(pieces):
            stream += frame(CONTINUATION if number else TEXT, piece, fin=number == len(pieces) - 1)
            if data.draw(st.booleans()):
                stream += frame(data.draw(st.sampled_from([PING, PONG])), b"between")
    cuts = data.draw(st.lists(st.integers(min_value=0), max_size=12))
    messages, splitter = split(*chunked(stream, cuts))
    assert messages == texts
    assert splitter.unfinished_bytes == 0
    assert splitter.close is None


def test_a_byte_at_a_time() -> None:
    stream = frame(TEXT, b"a" * 300) + frame(PING, b"p") + frame(TEXT, b"b") + frame(CLOSE, close_payload(1001, "bye"))
    messages, splitter = split(*(stream[index : index + 1] for index in range(len(stream))))
    assert messages == [b"a" * 300, b"b"]
    assert splitter.ping == b"p"
    assert splitter.close == (1001, "bye")


def test_only_the_last_ping_is_kept() -> None:
    _, splitter = split(b"".join(frame(PING, str(number).encode()) for number in range(5)))
    assert splitter.ping == b"4"


def test_nothing_after_a_close_frame_is_read() -> None:
    messages, splitter = split(frame(TEXT, b"1") + frame(CLOSE) + frame(TEXT, b"2") + frame(BINARY, b"3"))
    assert messages == [b"1"]
    assert splitter.close == (None, "")


def test_messages_at_the_limit() -> None:
    whole = frame(TEXT, b"x" * MAX_BYTES)
    halves = frame(TEXT, b"x" * 5, fin=False) + frame(CONTINUATION, b"x" * (MAX_BYTES - 5))
    messages, _ = split(whole + halves)
    assert [len(message) for message in messages] == [MAX_BYTES, MAX_BYTES]


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (frame(TEXT, b"x" * (MAX_BYTES + 1)), CloseCode.MESSAGE_TOO_BIG),
        (frame(TEXT, b"x" * (MAX_BYTES + 1))[:10], CloseCode.MESSAGE_TOO_BIG),
        (b"\x81\x7f" + b"\xff" * 8, CloseCode.MESSAGE_TOO_BIG),
        (frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x" * MAX_BYTES), CloseCode.MESSAGE_TOO_BIG),
        (frame(BINARY, b"x"), CloseCode.UNSUPPORTED_DATA),
        (frame(BINARY, b"x" * 1000)[:4], CloseCode.UNSUPPORTED_DATA),
        (frame(TEXT, b"x", masked=True), CloseCode.PROTOCOL_ERROR),
        (frame(TEXT, b"x" * 300, masked=True), CloseCode.PROTOCOL_ERROR),
        (frame(TEXT, b"x", reserved=0x40), CloseCode.PROTOCOL_ERROR),
        (frame(0x3, b"x"), CloseCode.PROTOCOL_ERROR),
        (frame(0xB, b"x"), CloseCode.PROTOCOL_ERROR),
        (frame(CONTINUATION, b"x"), CloseCode.PROTOCOL_ERROR),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), CloseCode.PROTOCOL_ERROR),
        (frame(PING, b"x" * 126), CloseCode.PROTOCOL_ERROR),
        (frame(PING, b"x", fin=False), CloseCode.PROTOCOL_ERROR),
        (frame(CLOSE, b"\x03"), CloseCode.PROTOCOL_ERROR),
        (frame(CLOSE, close_payload(1005, "")), CloseCode.PROTOCOL_ERROR),
        (frame(CLOSE, close_payload(999, "")), CloseCode.PROTOCOL_ERROR),
        (frame(CLOSE, b"\x03\xe8\xff"), CloseCode.INVALID_DATA),
        (frame(TEXT, b"\xff"), CloseCode.INVALID_DATA),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"("), CloseCode.INVALID_DATA),
    ],
)
def test_broken_rules(stream: bytes, code: CloseCode) -> None:
    splitter = FrameSplitter(MAX_BYTES)
    messages: list[bytes] = []
    with pytest.raises(FrameError) as caught:
        splitter.feed(frame(TEXT, b"before") + stream, messages)
    assert caught.value.code == code
    assert messages == [b"before"]


def test_a_character_may_be_cut_between_fragments() -> None:
    messages, _ = split(frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"\xa4"))
    assert messages == ["ä".encode()]


def test_a_control_frame_of_125_bytes() -> None:
    _, splitter = split(frame(PING, b"x" * 125))
    assert splitter.ping == b"x" * 125


def test_unfinished_bytes() -> None:
    _, splitter = split(frame(TEXT, b"x" * 10, fin=False) + frame(CONTINUATION, b"x" * 200)[:50])
    assert splitter.unfinished_bytes == 10 + 50


@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(min_value=0), max_size=5))
def test_any_bytes_give_messages_or_the_error(data: bytes, cuts: list[int]) -> None:
    def outcome(*chunks: bytes) -> tuple[list[bytes], int | None]:
        splitter = FrameSplitter(1000)
        messages: list[bytes] = []
        try:
            for chunk in chunks:
                if splitter.close is None:
                    splitter.feed(chunk, messages)
        except FrameError as error:
            return messages, error.code
        return messages, None

    assert outcome(*chunked(data, cuts)) == outcome(data)


def test_a_server_understands_our_frames() -> None:
    texts = [b"", b"short", b"x" * 125, b"x" * 126, b"x" * 65535, b"x" * 65536]
    server = ServerProtocol(state=State.OPEN, max_size=None)
    masker = Masker()
    stream = masker.text_frames(texts) + masker.frame(PING, b"ping") + masker.frame(CLOSE, close_payload(1000, "end"))
    server.receive_data(stream)
    frames = [event for event in server.events_received() if isinstance(event, Frame)]
    assert [bytes(one.data) for one in frames if one.opcode is Opcode.TEXT] == texts
    assert server.close_rcvd is not None
    assert (server.close_rcvd.code, server.close_rcvd.reason) == (1000, "end")


def test_every_frame_has_a_mask_of_its_own() -> None:
    masker = Masker()
    frames = [masker.frame(TEXT, b"\0" * 8) for _ in range(3000)]
    assert len({one[2:6] for one in frames}) > 2900
    assert all(one[6:10] == one[2:6] for one in frames)


def test_a_close_reason_is_cut_between_characters() -> None:
    assert close_payload(1000, "ä" * 80) == b"\x03\xe8" + "ä".encode() * 61
