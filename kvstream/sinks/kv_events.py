"""Frames as the batches of KV events that vLLM publishes, for replays to what subscribes to engines.

Allocations, stores and accesses become ``BlockStored``, which is what an engine says of all three where it
reports hits. There are no token ids to send, and operations that no engine publishes are left out.
"""

import re
from collections.abc import Iterator
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np

from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Op

_MEDIUM_OF_TIER = {"gpu": "GPU", "cpu": "CPU", "disk": "STORAGE"}
_RANKED = re.compile(r"(.+)/dp(\d+)")
_ORIGIN = {Op.ALLOC: "NEW", Op.STORE: "NEW", Op.ACCESS: "REUSED"}
_encoder = msgspec.msgpack.Encoder()


class KVEventEncoder:
    """Encodes the frames of one engine.

    A publisher's messages do not name their source, so that there can be only one.
    """

    def __init__(self) -> None:
        self.source: str | None = None

    def batches(self, frame: EventFrame) -> Iterator[tuple[int, bytes]]:
        """Yield (time in ns, payload) for each moment in a frame: ``[ts seconds, events, rank]``.

        Raises:
            ConfigError: If the frame is another engine's than those before.
        """
        match = _RANKED.fullmatch(frame.source)
        source, rank = (match[1], int(match[2])) if match else (frame.source, None)
        if self.source is not None and source != self.source:
            raise ConfigError(
                f"KV events are those of one engine, but these are of {self.source} and {source}; name one "
                "with --source"
            )
        self.source = source
        if not len(frame):
            return
        edges = [0, *(np.flatnonzero(np.diff(frame.ts)) + 1).tolist(), len(frame)]
        for start, end in pairwise(edges):
            ts = int(frame.ts[start])
            events = _events(frame.take(slice(start, end)))
            yield ts, _encoder.encode([ts / 1e9, events, rank])


def _events(frame: EventFrame) -> list[dict[str, Any]]:
    medium = _MEDIUM_OF_TIER.get(frame.tier, frame.tier.upper())
    events: list[dict[str, Any]] = []
    for kind, run in groupby(_kinds(frame), key=itemgetter(0)):
        hashes = [block for _, block in run]
        if kind == Op.PREFIX:
            # Several without origin and parent are read as what a request found, but one as a copy.
            kind = None if len(hashes) > 1 else "REUSED"
        if kind is None or isinstance(kind, str):
            events.append(
                {
                    "type": "BlockStored",
                    "block_hashes": hashes,
                    "parent_block_hash": None,
                    "token_ids": [],
                    "block_size": 0,
                    "lora_id": None,
                    "medium": medium,
                }
                | ({"origin": kind} if kind else {})
            )
        elif kind == Op.EVICT:
            events.append({"type": "BlockRemoved", "block_hashes": hashes, "medium": medium})
        elif kind == Op.REMOVE:
            removed = {"type": "BlockRemoved", "block_hashes": hashes, "medium": medium}
            events.append({**removed, "remaining_copy_counts": [0] * len(hashes)})
        elif kind == Op.CLEAR and frame.tier == "gpu":
            events += [{"type": "AllBlocksCleared"}] * len(hashes)
        elif kind == Op.CLEAR:
            raise ConfigError(f"KV events cannot report a clear of the tier {frame.tier}")
    return events


def _kinds(frame: EventFrame) -> Iterator[tuple[str | int, int]]:
    """Yield (origin, or else operation code, and block hash) of each event.

    A hit that is known to be one is two events: the block was there, and was found.
    """
    known: int | None = None
    for op, block in zip(frame.ops.tolist(), frame.blocks.view(np.uint64).tolist(), strict=True):
        is_found = op == Op.PREFIX and block == known
        if known is not None and not is_found:
            yield "NEW", known  # the nearest that there is to a block that was there before
        if is_found:
            yield "REUSED", block
        elif op != Op.RESIDENT:
            yield _ORIGIN.get(op, op), block
        known = block if op == Op.RESIDENT else None
    if known is not None:
        yield "NEW", known
