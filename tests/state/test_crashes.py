"""``kvstream serve --state``, killed again and again under load, loses nothing and counts nothing twice.

Three producers in this process send to a server in a process of its own, over a Unix socket. What the server
knows in the end is compared with what comes of the same frames here, in a monitor that nothing interrupts.
``KVSTREAM_CRASHES=200`` sets how many times it is killed, and another seed gives other moments
(``KVSTREAM_CRASH_SEED``).
"""

import json
import os
import random
import signal
import subprocess

import anyio
import numpy as np
import pytest

from kvstream import EventFrame, KVStream, MetricsConfig, StreamConfig, connect
from kvstream.engine.monitor import Monitor, accounts_of
from kvstream.metrics.measurements import save_measurements
from kvstream.metrics.summary import ALL
from kvstream.stream import consumers_of
from tests.engine.test_saved import of_cache, plain
from tests.forked import Kvstream
from tests.waiting import DEADLINE, until

CRASHES = int(os.environ.get("KVSTREAM_CRASHES", "4"))
SEED = int(os.environ.get("KVSTREAM_CRASH_SEED", "1"))
SECOND = 10**9
ENGINES = {"slots": 0, "contents": 1, "busy": 2}
BLOCKS = 300
PERIOD, GOOD = 640, 400  # seconds of event time: the second part of each period is an incident


def frame_of(engine, second):
    """What happens in one second of an engine: a function of nothing else, so that it can be told again."""
    rng = np.random.default_rng([ENGINES[engine], second])
    events = int(rng.integers(40, 80)) * (4 if engine == "busy" else 1)
    is_good = second % PERIOD < GOOD
    ops = rng.choice([0, 1, 2], events, p=[0.15, 0.75, 0.1] if is_good else [0.6, 0.05, 0.35])
    blocks = rng.integers(0, BLOCKS, events).astype(np.uint64)
    if engine == "contents":
        blocks = (blocks + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    ts = (second + 1_000_000) * SECOND + np.sort(rng.integers(0, SECOND, events))
    return EventFrame(ops.astype(np.uint8), blocks.view(np.int64), ts, engine)


class Producer:
    """An engine that goes on whatever becomes of the server; in the end, all of it is acknowledged."""

    def __init__(self, engine):
        self.engine, self.sent, self.stop, self.ended = engine, 0, False, anyio.Event()

    async def run(self, endpoint, rng):
        config = StreamConfig(shutdown_timeout=DEADLINE)
        async with connect(endpoint, config=config) as remote, anyio.create_task_group() as tasks:
            tasks.start_soon(self._hurry, remote, rng)
            while not self.stop:
                await remote.send(frame_of(self.engine, self.sent))
                self.sent += 1
                await anyio.sleep(0.005)
        assert not remote.statistics().dropped
        self.ended.set()

    async def _hurry(self, remote, rng):
        while not self.stop:
            await anyio.sleep(rng.uniform(0.1, 2.0))
            with anyio.move_on_after(0.1):
                await remote.flush()


async def killed_again_and_again(path, number, rng):
    """Let producers send until the server was killed often enough; return them and what it said."""
    endpoint, out = f"unix:{path}/kv.sock", path / "alerts.jsonl"
    producers = [Producer(engine) for engine in ENGINES]

    def start():
        arguments = (
            "serve",
            "--listen",
            endpoint,
            "--state",
            path / "state",
            "--summary-every",
            "0",
            "--json",
        )
        return Kvstream(arguments, stdout=file, stderr=subprocess.PIPE)

    async with anyio.create_task_group() as tasks:
        with open(out, "ab") as file:  # noqa: ASYNC230 - for another process to write to
            for producer in producers:
                tasks.start_soon(producer.run, endpoint, rng)
            for crash in range(CRASHES):
                with start() as process:
                    if crash % 5:
                        await anyio.to_thread.run_sync(process.stderr.readline)
                    await anyio.sleep(rng.choice([rng.uniform(0, 0.3), rng.uniform(0, 4.0)]))
                    os.kill(process.pid, number)
                    await anyio.to_thread.run_sync(process.wait)
            with start() as process:
                await until(lambda: all(producer.sent > 1.5 * PERIOD for producer in producers))
                for producer in producers:
                    producer.stop = True
                for producer in producers:
                    await producer.ended.wait()
                process.send_signal(signal.SIGTERM)
                _, err = await anyio.to_thread.run_sync(process.communicate)
                assert process.returncode == 128 + signal.SIGTERM
                assert "Traceback" not in err.decode()
    return producers, alerts_in(out.read_bytes())


def alerts_in(lines):
    """The alerts that were shown; a line that a kill cut off is passed over."""
    said = set()
    for line in lines.split(b"\n"):
        try:
            alert = json.loads(line)
        except ValueError:
            continue
        if alert["type"] == "alert" and alert["tier"] != ALL:  # others are about frames that come twice
            said.add(identity(alert["state"], alert["rule"], alert["incident"], alert["started_at"]))
    return said


def identity(*parts):
    return parts


def uninterrupted(producers):
    monitor, said = Monitor(MetricsConfig(export_interval=0.0)), set()
    for producer in producers:
        for second in range(producer.sent):
            for a in monitor.process(frame_of(producer.engine, second)).alerts:
                said.add(identity(a.state, a.rule, a.incident, a.started_at))
    return monitor, said


def accounts(monitors, source):
    """Where the events and blocks of a source went, but for frames that came twice and were dropped."""
    seen = accounts_of(monitors, source, None)
    assert seen.balanced
    seen.offered -= seen.dropped.pop("duplicate", 0)
    seen.duplicate_frames = 0
    return seen


def figures(cache):
    """What came of the events of a cache, but for what depends on how soon the clock closes a window."""
    cache.finish()
    seen = of_cache(cache, None)
    windows = cache.ring.newest(10**6)
    busy = windows[windows["is_empty"] == 0]
    kept = ("classic", "hottest", "longest held", "map", "blocks", "by hash")
    return {
        **{name: seen[name] for name in kept},
        "windows": busy[busy["index"] > busy["index"][-1] - 500].tolist(),
        "measurements": plain(save_measurements([cache.measurements()])),
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_that_is_killed_under_load_loses_nothing_and_counts_nothing_twice(tmp_path, number):
    rng = random.Random(SEED * 100 + number)
    with anyio.fail_after(DEADLINE + 10 * CRASHES):
        producers, said = await killed_again_and_again(tmp_path, number, rng)
    straight, expected = uninterrupted(producers)
    config = StreamConfig(metrics=MetricsConfig(export_interval=0.0))
    async with KVStream(config, state=tmp_path / "state") as stream:
        assert stream.caches() == sorted((engine, "gpu") for engine in ENGINES)
        for cache in consumers_of(stream).caches():
            (other,) = straight.caches(cache.source)
            assert accounts(consumers_of(stream).monitors, cache.source) == accounts([straight], cache.source)
            found, wanted = figures(cache), figures(other)
            for name in wanted:
                assert found[name] == wanted[name], name
    assert len(expected) >= 2 * len(ENGINES)
    assert said == expected
