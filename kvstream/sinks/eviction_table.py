"""Evictions as a table for pandas, polars and duckdb: Parquet, Arrow or CSV (``kvstream[pyarrow]``)."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from kvstream.blocks.apply_result import EvictionBatch
from kvstream.errors import ConfigError, MissingExtraError
from kvstream.events.types import REASONS
from kvstream.text.escape import for_csv, for_unicode

SUFFIXES = (".parquet", ".arrow", ".csv")


def check_ending(path: Path) -> None:
    """Check that a path is named as a table that can be written.

    Raises:
        ConfigError: If it is not.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: a table of evictions is {', '.join(SUFFIXES)}, by its name")


class EvictionTable:
    """Writes evictions to a file as they come; use as a context manager.

    Columns: ``source``, ``tier``, ``block`` (int64), ``evicted_at`` (UTC, ns), ``lifetime_seconds`` and
    ``idle_seconds`` (null where a birth is unknown), ``accesses``, ``reason`` and ``reuse_gaps_seconds`` (a
    list; in CSV text with spaces). In CSV, names that a spreadsheet would take for a formula begin with an
    apostrophe.

    Args:
        path: A file named ``.parquet``, ``.arrow`` or ``.csv``.

    Raises:
        ConfigError: If it is named otherwise.
        MissingExtraError: If ``kvstream[pyarrow]`` is not installed.
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.csv
            import pyarrow.parquet
        except ImportError:
            raise MissingExtraError("a table of evictions", "pyarrow") from None
        check_ending(path)
        self.rows = 0
        self._arrow: Any = pyarrow
        gaps = pyarrow.string() if path.suffix == ".csv" else pyarrow.list_(pyarrow.float64())
        name = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        self._escape = for_unicode
        if path.suffix == ".csv":
            name, self._escape = pyarrow.string(), for_csv
        self._schema = pyarrow.schema(
            [
                ("source", name),
                ("tier", name),
                ("block", pyarrow.int64()),
                ("evicted_at", pyarrow.timestamp("ns", "UTC")),
                ("lifetime_seconds", pyarrow.float64()),
                ("idle_seconds", pyarrow.float64()),
                ("accesses", pyarrow.int64()),
                ("reason", name),
                ("reuse_gaps_seconds", gaps),
            ]
        )
        open_writer = {
            ".parquet": lambda: pyarrow.parquet.ParquetWriter(str(path), self._schema, compression="zstd"),
            ".arrow": lambda: pyarrow.OSFile(str(path), "wb"),
            ".csv": lambda: pyarrow.csv.CSVWriter(str(path), self._schema),
        }
        self._sink: Any = open_writer[path.suffix]()
        self._writer: Any = self._sink
        if path.suffix == ".arrow":
            self._writer = pyarrow.ipc.new_file(self._sink, self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
        finally:
            if self._sink is not self._writer:
                self._sink.close()

    def write(self, source: str, tier: str, batch: EvictionBatch) -> None:
        """Write the evictions of one source and tier."""
        pa, n = self._arrow, len(batch)
        gaps: list[Any] = batch.gaps_seconds()
        if self._schema.field("reuse_gaps_seconds").type == pa.string():
            gaps = [" ".join(f"{gap:.9g}" for gap in row) for row in gaps]
        reasons = np.array(REASONS, dtype=object)[batch.reasons]
        columns = [
            [self._escape(source)] * n,
            [self._escape(tier)] * n,
            batch.blocks,
            batch.ts,
            pa.array(batch.lifetimes / 1e9, mask=batch.lifetimes < 0),
            pa.array(batch.idles / 1e9, mask=batch.idles < 0),
            batch.access_counts,
            reasons.tolist(),
            gaps,
        ]
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write(pa.record_batch(arrays, schema=self._schema))
        self.rows += n
