"""LMCache's log of lookups: which chunks were asked for, whether they were there or not.

A line is ``{"timestamp": s, "request_id": …, "model_name": …, "chunk_size": tokens, "seq_len": tokens,
"chunk_hashes": ["0x…"], …}``. It says nothing of hits, so that a cache is simulated. Source:
``LookupHashLoggingSubscriber`` in LMCache's ``v1/mp_observability/subscribers/logging/lookup_hash.py``.
"""

from typing import Annotated

import msgspec

from kvstream.events.frame import MAX_BLOCK_TOKENS
from kvstream.sources.hash_trace import TraceDecoder
from kvstream.sources.options import ReadOptions
from kvstream.sources.request import Request

_CHUNK_TOKENS = 256  # LMCache's default, of rows that do not say


class _Row(msgspec.Struct):
    timestamp: int | float
    chunk_hashes: list[int | str]
    chunk_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK_TOKENS)] | None = None


_decoder = msgspec.json.Decoder(_Row)


def lookup_log(source: str, options: ReadOptions) -> TraceDecoder:
    """Return a decoder for this format."""
    return TraceDecoder(source, options, _read, "s", _CHUNK_TOKENS)


def _read(line: bytes) -> Request:
    row = _decoder.decode(line)
    return Request(row.chunk_hashes, row.timestamp, block_tokens=row.chunk_size)
