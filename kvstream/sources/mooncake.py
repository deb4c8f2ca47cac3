"""Request traces as published with Mooncake, and AIPerf's dialect of them.

A line is ``{"timestamp": ms, "input_length": …, "output_length": …, "hash_ids": […]}``, with a hash for each
512 tokens. AIPerf has ``session_id``, and for later turns ``delay`` (ms since the turn before) in place of a
timestamp. Sources: https://github.com/kvcache-ai/Mooncake and ``MooncakeTrace`` in AIPerf's
``aiperf/dataset/loader/models.py``.
"""

import msgspec

from kvstream.sources.hash_trace import Request, TraceDecoder
from kvstream.sources.options import ReadOptions


class _Row(msgspec.Struct):
    hash_ids: list[int | str]
    timestamp: int | float | None = None
    created_time: int | float | None = None
    delay: int | float | None = None
    session_id: int | str | None = None


_decoder = msgspec.json.Decoder(_Row)


def mooncake_trace(source: str, options: ReadOptions) -> TraceDecoder:
    """Return a decoder of such a trace."""
    return TraceDecoder(source, options, _read, "ms")


def _read(line: bytes) -> Request:
    row = _decoder.decode(line)
    at = row.created_time if row.timestamp is None else row.timestamp
    return Request(row.hash_ids, at, row.delay, row.session_id)
