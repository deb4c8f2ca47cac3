"""What recorders record, and what they give: columns that become a frame."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kvstream.events.frame import EventFrame

Recorded = tuple[bytes, bytes, bytes, bytes, int]
"""Columns in native byte order: operation codes (uint8), blocks and times (int64), reason codes (uint8, or
nothing if none was given); and how many recorded things were no blocks."""


class HasBlockId(Protocol):
    """Anything with a block number, such as vLLM's ``KVCacheBlock``."""

    block_id: int


Block = int | HasBlockId
Blocks = Sequence[Block] | npt.NDArray[Any]


def recorded_frame(recorded: Recorded, source: str, tier: str) -> EventFrame:
    """Return the events that a recorder gave as a frame."""
    ops, blocks, ts, reasons, _ = recorded
    return EventFrame(
        np.frombuffer(ops, dtype=np.uint8),
        np.frombuffer(blocks, dtype=np.int64),
        np.frombuffer(ts, dtype=np.int64),
        source,
        tier,
        None,
        np.frombuffer(reasons, dtype=np.uint8) if len(reasons) else None,
    )
