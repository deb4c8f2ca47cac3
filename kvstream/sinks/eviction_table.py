"""Evictions as a table for pandas, polars and duckdb: Parquet and Arrow (``kvstream[pyarrow]``), or CSV."""

import csv
from itertools import repeat
from pathlib import Path
from typing import Any, Self

import numpy as np

from kvstream.blocks.apply_result import EvictionBatch, known_seconds
from kvstream.errors import ConfigError, MissingExtraError
from kvstream.events.types import REASONS
from kvstream.text.escape import for_csv, for_unicode

SUFFIXES = (".parquet", ".arrow", ".csv")
_COLUMNS = (
    *("source", "tier", "block", "evicted_at", "lifetime_seconds", "idle_seconds", "accesses", "reason"),
    "reuse_gaps_seconds",
)


def check_ending(path: Path) -> None:
    """Check that a path is named as a table that can be written.

    Raises:
        ConfigError: If it is not.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: a table of evictions is {', '.join(SUFFIXES)}, by its name")


def eviction_table(path: Path) -> "ArrowTable | CsvTable":
    """Return what writes evictions to a file as they come, a context manager that opens and closes it.

    Columns: ``source``, ``tier``, ``block`` (int64), ``evicted_at`` (UTC, ns), ``lifetime_seconds`` and
    ``idle_seconds`` (null where a birth is unknown), ``accesses``, ``reason`` and ``reuse_gaps_seconds`` (a
    list; in CSV text with spaces). In CSV, names that a spreadsheet would take for a formula begin with an
    apostrophe.

    Args:
        path: A file named ``.parquet``, ``.arrow`` or ``.csv``.

    Raises:
        ConfigError: If it is named otherwise.
        MissingExtraError: If ``kvstream[pyarrow]`` is not installed, which CSV does without.
    """
    check_ending(path)
    return CsvTable(path) if path.suffix == ".csv" else ArrowTable(path)


class CsvTable:
    """Writes evictions as CSV, as ``eviction_table`` says.

    Args:
        path: The file.

    Attributes:
        rows: Evictions written.
    """

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._path = path

    def __enter__(self) -> Self:
        self._file = self._path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(_COLUMNS)
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def write(self, source: str, tier: str, batch: EvictionBatch) -> None:
        """Write the evictions of one source and tier."""
        self._writer.writerows(
            zip(
                repeat(for_csv(source)),
                repeat(for_csv(tier)),
                batch.blocks.tolist(),
                np.datetime_as_string(batch.ts.astype("datetime64[ns]"), timezone="UTC").tolist(),
                known_seconds(batch.lifetimes),
                known_seconds(batch.idles),
                batch.access_counts.tolist(),
                (REASONS[reason] for reason in batch.reasons.tolist()),
                (" ".join(f"{gap:.9g}" for gap in row) for row in batch.gaps_seconds()),
            )
        )
        self.rows += len(batch)


class ArrowTable:
    """Writes evictions as Parquet or Arrow, as ``eviction_table`` says.

    Args:
        path: The file, by which the format is chosen.

    Attributes:
        rows: Evictions written.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise MissingExtraError(f"a {path.suffix} table of evictions, unlike .csv,", "pyarrow") from None
        self.rows = 0
        self._path = path
        self._arrow: Any = pyarrow
        name = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        seconds, gaps = pyarrow.float64(), pyarrow.list_(pyarrow.float64())
        kinds = (
            name,
            name,
            pyarrow.int64(),
            pyarrow.timestamp("ns", "UTC"),
            seconds,
            seconds,
            pyarrow.int64(),
            name,
            gaps,
        )
        self._schema = pyarrow.schema(list(zip(_COLUMNS, kinds, strict=True)))
        self._sink: Any = None
        self._writer: Any = None

    def __enter__(self) -> Self:
        pyarrow, path = self._arrow, str(self._path)
        if self._path.suffix == ".arrow":
            self._sink = pyarrow.OSFile(path, "wb")
            self._writer = pyarrow.ipc.new_file(self._sink, self._schema)
        else:
            self._sink = self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._writer.close()
        finally:
            if self._sink is not self._writer:
                self._sink.close()

    def write(self, source: str, tier: str, batch: EvictionBatch) -> None:
        """Write the evictions of one source and tier."""
        pa, n = self._arrow, len(batch)
        reasons = np.array(REASONS, dtype=object)[batch.reasons]
        columns = [
            [for_unicode(source)] * n,
            [for_unicode(tier)] * n,
            batch.blocks,
            batch.ts,
            pa.array(batch.lifetimes / 1e9, mask=batch.lifetimes < 0),
            pa.array(batch.idles / 1e9, mask=batch.idles < 0),
            batch.access_counts,
            reasons.tolist(),
            batch.gaps_seconds(),
        ]
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write(pa.record_batch(arrays, schema=self._schema))
        self.rows += n
