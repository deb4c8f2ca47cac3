from itertools import pairwise

import anyio
from hypothesis import given
from hypothesis import strategies as st

from kvstream.transport.messages import MessageReader, with_length


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


async def test_memory_of_what_is_not_read_any_more_is_given_back():
    reader = MessageReader(Pipe(with_length(bytes(300_000))[:200_000]), 300_000)
    assert await reader.next() is None
    assert reader.held == 200_000
    reader.drop()
    assert (reader.held, len(reader._data)) == (0, 0)
