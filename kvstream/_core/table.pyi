from typing import Any, final

import numpy as np
import numpy.typing as npt

from kvstream._core.buckets import IntervalCounter
from kvstream.events.frame import I64, U8, U16

def mix(values: I64) -> npt.NDArray[np.uint64]: ...
def keep_chosen(
    contents: I64,
    ts: I64,
    begins: U8,
    start: int,
    highest: int,
    columns: tuple[I64, I64, U8],
    count: int,
    most: int,
    newest: int,
) -> tuple[int, int, int]: ...
def count_distinct(values: I64, registers: U8, bits: int) -> None: ...

@final
class Table:
    rows_array: I64
    ids_array: I64
    keys_array: I64
    attribution_array: U16
    copies_array: npt.NDArray[np.uint32]
    live_count: int
    by_hash: bool
    def __init__(self, depth: int, seed: int, sampled_below: int) -> None: ...
    def keep_attribution(self) -> None: ...
    def keep_copies(self) -> None: ...
    def slots_of(self, ids: I64) -> I64: ...
    def probes(self, ids: I64) -> I64: ...
    def live_slots(self) -> I64: ...
    def clear(self) -> None: ...
    def restore(
        self,
        by_hash: bool,
        slots: int,
        blocks: I64,
        rows: I64,
        keys: I64 | None,
        attribution: U16 | None,
        copies: npt.NDArray[np.uint32] | None,
    ) -> None: ...
    def begin(
        self,
        ops: U8,
        blocks: I64,
        ts: I64,
        reasons: U8 | None,
        keys: I64 | None,
        labels: U16 | None,
        label_sets: U16 | None,
        counts: I64 | None,
        records: bool,
        changes: bool,
        looked_up_below: int,
        counted_since: int,
        salts: U16 | None = None,
    ) -> None: ...
    def apply(
        self, start: int, seen: Any, counter: IntervalCounter | None = None
    ) -> tuple[int, dict[str, npt.NDArray[Any]], bool]: ...
