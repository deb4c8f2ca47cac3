"""``kvstream serve --state`` that follows a publisher or a file, killed again and again under load.

Nothing is lost and nothing counted twice: what the server knows in the end is what comes of the input itself,
in a monitor that nothing interrupts. ``KVSTREAM_CRASHES=50`` sets how many times it is killed, and another
seed gives other moments (``KVSTREAM_CRASH_SEED``).
"""

import os
import random
import signal
import subprocess
import time
from functools import partial

import anyio
import msgspec
import numpy as np
import pytest

from kvstream import EventFrame, KVStream, MetricsConfig, StreamConfig
from kvstream.engine.monitor import Monitor, accounts_of
from kvstream.events.codec import encode_lines
from kvstream.events.log import MAGIC, encode_record
from kvstream.metrics.summary import ALL
from kvstream.sources.inputs import live_input
from kvstream.sources.kv_events import KVEventDecoder
from kvstream.stream import consumers_of, input_marker
from tests.engine.test_saved import of_cache
from tests.forked import Kvstream
from tests.publisher import Engine
from tests.state.test_crashes import alerts_in, identity
from tests.waiting import DEADLINE, until

CRASHES = int(os.environ.get("KVSTREAM_CRASHES", "4"))
SEED = int(os.environ.get("KVSTREAM_CRASH_SEED", "1"))
SECOND = 10**9
STEP_SECONDS = 0.005
A_SECOND = 5  # steps, of event time
PERIOD, GOOD = 240 * A_SECOND, 150 * A_SECOND  # steps: the second part of each period is an incident
QUIET = MetricsConfig(export_interval=0.0)


def batch(step):
    """What a publisher of two ranks, one with two tiers, says in a step: a function of nothing else."""
    rng = random.Random(step)
    rank = rng.randrange(2)
    events = []
    for _ in range(rng.randint(1, 8)):
        hashes = [rng.randrange(300) * 0x9E3779B97F4A7C15 % 2**64 for _ in range(rng.randint(1, 12))]
        medium = "CPU" if rank and rng.random() < 0.5 else "GPU"
        if rng.random() < 0.6:
            events.append(["BlockStored", hashes, None, [1] * 16, 16, None, medium])
        else:
            events.append(["BlockRemoved", hashes, medium])
    if rng.random() < 0.003:
        events.append(["AllBlocksCleared"])
    return msgspec.msgpack.encode([1_000_000 + step / A_SECOND, events, rank])


class Published:
    """An engine that publishes a batch a step."""

    def __init__(self, path):
        self.steps = 0
        self.is_known = False
        self._engine = Engine(buffer_steps=10**6)  # all that is published while a server is down
        self.name = None

    async def __aenter__(self):
        self._engine.__enter__()
        self.name = self._engine.url
        return self

    async def __aexit__(self, *exc):
        await anyio.to_thread.run_sync(self._engine.__exit__, None, None, None)

    def step(self):
        self._engine.publish([batch(self.steps)])
        self.steps += 1

    def frames(self):
        decoder = KVEventDecoder("engine")
        for step in range(self.steps):
            decoder.add(batch(step))
            yield from decoder.frames()


def lines_of(step):
    """Frames of three sources, one of which is often silent, in a step of a file."""
    rng = np.random.default_rng(step)
    is_good = step % PERIOD < GOOD
    for number, source in enumerate(["slots", "contents", "seldom"]):
        if source == "seldom" and step % 200 > 20:
            continue
        events = int(rng.integers(1, 30))
        chances = [0.15, 0.75, 0.1] if is_good else [0.6, 0.05, 0.35]
        ops = rng.choice([0, 1, 2], events, p=chances).astype(np.uint8)
        blocks = rng.integers(0, 200, events) + (2**40 if number == 1 else 0)
        ts = (1_000_000 * A_SECOND + step) * SECOND // A_SECOND
        ts += np.sort(rng.integers(0, SECOND // A_SECOND, events))
        yield EventFrame(ops, blocks, ts, source, "cpu" if step % 3 == 1 else "gpu")


class Written:
    """A file that grows by a step, in writes that part its records, and is rotated now and then."""

    def __init__(self, path, encode, begin):
        self.name, self.steps = str(path), 0
        self.is_known = False  # and not rotated before
        self._encode, self._begin = encode, begin
        self._rng = random.Random(SEED)
        self._file = None
        self._left = b""
        self.rotations = 0

    async def __aenter__(self):
        self._open()
        return self

    async def __aexit__(self, *exc):
        self.flush()
        self._file.close()

    def _open(self):
        self._file = open(self.name, "wb", buffering=0)  # noqa: SIM115
        self._opened_at = time.monotonic()
        self._begin(self._file)

    def step(self):
        data = self._left + b"".join(map(self._encode, lines_of(self.steps)))
        self.steps += 1
        cut = self._rng.randrange(len(data)) if self._rng.random() < 0.5 else len(data)
        self._file.write(data[:cut])
        self._left = data[cut:]
        if self.is_known and time.monotonic() - self._opened_at > self._rng.uniform(0.7, 3.0):
            self._rotate()

    def _rotate(self):
        self.rotations += 1
        os.rename(self.name, f"{self.name}.{self.rotations:05d}")
        self.flush()  # whoever writes goes on with the renamed file at first
        self._file.close()
        self._open()

    def flush(self):
        self._file.write(self._left)
        self._left = b""

    def frames(self):
        for step in range(self.steps):
            yield from lines_of(step)


def json_lines(path):
    return Written(path / "events.jsonl", lambda frame: encode_lines(frame.to_events()), lambda file: None)


def log(path):
    return Written(path / "events.kvlog", encode_record, lambda file: file.write(MAGIC))


async def killed_again_and_again(given, path, rng):
    """Let the input grow until the server was killed often enough; return the alerts that it has shown."""
    out = path / "alerts.jsonl"
    arguments = ["serve", "--from", given.name, "--state", path / "state", "--summary-every", "0", "--json"]

    async def grow():
        while True:
            for _ in range(rng.choice([1, 1, 1, 12])):
                given.step()
            await anyio.sleep(STEP_SECONDS)

    with open(out, "ab") as file:  # noqa: ASYNC230 - for another process to write to
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(grow)
            for crash in range(CRASHES):
                with Kvstream(arguments, stdout=file, stderr=subprocess.PIPE) as process:
                    if crash == 0:  # before the first snapshot nobody knows where to go on
                        await until(lambda: list(path.glob("state/snapshot-*")))
                        given.is_known = True
                    await anyio.sleep(rng.uniform(0, 0.8) if crash % 2 else rng.uniform(2.0, 9.0))
                    number = rng.choice([signal.SIGKILL] * 4 + [signal.SIGTERM])
                    os.kill(process.pid, number)
                    _, err = await anyio.to_thread.run_sync(process.communicate)
                    assert "Traceback" not in err.decode()
            tasks.cancel_scope.cancel()
    return alerts_in(out.read_bytes())


async def gone_on(given, path, events, said):
    """Go on in this process until as many events were applied; return its figures, and add what it says."""
    stream = KVStream(StreamConfig(metrics=QUIET), state=path / "state")
    stream.on_alert(lambda alert: said.update(identities([alert])))
    async with stream, anyio.create_task_group() as tasks:
        restored = sum(cache.table.live_count for cache in consumers_of(stream).caches())
        each = live_input(given.name)
        tasks.start_soon(lambda: each.deliver(stream.take, marker_of=partial(input_marker, stream)))
        with anyio.move_on_after(DEADLINE + 10 * CRASHES):
            await until(lambda: stream.accounts().processed >= events)
        await anyio.sleep(0.5)  # for what would come a second time
        await stream.flush()
        assert not stream.malformed
        tasks.cancel_scope.cancel()
        return (
            restored,
            consumers_of(stream).monitors,
            {(cache.source, cache.tier): of_cache(cache, None) for cache in consumers_of(stream).caches()},
        )


def identities(alerts):
    """Those of the alerts on caches; others are about frames that come twice."""
    return [identity(a.state, a.rule, a.incident, a.started_at) for a in alerts if a.tier != ALL]


@pytest.mark.slow
@pytest.mark.parametrize("make", [Published, json_lines, log])
async def test_an_input_is_gone_on_with_where_the_state_ends(tmp_path, make):
    rng = random.Random(SEED)
    with anyio.fail_after(2 * DEADLINE + 20 * CRASHES):
        async with make(tmp_path) as given:
            said = await killed_again_and_again(given, tmp_path, rng)
            if isinstance(given, Written):
                given.flush()
            straight, events, expected = Monitor(QUIET), 0, set()
            for each in given.frames():
                events += len(each)
                expected.update(identities(straight.process(each).alerts))
            restored, monitors, figures = await gone_on(given, tmp_path, events, said)
    print(f"{CRASHES} crashes, {given.steps:,} steps, {events:,} events, {len(expected)} alerts")
    assert restored > 0
    assert len(expected) > 1
    assert said == expected
    assert set(figures) == {(cache.source, cache.tier) for cache in straight.caches()}
    for source in straight.sources:
        assert accounts_of(monitors, source, None) == accounts_of([straight], source, None)
    for cache in straight.caches():
        wanted = of_cache(cache, None)
        for name, value in wanted.items():
            assert figures[cache.source, cache.tier][name] == value, (cache.source, cache.tier, name)
    if isinstance(given, Written):
        assert given.rotations
