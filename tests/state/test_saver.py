"""Snapshots of a stream that goes on meanwhile, into a directory that may be full or slow."""

import itertools
from contextlib import asynccontextmanager

import anyio
import numpy as np
import pytest
from msgspec.structs import replace

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.alerts.silences import Silences
from kvstream.bench.streams import busy
from kvstream.engine.limits import StreamLimits
from kvstream.engine.monitor import Monitor
from kvstream.state import saver
from kvstream.state.saver import MOST_OF_THE_TIME, SHORTEST_INTERVAL, Saver
from kvstream.state.sections import StreamParts, restore
from kvstream.state.store import DirectoryStore
from kvstream.stream import consumers_of
from tests.engine.test_saved import figures
from tests.state.power import UnsyncedFiles
from tests.state.test_sections import NAMES, Stream
from tests.strategies import frame
from tests.waiting import DEADLINE, until

BACKENDS = ["asyncio", "trio"]
FRAMES, HALF = 120, 60
QUIET = MetricsConfig(export_interval=0.0, window_seconds=0.005)


class Saved:
    """A stream whose snapshots go to a directory."""

    def __init__(self, path, files=None):
        self.stream = Stream(2)
        self.store = DirectoryStore(path, files)
        self.locks = {name: anyio.Lock() for name in NAMES}
        self.meanwhile = lambda name: None
        self.saver = Saver(self.store, lambda: self.stream.parts, self.between_batches, "test")

    @asynccontextmanager
    async def between_batches(self, name):
        async with self.locks[name]:
            yield
        self.meanwhile(name)

    def process(self, second):
        for name in NAMES:
            self.stream.process(frame([(0, second, second * 10**9, "")], name, epoch=1, seq=second))

    def restored(self):
        after = Stream(1)
        restore(after.parts, self.store.newest().sections, after.monitor_of, 0.0)
        return after


def run(backend, function, *arguments):
    async def within_the_deadline():
        with anyio.fail_after(DEADLINE):
            await function(*arguments)

    anyio.run(within_the_deadline, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_snapshot_holds_what_it_says_that_it_holds(backend, tmp_path):
    async def main():
        saved = Saved(tmp_path)
        for second in range(3):
            saved.process(second)
        assert saved.saver.saved_at is None
        with saved.store:
            assert await saved.saver.save()
            assert saved.restored().figures() == saved.stream.figures()
            assert saved.saver.bytes == saved.store.look()[0].bytes
            assert places(saved.store.newest().sections) == dict.fromkeys(NAMES, 3)

    run(backend, main)


def test_frames_are_applied_between_one_source_and_the_next(tmp_path):
    async def main():
        saved = Saved(tmp_path)
        saved.process(0)

        def meanwhile(name):
            saved.meanwhile = lambda name: None
            saved.process(1)

        saved.meanwhile = meanwhile
        with saved.store:
            assert await saved.saver.save()
            after = saved.restored()
            saved_places = places(saved.store.newest().sections)
        live = {name: after.monitor_of(name).summary(name).blocks_live for name in NAMES}
        assert live == saved_places
        assert sorted(live.values()) == [1, 2, 2, 2]

    run("asyncio", main)


def test_a_source_is_saved_once_its_batch_is_done(tmp_path):
    async def main():
        saved = Saved(tmp_path)
        saved.process(0)
        with saved.store:
            async with anyio.create_task_group() as tasks:
                await saved.locks["c"].acquire()
                tasks.start_soon(saved.saver.save)
                await until(lambda: saved.locks["c"].statistics().tasks_waiting)
                assert saved.saver.snapshots == 0
                saved.locks["c"].release()
            assert saved.saver.snapshots == 1

    run("asyncio", main)


def test_a_source_that_is_forgotten_while_it_waits_for_its_turn_is_left_out(tmp_path):
    async def main():
        saved = Saved(tmp_path)
        saved.process(0)

        def meanwhile(name):
            for other in NAMES:
                if other != name:
                    saved.stream.forget(other)

        saved.meanwhile = meanwhile
        with saved.store:
            assert await saved.saver.save()
            assert saved.restored().figures() == saved.stream.figures()

    run("asyncio", main)


def test_a_full_disk_stops_nothing_and_is_named_until_there_is_room(tmp_path, caplog):
    async def main():
        files = UnsyncedFiles()
        saved = Saved(tmp_path, files)
        saved.process(0)
        with saved.store:
            assert await saved.saver.save()
            first = saved.saver.saved_at
            for second in range(1, 11):  # each step up to the renaming
                saved.process(second)
                files.fail_at = files.steps + second - 1
                assert not await saved.saver.save()
                assert saved.saver.error == "No space left on device"
                assert saved.saver.saved_at == first
                assert saved.store.newest().number == 0
            files.fail_at = None
            assert saved.saver.snapshots == 1
            assert await saved.saver.save()
            assert saved.saver.error == ""
            assert saved.restored().figures() == saved.stream.figures()

    run("asyncio", main)
    assert [record.getMessage() for record in caplog.records] == [
        f"state cannot be saved in {tmp_path}: No space left on device",
        f"state is saved in {tmp_path} again",
    ]


@pytest.mark.parametrize(("wall", "counted"), [(0.5, 0.5), (2.0, 2.0), (100.0, 3.0)])
def test_what_takes_more_is_done_less_often(tmp_path, monkeypatch, wall, counted):
    """Of clocks by which each step takes a time, and a second of CPU if it is in a thread."""

    async def main():
        cpu, seconds = iter(range(1000)), iter(range(1000))
        monkeypatch.setattr(saver.time, "thread_time", lambda: float(next(cpu)))
        monkeypatch.setattr(saver.time, "perf_counter", lambda: wall * next(seconds))
        saved = Saved(tmp_path)
        assert saved.saver.interval == SHORTEST_INTERVAL
        saved.process(0)
        with saved.store:
            assert await saved.saver.save()
        on_loop = 2 * len(NAMES) + 1  # each source and its tables, and the stream
        in_threads = len(NAMES) + 3  # to begin, each source, the stream, to finish
        cost = on_loop * wall + in_threads * counted
        assert saved.saver.interval == pytest.approx(cost / MOST_OF_THE_TIME)

    run("asyncio", main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_snapshot_that_is_cancelled_leaves_the_one_before(backend, tmp_path):
    async def main():
        saved = Saved(tmp_path)
        saved.process(0)
        with saved.store:
            assert await saved.saver.save()
            async with anyio.create_task_group() as tasks:
                await saved.locks["d"].acquire()
                tasks.start_soon(saved.saver.save)
                await until(lambda: saved.locks["d"].statistics().tasks_waiting)
                tasks.cancel_scope.cancel()
            assert saved.store.newest().number == 0
            saved.locks["d"].release()
            assert await saved.saver.save()
            assert saved.store.newest().number == 1

    run(backend, main)


def test_one_snapshot_is_taken_after_the_other(tmp_path):
    async def main():
        saved = Saved(tmp_path)
        saved.process(0)
        with saved.store:
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(saved.saver.save)
            assert [file.number for file in saved.store.look()] == [2, 1]
            assert not any(file.damage for file in saved.store.look())

    run("asyncio", main)


@pytest.mark.parametrize("consumers", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_source_of_a_busy_stream_is_saved_as_its_frames_so_far_left_it(
    backend, consumers, tmp_path, monkeypatch
):
    """Whatever is restored is what the first frames of each source lead to, as many as its numbers say."""
    monkeypatch.setattr("kvstream.engine.cache._SILENT_WINDOWS", 10**9)  # the clock closes no windows
    events = busy(200, 6_000, content=True)
    frames = {name: numbered(events, name) for name in NAMES}

    async def feed(stream, name, goes_on):
        for each in frames[name]:
            if each.seq == HALF:
                await goes_on.wait()
            await stream.send(each)

    async def main():
        config = StreamConfig(consumers=consumers, queue_events=2000, metrics=QUIET)
        goes_on = anyio.Event()
        async with KVStream(config) as stream:
            all_of, alerts = consumers_of(stream), stream._alerting
            parts = StreamParts(all_of.monitors, StreamLimits(QUIET), alerts.silences, alerts.drops)

            def look():
                all_of.rest()
                return parts

            with DirectoryStore(tmp_path) as store:
                each = Saver(store, look, lambda name: all_of.of(name).batch, "test")
                async with anyio.create_task_group() as tasks:
                    for name in NAMES:
                        tasks.start_soon(feed, stream, name, goes_on)
                    for number in range(6):
                        assert await each.save()
                        check(store.newest().sections)
                        if number == 2:
                            assert all(place <= HALF for place in places(store.newest().sections).values())
                            goes_on.set()
                await stream.flush()
                assert await each.save()
                check(store.newest().sections)
                assert places(store.newest().sections) == dict.fromkeys(NAMES, FRAMES)

    def check(sections):
        after, straight = Monitor(QUIET), Monitor(QUIET)
        parts = StreamParts([after], StreamLimits(QUIET), Silences(), Stream().parts.drops)
        restored = restore(parts, sections, lambda name: after, 0.0)
        assert restored.problems == {}
        assert restored.sources == list(places(sections))
        for name, place in places(sections).items():
            for each in frames[name][:place]:
                straight.process(each)
        assert figures(after) == figures(straight)

    run(backend, main)


def places(sections):
    """The number of the next frame of each source, by what a snapshot says."""
    numbers = {each.name: each.body["sequence"]["lives"] for each in sections if each.kind == "source"}
    return {name: dict(lives)[1]["next"] for name, lives in numbers.items()}


def numbered(events, name):
    """Small frames of a source, cut unevenly."""
    edges = np.sort(np.random.default_rng(len(name)).integers(0, len(events), FRAMES - 1))
    parts = [events.take(slice(*edge)) for edge in itertools.pairwise([0, *edges.tolist(), len(events)])]
    return [replace(part, source=name, epoch=1, seq=seq) for seq, part in enumerate(parts)]
