"""Request traces of Alibaba's Bailian: times in seconds, a hash for each 16 tokens, each block hashed alone.

A line is ``{"chat_id": …, "parent_chat_id": …, "timestamp": s, "input_length": …, "output_length": …,
"type": "text", "turn": …, "hash_ids": […]}``. Source:
https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon
"""

from kvstream.sources.hash_trace import TraceDecoder
from kvstream.sources.mooncake import read_request
from kvstream.sources.options import ReadOptions

_BLOCK_TOKENS = 16


def bailian_trace(source: str, options: ReadOptions) -> TraceDecoder:
    """Return a decoder for this format."""
    return TraceDecoder(source, options, read_request, "s", _BLOCK_TOKENS)
