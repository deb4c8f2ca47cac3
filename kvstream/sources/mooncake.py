"""Request traces as published with Mooncake, and AIPerf's dialect of them.

A line is ``{"timestamp": ms, "input_length": …, "output_length": …, "hash_ids": […]}``, with a hash for each
512 tokens. AIPerf has ``session_id``, and for later turns ``delay`` (ms since the turn before) in place of a
timestamp; the other names are Dynamo's. Sources: https://github.com/kvcache-ai/Mooncake, AIPerf's
``aiperf/dataset/loader/models.py`` (``MooncakeTrace``) and Dynamo's ``lib/data-gen/src/mooncake.rs``.
"""

from typing import Annotated

import msgspec

from kvstream.sources.hash_trace import TraceDecoder
from kvstream.sources.options import ReadOptions
from kvstream.sources.request import Request

_BLOCK_TOKENS = 512
_Tokens = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Row(msgspec.Struct):
    hash_ids: list[int | str]
    timestamp: int | float | None = None
    created_time: int | float | None = None
    delay: int | float | None = None
    delay_ms: int | float | None = None
    session_id: int | str | None = None
    chat_id: int | str | None = None
    parent_chat_id: int | str | None = None
    input_length: _Tokens | None = None
    input_tokens: _Tokens | None = None
    output_length: _Tokens | None = None
    output_tokens: _Tokens | None = None


_decoder = msgspec.json.Decoder(_Row)


def mooncake_trace(source: str, options: ReadOptions) -> TraceDecoder:
    """Return a decoder for this format."""
    return TraceDecoder(source, options, read_request, "ms", _BLOCK_TOKENS)


def read_request(line: bytes) -> Request:
    """Return the request of a line."""
    row = _decoder.decode(line)
    at = row.created_time if row.timestamp is None else row.timestamp
    prompt = row.input_tokens if row.input_length is None else row.input_length
    output = row.output_tokens if row.output_length is None else row.output_length
    delay = row.delay_ms if row.delay is None else row.delay
    session = row.chat_id if row.session_id is None else row.session_id
    return Request(row.hash_ids, at, delay, session, row.parent_chat_id, prompt, output)
