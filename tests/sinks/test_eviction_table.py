"""Evictions as tables, read by those who read tables."""

import numpy as np
import pytest

from kvstream import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.errors import ConfigError
from kvstream.sinks.eviction_table import eviction_table
from kvstream.sources.synthetic import generate


@pytest.fixture
def written(tmp_path):
    """Writes the evictions of a chat to a file; returns it and the evictions."""

    def write(name):
        events = []
        path = tmp_path / name
        with eviction_table(path) as table:
            monitor = Monitor(MetricsConfig())
            for frame in generate("chat", 20_000, blocks=256, source='vllm "0",\n'):
                outcome = monitor.process(frame, records=True)
                for batch in outcome.evicted:
                    table.write(outcome.source, outcome.tier, batch)
                events += outcome.eviction_events()
        assert table.rows == len(events) > 1_000
        return path, events

    return write


# Each is loaded by the test that reads with it, as that takes long.


def pandas():
    import pandas as pd

    return {".parquet": pd.read_parquet, ".arrow": pd.read_feather, ".csv": pd.read_csv}


def polars():
    import polars as pl

    return {
        ".parquet": lambda path: pl.read_parquet(path).to_pandas(),
        ".arrow": lambda path: pl.read_ipc(path).to_pandas(),
        ".csv": lambda path: pl.read_csv(path).to_pandas(),
    }


def duckdb():
    from duckdb import sql

    return dict.fromkeys((".parquet", ".csv"), lambda path: sql(f"from '{path}'").pl().to_pandas())


@pytest.mark.parametrize("readers", [pandas, polars, duckdb])
def test_every_eviction_is_read_back(written, readers):
    import pandas as pd

    for suffix, read in readers().items():
        path, events = written(f"evictions{suffix}")
        found = read(path)
        assert len(found) == len(events)
        assert found["block"].tolist() == [event.block_id for event in events]
        assert set(found["source"]) == {'vllm "0",\\x0a' if suffix == ".csv" else 'vllm "0",\n'}
        assert found["reason"].tolist() == [event.reason for event in events]
        assert found["accesses"].tolist() == [event.access_count for event in events]
        np.testing.assert_allclose(found["lifetime_seconds"], [event.lifetime_seconds for event in events])
        np.testing.assert_allclose(found["idle_seconds"], [event.idle_seconds for event in events])
        seconds = pd.to_datetime(found["evicted_at"], utc=True).map(pd.Timestamp.timestamp)
        np.testing.assert_allclose(seconds, [event.timestamp for event in events], rtol=0, atol=1e-5)
        gaps = found["reuse_gaps_seconds"]
        if suffix == ".csv":
            gaps = gaps.fillna("").map(lambda text: [float(gap) for gap in str(text).split()])
        assert [len(row) for row in gaps] == [len(event.reuse_gaps_seconds) for event in events]
        np.testing.assert_allclose(
            [gap for row in gaps for gap in row],
            [gap for event in events for gap in event.reuse_gaps_seconds],
            rtol=1e-8,
        )


def test_another_name_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="parquet"):
        eviction_table(tmp_path / "evictions.xlsx")
