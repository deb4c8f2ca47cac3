"""Lookups as rows of a Mooncake trace, which Mooncake, Dynamo, AIPerf and others replay."""

from collections.abc import Iterator

import msgspec

from kvstream.events.frame import EventFrame
from kvstream.sinks.lookups import Lookups

_OUTPUT_TOKENS = 1  # events do not say how long outputs were, and readers want a length
_encoder = msgspec.json.Encoder()


class MooncakeEncoder:
    """Encodes the lookups of one cache as JSON lines, in the form that ``sources/mooncake.py`` reads.

    Times are ms since the first row, hashes the content as unsigned 64-bit integers.

    Args:
        block_tokens: Tokens in a block, of which the rows' input lengths are made.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._lookups = Lookups()
        self._first_ns: int | None = None

    @property
    def left_out(self) -> int:
        """Return lookups of unknown content, which are not in the rows."""
        return self._lookups.unknown

    def encode(self, frame: EventFrame) -> Iterator[bytes]:
        """Yield the rows that a frame completes.

        Raises:
            ConfigError: If a row cannot be made of it (``Lookups.rows``).
        """
        for ts, contents in self._lookups.rows(frame):
            yield self._row(ts, contents)

    def finish(self) -> Iterator[bytes]:
        """Yield the last row."""
        for ts, contents in self._lookups.rest():
            yield self._row(ts, contents)

    def _row(self, ts: int, contents: list[int]) -> bytes:
        self._first_ns = ts if self._first_ns is None else self._first_ns
        whole, rest = divmod(max(0, ts - self._first_ns), 1_000_000)
        row = {
            "timestamp": whole + rest / 1e6 if rest else whole,
            "input_length": len(contents) * self._block_tokens,
            "output_length": _OUTPUT_TOKENS,
            "hash_ids": contents,
        }
        return _encoder.encode(row) + b"\n"
