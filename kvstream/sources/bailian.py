"""Request traces of Alibaba's Bailian: times in seconds, a hash for each 16 tokens, each block hashed alone.

A line is ``{"chat_id": …, "parent_chat_id": …, "timestamp": s, "input_length": …, "output_length": …,
"type": "text", "turn": …, "hash_ids": […]}``. Source:
https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon
"""

import msgspec

from kvstream.sources.hash_trace import Request, TraceDecoder
from kvstream.sources.options import ReadOptions


class _Row(msgspec.Struct):
    timestamp: int | float
    hash_ids: list[int | str]


_decoder = msgspec.json.Decoder(_Row)


def bailian_trace(source: str, options: ReadOptions) -> TraceDecoder:
    """Return a decoder of such a trace."""
    return TraceDecoder(source, options, _read, "s")


def _read(line: bytes) -> Request:
    row = _decoder.decode(line)
    return Request(row.hash_ids, row.timestamp)
