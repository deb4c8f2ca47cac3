"""Input bytes as they are, or out of gzip or zstd, in pieces of any size."""

import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from kvstream.errors import MissingExtraError
from kvstream.events.types import Malformed

_PIECE = 4 * 1024 * 1024
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# Each 4 bytes of zstd can hold 128 KiB, and all that a call takes in comes out of it at once.
_ZSTD_SLICE = 256
_GZIP_SLICE = 64 * 1024
_ZSTD_WINDOW = 32 * 1024 * 1024
_READ = 1024 * 1024
_PARTS_AT_ONCE = 256


class Decompressor:
    """Tells from the first bytes whether and how an input is compressed, and undoes it.

    However much some bytes hold, it takes at most 64 MiB: pieces have at most 8 MiB, and zstd that needs a
    window of more than 32 MiB is damaged input.

    Args:
        origin: The input's name, for reports.

    Examples:
        >>> plain = Decompressor("x")
        >>> [*plain.feed(b"some"), *plain.feed(b" text"), *plain.finish()]
        [b'some', b' text']
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._head = b""  # bytes that are too few to tell the compression
        self._inflate: Any = None
        self._zstd: Any = None
        self._errors: tuple[type[Exception], ...] = (zlib.error,)
        self._compressed_bytes = 0
        self._broken = self._opened = self._is_gzip = False

    @property
    def is_compressed(self) -> bool:
        """Return whether the input is compressed, as far as is known."""
        return self._inflate is not None

    def read(self, file: BinaryIO) -> Iterator[bytes | Malformed]:
        """Yield a whole file, as ``feed`` and ``finish`` do."""
        while data := file.read(_READ):
            yield from self.feed(data)
        yield from self.finish()

    def feed(self, data: bytes) -> Iterator[bytes | Malformed]:
        """Yield the plain bytes in pieces, and where the compression is damaged.

        Pieces may be empty, so that whoever drives it gets its turn while there is much to pass over.

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
        """Yield what is left at the end of the input."""
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
            if self._zstd is None:
                try:
                    import zstandard
                except ImportError:
                    raise MissingExtraError("reading zstd", "zstd") from None
                self._zstd = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
                self._errors = (zlib.error, zstandard.ZstdError)
            return self._zstd.decompressobj()
        return None

    def _decompress(self, data: bytes) -> Iterator[bytes | Malformed]:
        if self._inflate is None:
            if data and not self._broken:
                yield data
            return
        self._compressed_bytes += len(data)
        if self._head:
            data, self._head = self._head + data, b""
        at = parts = 0
        while at < len(data) and not self._broken:
            if self._inflate.eof:  # several compressed parts may follow each other
                if len(data) - at < len(_ZSTD):
                    self._head = data[at:]
                    return
                self._inflate = self._inflater(data[at : at + len(_ZSTD)])
                if self._inflate is None:
                    yield self._bad("trailing bytes that are not compressed")
                    return
                parts += 1
                if parts % _PARTS_AT_ONCE == 0:
                    yield b""
            part = data[at : at + (_GZIP_SLICE if self._is_gzip else _ZSTD_SLICE)]
            try:
                if self._is_gzip:  # zlib has a limit to what it returns at once, zstd has none
                    piece = self._inflate.decompress(part, _PIECE)
                    left = self._inflate.unconsumed_tail or self._inflate.unused_data
                else:
                    piece = self._inflate.decompress(part)
                    left = self._inflate.unused_data
            except self._errors as error:
                yield self._bad(_explained(error))
                return
            at += len(part) - len(left)
            if piece:
                yield piece

    def _bad(self, reason: str) -> Malformed:
        self._broken = True
        return Malformed(self._origin, "byte", self._compressed_bytes, reason)


def _explained(error: Exception) -> str:
    if "too much memory" in str(error):
        return (
            f"zstd with a window of more than {_ZSTD_WINDOW >> 20} MiB; compress it without --long or --ultra"
        )
    return f"compressed data is damaged: {error}"
