"""Working set: how many different blocks were in use recently."""

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from kvstream._core.table import count_distinct
from kvstream.events.frame import I64, U8

_BITS = 11
_REGISTERS = 1 << _BITS
_LONGEST_RANK = 64 - _BITS + 1
_FEW = _REGISTERS // 8  # integers of 64 bits that take no more memory than the registers
_ARRAY = 16  # integers that take as much memory as an array takes beside its own
ERROR = 1.04 / math.sqrt(_REGISTERS)
"""Standard error of the counts, relative: 2.3 %."""

HORIZONS = (1, 10, 60)
"""Numbers of windows that a working set is counted over."""


class WorkingSet(msgspec.Struct, frozen=True, kw_only=True):
    """Number of distinct blocks that were allocated or accessed.

    A block is its content where ids are content hashes, otherwise a generation.

    Attributes:
        blocks: How many in the last 1, 10 and 60 windows.
        error: Standard error of these numbers, relative.
    """

    blocks: list[int]
    error: float = ERROR


class DistinctCounter(msgspec.Struct, eq=False, gc=False):
    """Counts different integers in 2 KiB (HyperLogLog, with Ertl's estimator, which needs no corrections).

    As long as they are few it keeps the integers themselves, so that to add some costs next to nothing.

    Source: P. Flajolet and others, "HyperLogLog", 2007; O. Ertl, "New cardinality estimation algorithms for
    HyperLogLog sketches", 2017, https://arxiv.org/abs/1702.01284, algorithm 6.

    Examples:
        >>> counter = DistinctCounter()
        >>> counter.add(np.array([7, 8, 7]))
        >>> round(counter.estimate())
        2
    """

    _registers: U8 | None = None
    _waiting: tuple[I64, ...] = ()  # integers that are not in the registers yet
    _room: int = _FEW

    @property
    def registers(self) -> U8:
        """Return the longest run of zeros by part of the hash, uint8 (2048,), not a copy."""
        if self._registers is None:
            self._registers = np.zeros(_REGISTERS, dtype=np.uint8)
        for values in self._waiting:
            count_distinct(values, self._registers, _BITS)
        self._waiting = ()
        return self._registers

    def add(self, values: I64) -> None:
        """Count integers, int64 (n,), which are kept and must not be changed."""
        if self._room < 0:
            count_distinct(values, self.registers, _BITS)
            return
        self._waiting += (values,)
        self._room -= len(values) + _ARRAY

    def merge(self, other: "DistinctCounter") -> None:
        """Add what another has counted."""
        for values in other._waiting:
            self.add(values)
        if other._registers is not None:
            np.maximum(self.registers, other._registers, out=self.registers)

    def estimate(self) -> float:
        """Return the estimated number of different integers."""
        counts = np.bincount(self.registers, minlength=_LONGEST_RANK + 1).tolist()
        total = _REGISTERS * _tau(1.0 - counts[_LONGEST_RANK] / _REGISTERS)
        for count in counts[_LONGEST_RANK - 1 : 0 : -1]:
            total = 0.5 * (total + count)
        total += _REGISTERS * _sigma(counts[0] / _REGISTERS)
        return _REGISTERS * _REGISTERS / (2.0 * math.log(2.0)) / total


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x, before = x * x, z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1.0 - x, -1.0
    while z != before:
        x, before, y = math.sqrt(x), z, 0.5 * y
        z -= (1.0 - x) ** 2 * y
    return z / 3.0


class _Window(msgspec.Struct, eq=False, gc=False):
    """The blocks used in one window."""

    index: int
    used: DistinctCounter


class WorkingSetHistory:
    """A counter for each of the last windows; 120 KiB in all, less where windows are small."""

    def __init__(self) -> None:
        self._windows: deque[_Window] = deque(maxlen=HORIZONS[-1])

    def add(self, index: int, used: Iterable[I64]) -> None:
        """Count blocks that were used in a window."""
        for blocks in used:
            if not self._windows or self._windows[-1].index != index:
                self._windows.append(_Window(index, DistinctCounter()))
            self._windows[-1].used.add(blocks)

    def save(self) -> dict[str, Any]:
        """Return the windows' indexes, int64 (w,), and their registers, uint8 (w, registers)."""
        return {
            "indexes": np.array([window.index for window in self._windows], dtype=np.int64),
            "registers": np.array([window.used.registers for window in self._windows], dtype=np.uint8),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved."""
        for index, registers in zip(saved["indexes"].tolist(), saved["registers"], strict=True):
            counter = DistinctCounter()
            counter.registers[:] = registers
            self._windows.append(_Window(index, counter))

    def recent(self, until: int | None) -> WorkingSet:
        """Return the working sets up to a window; of a stream without windows, none."""
        blocks, counter, estimate = [], DistinctCounter(), 0
        windows = [] if until is None else [w for w in reversed(self._windows) if w.index <= until]
        for horizon in HORIZONS:
            before = len(windows)
            while windows and until is not None and windows[0].index > until - horizon:
                counter.merge(windows.pop(0).used)
            if len(windows) < before:
                estimate = round(counter.estimate())
            blocks.append(estimate)
        return WorkingSet(blocks=blocks)


def total_working_set(sets: Iterable[WorkingSet]) -> WorkingSet:
    """Return the working sets of several caches, each block counted wherever it is."""
    columns = zip(*(each.blocks for each in sets), strict=True)
    return WorkingSet(blocks=[sum(column) for column in columns] or [0] * len(HORIZONS))
