"""Joining frames of one source and tier, to be applied together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream._core.columns import joined_columns
from kvstream.events.frame import U16, EventFrame, counted_labels, label_number
from kvstream.events.types import Labels

_UINT8, _UINT16, _INT64 = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.int64)
_SMALL = 1024  # events of a frame, below which joining as bytes is faster


def joined_frames(frames: Sequence[EventFrame]) -> EventFrame:
    """Return frames of one source and tier, at least one, as one without a number.

    Of different ``block_tokens`` it has the highest.
    """
    if len(frames) == 1:
        return frames[0]
    keys = reasons = label_of = None
    known: dict[Labels, int] = {}
    if any(frame.keys is not None for frame in frames):
        keys = _concatenated([_column(frame.keys, len(frame), _INT64) for frame in frames], _INT64)
    if any(frame.reasons is not None for frame in frames):
        reasons = _concatenated([_column(frame.reasons, len(frame), _UINT8) for frame in frames], _UINT8)
    if any(frame.label_of is not None for frame in frames):
        label_of = _concatenated([_renumbered(frame, known) for frame in frames], _UINT16)
    return EventFrame(
        _concatenated([frame.ops for frame in frames], _UINT8),
        _concatenated([frame.blocks for frame in frames], _INT64),
        _concatenated([frame.ts for frame in frames], _INT64),
        frames[0].source,
        frames[0].tier,
        keys,
        reasons,
        labels=tuple(known),
        label_of=label_of,
        block_tokens=max(frame.block_tokens for frame in frames),
    )


def _concatenated(columns: list[npt.NDArray[Any]], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the columns as one, which may be read-only.

    To join small ones as bytes takes half as long as to copy them.
    """
    if [column.dtype for column in columns].count(dtype) == len(columns):
        try:
            if len(columns[0]) < _SMALL:
                return np.frombuffer(b"".join(columns), dtype)  # type: ignore[arg-type]
            return joined_columns(columns, dtype)
        except (TypeError, ValueError):  # a column is not contiguous, or not one
            pass
    return np.concatenate(columns)


def _renumbered(frame: EventFrame, known: dict[Labels, int]) -> U16:
    """Return its ``label_of`` by the numbers of ``known``, to which it adds."""
    if frame.label_of is None:
        return np.zeros(len(frame), dtype=np.uint16)
    numbers = [0] * (len(frame.labels) + 1)
    for place in counted_labels(frame):
        numbers[place] = label_number(known, frame.labels[place - 1])
    if numbers == list(range(len(numbers))):  # as where all frames have the same labels
        return frame.label_of
    return np.array(numbers, dtype=np.uint16).take(frame.label_of)


def _column(column: npt.NDArray[Any] | None, n: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.zeros(n, dtype=dtype) if column is None else column
