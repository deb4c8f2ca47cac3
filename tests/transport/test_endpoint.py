from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.errors import ConfigError
from kvstream.transport.endpoint import Endpoint, MessageReader, with_length


@pytest.mark.parametrize(
    ("text", "endpoint", "is_local"),
    [
        ("unix:/run/kv.sock", Endpoint(path="/run/kv.sock"), True),
        ("unix:///run/kv.sock", Endpoint(path="/run/kv.sock"), True),
        ("unix:kv.sock", Endpoint(path="kv.sock"), True),
        ("tcp://127.0.0.1:70", Endpoint(host="127.0.0.1", port=70), True),
        ("tcp://[::1]:70", Endpoint(host="::1", port=70), True),
        ("tcp://localhost:0", Endpoint(host="localhost", port=0), True),
        ("tcp://0.0.0.0:70", Endpoint(host="0.0.0.0", port=70), False),
        ("tcp://engines.example:70", Endpoint(host="engines.example", port=70), False),
        ("tls://[::1]:70", Endpoint(host="::1", port=70, tls=True), True),
        ("tls://engines.example:70", Endpoint(host="engines.example", port=70, tls=True), False),
    ],
)
def test_endpoints(text, endpoint, is_local):
    assert Endpoint.parse(text) == endpoint
    assert endpoint.is_local == is_local
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert endpoint.is_exposed == (text.startswith("tcp:") and not is_local)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "tcp://host",
        "tcp://:70",
        "tcp://h:x",
        "udp://h:1",
        "tcp://h:1/x",
        "tcp://[",
        "tls://u@h:1",
    ],
)
def test_what_is_no_endpoint(text):
    with pytest.raises(ConfigError, match="no endpoint"):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (":9109", Endpoint(host="127.0.0.1", port=9109)),
        ("[::]:9109", Endpoint(host="::", port=9109)),
        ("h:9109", Endpoint(host="h", port=9109)),
    ],
)
def test_addresses_of_http_servers_are_on_this_machine_by_default(text, endpoint):
    assert Endpoint.parse_address(text) == endpoint


class Pipe:
    """A connection that hands out what it was given, in pieces of any size."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    async def receive(self, most):
        if not self.pieces:
            raise anyio.EndOfStream
        piece = self.pieces.pop(0)
        if len(piece) > most:
            self.pieces.insert(0, piece[most:])
        return piece[:most]


@given(
    st.lists(st.binary(max_size=200) | st.integers(0, 300_000).map(bytes), max_size=8),
    st.lists(st.integers(1, 1_000_000), max_size=8),
)
async def test_messages_are_read_whole_however_they_are_cut(messages, cuts):
    data = b"".join(map(with_length, messages))
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    reader = MessageReader(Pipe(*(data[start:end] for start, end in pairwise(edges))), 300_000)
    assert [await reader.next() for _ in messages] == messages
    assert await reader.next() is None
    assert reader.held == 0
    assert reader.received == len(data)


async def test_all_that_a_unix_socket_holds_is_read_at_once(tmp_path):
    messages = [bytes([n]) * 30_000 for n in range(5)]
    async with await anyio.create_unix_listener(tmp_path / "kv.sock") as listener:
        async with (
            await anyio.connect_unix(tmp_path / "kv.sock") as ours,
            await listener.accept() as theirs,
        ):
            for message in messages:
                await ours.send(with_length(message))
            reader = MessageReader(theirs, 1 << 20)
            assert await reader.receive()
            assert reader.is_drained
            assert [reader.waiting() for _ in range(6)] == [*messages, None]


async def test_memory_of_a_long_message_is_given_back():
    long, short = with_length(bytes(8 << 20)), with_length(b"short")
    reader = MessageReader(Pipe(long, short, short), 8 << 20)
    for size in (8 << 20, 5, 5):
        assert len(await reader.next()) == size
    assert len(reader._data) < 1 << 20
