"""Recordings of Dynamo's router: the KV events of its workers as JSON lines.

A line is ``{"timestamp": ms since the recorder began, "event": {"worker_id": …, "storage_tier": "device",
"event": {"event_id": …, "dp_rank": 0, "data": …}}}``; the data are
``{"stored": {"blocks": [{"block_hash": …}]}}``, ``{"removed": {"block_hashes": […]}}`` or
``"cleared"``. Sources: ``lib/llm/src/recorder.rs`` and ``lib/kv-router/src/protocols.rs`` of Dynamo. What
else is in a block is passed over undecoded.
"""

from collections.abc import Iterator
from typing import Annotated

import msgspec
import numpy as np

from kvstream._core.ids import folded
from kvstream.events.frame import EventFrame, packed_int64
from kvstream.events.types import Name, Op, Rank
from kvstream.sources.lines import OnBad
from kvstream.text.names import bounded_name

_TIERS = {"device": "gpu", "host_pinned": "cpu", "disk": "disk", "external": "remote"}
_Hash = int | str


class _Block(msgspec.Struct):
    block_hash: _Hash


class _Stored(msgspec.Struct):
    blocks: list[_Block]


class _Removed(msgspec.Struct):
    block_hashes: list[_Hash]


class _Change(msgspec.Struct):
    stored: _Stored | None = None
    removed: _Removed | None = None


class _Event(msgspec.Struct):
    data: _Change | str
    dp_rank: Rank | None = None


class _WorkerEvent(msgspec.Struct):
    worker_id: int | str
    event: _Event
    storage_tier: Name = "device"


class _Line(msgspec.Struct):
    timestamp: Annotated[int, msgspec.Meta(ge=0, le=2**63 // 1_000_000)]
    event: _WorkerEvent


_decoder = msgspec.json.Decoder(_Line)
_Place = tuple[str, str]
_Rows = dict[_Place, list[tuple[int, int, int]]]


class DynamoDecoder:
    """Turns the events of all workers of a recording into frames of each worker, rank and tier.

    ``stored`` becomes a store, ``removed`` an eviction, ``cleared`` a clear of the event's tier. Events carry
    numbers that the recorder does not promise to be without holes, so that nothing is counted as lost.

    Args:
        source: Name of the recording; events of rank 0 of worker 7 belong to ``{source}/7/dp0``.
    """

    remembers = True

    def __init__(self, source: str) -> None:
        self._source = source

    def decode_lines(self, chunk: bytes, on_bad: OnBad) -> Iterator[EventFrame]:
        """Yield the frames of a chunk of whole lines.

        Args:
            chunk: JSON lines; blank ones are passed over.
            on_bad: Called with the line's number in the chunk (from 1) and the reason for each bad line.
        """
        rows: _Rows = {}
        for number, line in enumerate(chunk.split(b"\n"), 1):
            if not line or line.isspace():
                continue
            try:
                self._add(_decoder.decode(line), rows)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
                on_bad(number, str(error))
        for (source, tier), events in rows.items():
            ops, blocks, ts = zip(*events, strict=True)
            yield EventFrame(
                np.array(ops, dtype=np.uint8), packed_int64(blocks), packed_int64(ts), source, tier
            )

    def finish(self) -> Iterator[EventFrame]:
        """Yield nothing: no event is held back."""
        return iter(())

    def _add(self, line: _Line, rows: _Rows) -> None:
        event = line.event.event
        rank = "" if event.dp_rank is None else f"/dp{event.dp_rank}"
        source = bounded_name(f"{self._source}/{line.event.worker_id}{rank}")
        tier = _TIERS.get(line.event.storage_tier) or bounded_name(line.event.storage_tier.lower())
        ts = line.timestamp * 1_000_000
        if isinstance(event.data, str):
            if event.data != "cleared":
                raise ValueError(f"event {event.data[:40]!r} is unknown")
            added = [(Op.CLEAR, 0, ts)]
        elif event.data.stored is not None:
            added = [(Op.STORE, folded(block.block_hash), ts) for block in event.data.stored.blocks]
        elif event.data.removed is not None:
            added = [(Op.EVICT, folded(block_hash), ts) for block_hash in event.data.removed.block_hashes]
        else:
            raise ValueError("an event is stored, removed or cleared; this is none of them")
        if added:
            rows.setdefault((source, tier), []).extend(added)
