"""Request traces of Alibaba's Bailian: times in seconds, a hash for each 16 tokens, each block hashed alone.

A line is ``{"chat_id": …, "parent_chat_id": …, "timestamp": s, "input_length": …, "output_length": …,
"type": "text", "turn": …, "hash_ids": […]}``. Source:
https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon
"""

from typing import Annotated

import msgspec

from kvstream.sources.hash_trace import Request, TraceDecoder
from kvstream.sources.options import ReadOptions

_BLOCK_TOKENS = 16
_Tokens = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Row(msgspec.Struct):
    timestamp: int | float
    hash_ids: list[int | str]
    input_length: _Tokens | None = None
    output_length: _Tokens | None = None


_decoder = msgspec.json.Decoder(_Row)


def bailian_trace(source: str, options: ReadOptions) -> TraceDecoder:
    """Return a decoder of such a trace."""
    return TraceDecoder(source, options, _read, "s", _BLOCK_TOKENS)


def _read(line: bytes) -> Request:
    row = _decoder.decode(line)
    return Request(
        row.hash_ids, row.timestamp, prompt_tokens=row.input_length, output_tokens=row.output_length
    )
