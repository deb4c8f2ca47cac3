"""Input bytes as they are, or out of gzip or zstd, in pieces of any size."""

import zlib
from collections.abc import Iterator
from typing import Any

from kvstream.errors import MissingExtraError
from kvstream.events.types import Malformed

_PIECE = 4 * 1024 * 1024
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Decompressor:
    """Tells from the first bytes whether and how an input is compressed, and undoes it.

    Args:
        origin: The input's name, for reports.

    Example:
        >>> plain = Decompressor("x")
        >>> [*plain.feed(b"some"), *plain.feed(b" text"), *plain.finish()]
        [b'some', b' text']
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._head = b""  # bytes that are too few to tell the compression
        self._inflate: Any = None
        self._compressed_bytes = 0
        self._broken = self._opened = self._is_gzip = False

    def feed(self, data: bytes) -> Iterator[bytes | Malformed]:
        """Yields the plain bytes in pieces, and where the compression is damaged.

        Raises:
            MissingExtraError: If it is zstd and ``kvstream[zstd]`` is not installed.
        """
        if not self._opened:
            self._head += data
            if len(self._head) < len(_ZSTD):
                return
            data = self._open()
        yield from self._decompress(data)

    def finish(self) -> Iterator[bytes | Malformed]:
        """Yields what is left at the end of the input."""
        if not self._opened:
            yield from self._decompress(self._open())
        if self._inflate is not None and not self._broken:
            if not self._inflate.eof:
                yield self._bad("compressed data ends too early")
            elif self._head:
                yield self._bad("trailing bytes that are not compressed")

    def _open(self) -> bytes:
        self._inflate = self._inflater(self._head)
        self._opened = True
        head, self._head = self._head, b""
        return head

    def _inflater(self, head: bytes) -> Any:
        self._is_gzip = head.startswith(_GZIP)
        if self._is_gzip:
            return zlib.decompressobj(wbits=31)
        if head.startswith(_ZSTD):
            try:
                import zstandard
            except ImportError:
                raise MissingExtraError("reading zstd", "zstd") from None
            return zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
        return None

    def _decompress(self, data: bytes) -> Iterator[bytes | Malformed]:
        if self._inflate is None:
            if data:
                yield data
            return
        self._compressed_bytes += len(data)
        while data and not self._broken:
            if self._inflate.eof:  # several compressed parts may follow each other
                self._head += data
                if len(self._head) < len(_ZSTD):
                    return
                data, self._head = self._head, b""
                self._inflate = self._inflater(data)
                if self._inflate is None:
                    yield self._bad("trailing bytes that are not compressed")
                    return
            try:
                if self._is_gzip:  # zlib can be told how much to give at once
                    piece = self._inflate.decompress(data, _PIECE)
                    data = self._inflate.unconsumed_tail or self._inflate.unused_data
                else:
                    piece = self._inflate.decompress(data)
                    data = self._inflate.unused_data
            except Exception as error:  # zlib and zstandard each have their own
                yield self._bad(f"compressed data is damaged: {error}")
                return
            if piece:
                yield piece

    def _bad(self, reason: str) -> Malformed:
        self._broken = True
        return Malformed(self._origin, "byte", self._compressed_bytes, reason)
