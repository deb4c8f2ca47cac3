"""EventBuffer: what a producer has recorded, until it becomes a frame."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream.events.frame import (
    I64,
    MAX_FRAME_EVENTS,
    EventFrame,
    as_int64,
    checked_keys,
    int64_packer,
    label_number,
)
from kvstream.events.types import Labels, checked_labels

Ids = int | Sequence[int] | npt.NDArray[Any]

_INT64 = np.dtype(np.int64)


class EventBuffer:
    """Events of one source and tier, in order, until they become a frame.

    Attributes:
        events: How many they are.
    """

    def __init__(self, source: str, tier: str) -> None:
        self.source, self.tier = source, tier
        self._clear()

    def _clear(self) -> None:
        self.events = 0
        self._columns: list[bytes] = []  # ids of calls, as native 64-bit integers
        self._single: list[int] = []  # ids that came alone, after those in columns
        self._runs: list[int] = []  # for each call: operation, number of ids, time, reason, label
        self._labels: dict[Labels, int] = {}
        self._keys: list[tuple[int, I64]] = []  # of calls that gave some: the first event, the keys

    def add(
        self,
        op: int,
        ids: Ids,
        ts: int,
        reason: int = 0,
        labels: Labels | None = None,
        keys: Ids | None = None,
    ) -> int:
        """Append one event for each id; return how many.

        Raises:
            MalformedInputError: If an id or a key is no 64-bit integer, there are not as many keys as ids, or
                the labels are no ``Labels`` or hold an invalid name; nothing is appended then.
        """
        if keys is not None:
            ids = as_int64([ids] if isinstance(ids, int) else ids).reshape(-1)
            key_column = checked_keys(keys, len(ids))
        label = 0
        if labels is not None:
            try:
                label = self._labels.get(labels, 0)
            except TypeError:  # unhashable, which no valid labels are
                label = 0
            label = label or label_number(self._labels, checked_labels(labels))
        if keys is not None:
            self._keys.append((self.events, key_column))
        if type(ids) is int and -(2**63) <= ids < 2**63:
            self._single.append(ids)
            n = 1
        else:
            column = ids.tobytes() if type(ids) is np.ndarray and ids.dtype is _INT64 else _packed(ids)
            if self._single:
                self._pack_single()
            self._columns.append(column)
            n = len(column) // 8
        self._runs.extend((op, n, ts, reason, label))
        self.events += n
        return n

    def _pack_single(self) -> None:
        self._columns.append(struct.pack(f"{len(self._single)}q", *self._single))
        self._single = []

    def take(self) -> list[EventFrame]:
        """Return the events as frames; the buffer is empty afterwards."""
        if not self.events:
            self._clear()
            return []
        if self._single:
            self._pack_single()
        runs = np.frombuffer(struct.pack(f"{len(self._runs)}q", *self._runs), dtype=np.int64).reshape(-1, 5)
        op, n, ts, reason = runs[:, 0].astype(np.uint8), runs[:, 1], runs[:, 2], runs[:, 3].astype(np.uint8)
        label_of = runs[:, 4].astype(np.uint16).repeat(n) if self._labels else None
        frame = EventFrame(
            op.repeat(n),
            np.frombuffer(b"".join(self._columns), dtype=np.int64),
            ts.repeat(n),
            self.source,
            self.tier,
            self._key_column(),
            reason.repeat(n) if reason.any() else None,
            labels=tuple(self._labels),
            label_of=label_of,
        )
        self._clear()
        return frame.cut(MAX_FRAME_EVENTS)

    def _key_column(self) -> I64 | None:
        if not self._keys:
            return None
        column = np.zeros(self.events, dtype=np.int64)
        for first, keys in self._keys:
            column[first : first + len(keys)] = keys
        return column


def _packed(ids: Any) -> bytes:
    """Return ids as native 64-bit integers one after the other."""
    if isinstance(ids, np.ndarray):
        return ids.tobytes() if ids.dtype is _INT64 else as_int64(ids.reshape(-1)).tobytes()
    if not isinstance(ids, (list, tuple)):
        ids = list(ids) if hasattr(ids, "__iter__") else [ids]
    try:
        return int64_packer(len(ids))(*ids)
    except struct.error:
        return as_int64(ids).tobytes()
