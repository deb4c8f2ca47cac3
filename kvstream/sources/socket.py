"""Frames from producers in other processes, over Unix sockets and TCP."""

import hmac
import os
from typing import NamedTuple

import anyio
import msgspec
from anyio.abc import ByteStream, Listener, SocketAttribute

from kvstream.errors import ConfigError, MalformedInputError
from kvstream.events.codec import MAX_FRAME_BYTES, decode_frame
from kvstream.events.types import Malformed
from kvstream.link import LINK_VERSION, MAX_HELLO_BYTES, Endpoint, Hello, MessageReader, with_length
from kvstream.stream import KVStream

_HELLO_SECONDS = 10.0
_FAREWELL_SECONDS = 1.0
_FRAMES_AN_ANSWER = 16  # while more are waiting

_hello_decoder = msgspec.msgpack.Decoder(Hello)


class ServerStatistics(NamedTuple):
    """A server's accounts at one moment.

    Attributes:
        connections: Producers connected now.
        accepted: Producers that have connected so far.
        refused: Connections that were refused or broke the rules.
        frames: Frames received, repeated ones among them.
        received_bytes: Bytes in them.
    """

    connections: int
    accepted: int
    refused: int
    frames: int
    received_bytes: int


class FrameServer:
    """Takes frames from remote producers into a stream.

    A frame is acknowledged once it is on the stream's queue, for which a producer's side is made to wait.
    One that cannot be decoded is counted as malformed and passed over.

    Args:
        stream: Where the frames go.
        endpoint: Where to listen.
        token: What producers must know; None lets everybody in.
        insecure: Listen beyond this machine without a token.
        longest_frame: Bytes a frame may have.
        most_connections: Connections at once.

    Raises:
        ConfigError: If others than this machine could connect without a token.
    """

    def __init__(
        self,
        stream: KVStream,
        endpoint: Endpoint,
        *,
        token: str | None = None,
        insecure: bool = False,
        longest_frame: int = MAX_FRAME_BYTES,
        most_connections: int = 256,
    ) -> None:
        endpoint.require_guard(str(endpoint), token, insecure)
        self.endpoint = endpoint
        self._stream, self._token = stream, token
        self._longest_frame, self._most_connections = longest_frame, most_connections
        self._connections = self._accepted = self._refused = self._frames = self._bytes = 0
        self._listener: Listener[ByteStream] | None = None

    def statistics(self) -> ServerStatistics:
        """The accounts now."""
        return ServerStatistics(self._connections, self._accepted, self._refused, self._frames, self._bytes)

    async def bind(self) -> None:
        """Begins to listen; ``endpoint`` then has the port, if any was asked for.

        Raises:
            ConfigError: If the endpoint cannot be listened at.
        """
        try:
            if self.endpoint.path:
                await self._refuse_taken()
                self._listener = await anyio.create_unix_listener(self.endpoint.path, mode=0o600)
            else:
                self._listener = await anyio.create_tcp_listener(
                    local_host=self.endpoint.host, local_port=self.endpoint.port
                )
                port = self._listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
                self.endpoint = Endpoint(host=self.endpoint.host, port=port)
        except OSError as error:
            raise ConfigError(f"cannot listen at {self.endpoint}: {error.strerror or error}") from error

    async def _refuse_taken(self) -> None:
        """A socket file that somebody answers at belongs to a running server."""
        try:
            other = await anyio.connect_unix(self.endpoint.path)
        except OSError:
            return
        await other.aclose()
        raise ConfigError(f"cannot listen at {self.endpoint}: another server does")

    async def serve(self) -> None:
        """Serves until cancelled; ``bind`` comes first."""
        assert self._listener is not None  # noqa: S101
        try:
            async with self._listener:
                await self._listener.serve(self._serve)
        finally:
            if self.endpoint.path:
                os.unlink(self.endpoint.path)

    async def _serve(self, connection: ByteStream) -> None:
        async with connection:
            try:
                if self._connections >= self._most_connections:
                    raise ConfigError(f"{self._most_connections} producers are connected already")
                self._connections += 1
                try:
                    await self._take_frames(connection)
                finally:
                    self._connections -= 1
            except (ConfigError, MalformedInputError) as error:
                self._refused += 1
                with anyio.move_on_after(_FAREWELL_SECONDS):
                    await _answer(connection, str(error))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass  # the producer's side has gone; it comes again with what was not acknowledged

    async def _take_frames(self, connection: ByteStream) -> None:
        reader = MessageReader(connection, MAX_HELLO_BYTES)
        with anyio.move_on_after(_HELLO_SECONDS) as hello:
            self._greet(await reader.next())
        if hello.cancelled_caught:
            raise ConfigError(f"no hello within {_HELLO_SECONDS:.0f} s")
        self._accepted += 1
        await _answer(connection, 0)
        reader.longest = self._longest_frame
        taken = acknowledged = 0
        while True:
            data = reader.waiting()
            if taken - acknowledged >= (_FRAMES_AN_ANSWER if data else 1):
                await _answer(connection, taken)
                acknowledged = taken
            if data is None and (data := await reader.next()) is None:
                return
            taken += 1
            self._frames += 1
            self._bytes += len(data)
            try:
                frame = decode_frame(data)
            except MalformedInputError as error:
                self._stream.reject(Malformed(str(self.endpoint), "frame", self._frames, str(error)))
            else:
                await self._stream.send(frame)

    def _greet(self, data: bytes | None) -> None:
        try:
            hello = _hello_decoder.decode(data or b"")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedInputError("this is no kvstream producer") from error
        if hello.protocol != "kvstream" or hello.version != LINK_VERSION:
            raise MalformedInputError(f"{hello.protocol} {hello.version} is not kvstream {LINK_VERSION}")
        if self._token and not hmac.compare_digest((hello.token or "").encode(), self._token.encode()):
            raise ConfigError("the token is not the right one")


async def _answer(connection: ByteStream, answer: int | str) -> None:
    await connection.send(with_length(msgspec.msgpack.encode(answer)))
