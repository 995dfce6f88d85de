"""The load client's framing against the `websockets` library: a client that miscounts would make every figure wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.errors import BenchError
from tests.bench.wire import FrameReader, handshake_request, handshake_verdict, masked_frame, text_frame
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

_SIZES = st.sampled_from([0, 1, 3, 4, 125, 126, 127, 65535, 65536])
_PAYLOADS = st.binary(max_size=300) | _SIZES.map(lambda size: bytes(n % 251 for n in range(size)))


def _opened_server() -> ServerProtocol:
    server = ServerProtocol()
    server.receive_data(handshake_request("127.0.0.1", 3334, "/"))
    (request,) = server.events_received()
    server.send_response(server.accept(request))  # type: ignore[arg-type]
    handshake_verdict(b"".join(server.data_to_send()).partition(b"\r\n\r\n")[0])
    assert server.state is State.OPEN
    return server


def _serialized(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


@given(payloads=st.lists(_PAYLOADS, max_size=4))
def test_the_library_reads_the_frames_of_the_client(payloads: list[bytes]) -> None:
    server = _opened_server()
    server.receive_data(b"".join(map(text_frame, payloads)))
    frames = [event for event in server.events_received() if isinstance(event, Frame)]
    assert [bytes(frame.data) for frame in frames] == payloads
    assert all(frame.opcode is Opcode.TEXT and frame.fin for frame in frames)


@given(payloads=st.lists(_PAYLOADS, max_size=5), cuts=st.lists(st.integers(1, 700), min_size=1, max_size=20))
def test_the_client_reads_the_frames_of_the_library_however_the_stream_is_cut(
    payloads: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(_serialized(Opcode.TEXT, payload) for payload in payloads)
    messages: list[bytes] = []
    reader = FrameReader(lambda data, start, end: messages.append(data[start:end]), lambda frame: None)
    position = turn = 0
    while position < len(stream):
        # Small cuts first, then the rest: byte-wise reads of 64 KiB frames would only be slow.
        size = cuts[turn] if turn < len(cuts) else len(stream)
        reader.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert messages == payloads


def test_fragments_are_joined_and_pings_answered_between_them() -> None:
    messages: list[bytes] = []
    pongs: list[bytes] = []
    reader = FrameReader(lambda data, start, end: messages.append(data[start:end]), pongs.append)
    reader.feed(
        _serialized(Opcode.TEXT, b"ab", fin=False) + _serialized(Opcode.PING, b"hi") + _serialized(Opcode.CONT, b"cd")
    )
    assert messages == [b"abcd"]
    assert pongs == [masked_frame(0xA, b"hi")]


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"\x88\x08\x03\xf0reason", "1008 reason"),
        (b"\x82\x01x", "unexpected frame"),
        (b"\x80\x01x", "unexpected frame"),
        (b"\x81\x81\0\0\0\0x", "masked"),
        (b"\x81\xff" + bytes(12), "masked"),
    ],
)
def test_what_a_server_must_not_send_and_a_close_end_the_measurement(stream: bytes, words: str) -> None:
    reader = FrameReader(lambda data, start, end: None, lambda frame: None)
    with pytest.raises(BenchError, match=words):
        reader.feed(stream)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"HTTP/1.1 429 Too Many Requests", "429"),
        (b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: other", "Accept"),
        (b"", "refused"),
    ],
)
def test_a_refused_handshake_names_the_reason(head: bytes, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        handshake_verdict(head)
