"""The same recording gives the same alerts, however it is read and however busy the machine is."""

import itertools
import operator

import anyio
import pytest
import trio
from trio.testing import MockClock

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.engine.monitor import Monitor
from kvstream.engine.recorded import RecordedTime
from kvstream.errors import ConfigError
from kvstream.events.codec import encode_lines
from kvstream.events.frame import EventFrame, frames_from_events
from kvstream.events.log import MAGIC, encode_record
from kvstream.events.types import BlockAccessed, BlockAllocated, BlockEvicted
from kvstream.sources.files import read_events
from kvstream.sources.reader import EventReader
from kvstream.sources.timing import merge_by_time
from tests.waiting import DEADLINE

SECOND = 1_000_000_000
START = 1_767_225_600 * SECOND
METRICS = MetricsConfig(curve_keys=0, remembered_evictions=0, export_interval=0.0)
END = 600


def engine(source, shift=0.0, bad=(), silent=(), clock=lambda t: 0):
    """Yields (time, events) of a request every other second: ten blocks found, two evicted and filled."""
    number = itertools.count()
    for t in range(0, END, 2):
        if t in silent:
            continue
        ts = START + round((t + shift + clock(t)) * SECOND)
        events = []
        for i in range(12):
            n = next(number)
            if i < 10 and t > 60 and t not in bad:
                events.append(BlockAccessed(n % 200, ts, source))
            else:
                events += [BlockEvicted(n % 200, ts, source), BlockAllocated(n % 200, ts, source)]
        yield t + shift, events


ENGINES = {
    "steady": lambda: engine("steady"),
    "bad": lambda: engine("bad", 0.3, bad=range(330, 450)),
    "pauses": lambda: engine("pauses", 0.6, silent=range(300, 400)),
    "gone": lambda: engine("gone", 0.9, silent=range(500, END)),
    "stepped": lambda: engine("stepped", 1.2, clock=lambda t: -120 if t >= 400 else 0),
}


def requests_of(*names):
    requests = sorted((each for name in names for each in ENGINES[name]()), key=operator.itemgetter(0))
    return [events for _, events in requests]


def events_of(*names):
    return [event for events in requests_of(*names) for event in events]


REQUESTS, ALL = requests_of(*ENGINES), events_of(*ENGINES)


def comparable(alerts):
    return sorted((a.source, a.rule, a.state, a.level, a.timestamp, a.started_at, a.message) for a in alerts)


def by_monitor(frames):
    monitor = Monitor(METRICS)
    time = RecordedTime(monitor)
    alerts = []
    for frame in frames:
        alerts += time.reach([frame])
        alerts += monitor.process(frame).alerts
    return comparable([*alerts, *time.end(), *monitor.finish()])


async def by_stream(frames, pause=0.0):
    config = StreamConfig(
        metrics=METRICS, recorded=True, queue_events=100_000, flush_seconds=1e6, shutdown_timeout=DEADLINE
    )
    async with KVStream(config) as stream:
        alerts = stream.alerts(buffer=10_000)
        if callable(frames):
            await stream.feed(frames(stream.input_ended))
            frames = []
        for frame in frames:
            await stream.send(frame)
            if pause:
                await anyio.sleep(pause)
    return comparable([alert async for alert in alerts])


def read_in_pieces(data, size):
    reader = EventReader("log")
    pieces = (data[i : i + size] for i in range(0, len(data), size))
    items = [item for piece in pieces for item in reader.feed(piece)]
    items += reader.finish()
    assert all(isinstance(item, EventFrame) for item in items)
    return items


@pytest.fixture(scope="module")
def expected():
    """What is found where each request is a frame of its own."""
    found = by_monitor([frame for events in REQUESTS for frame in frames_from_events(events)])
    rules = {(source, rule) for source, rule, state, *_ in found if state == "firing"}
    assert rules == {
        ("bad", "hit_ratio_drop"),
        ("pauses", "engine_stalled"),
        ("gone", "engine_stalled"),
        ("stepped", "clock_step"),
    }
    return found


@pytest.mark.slow
def test_each_event_a_frame_of_its_own(expected):
    assert by_monitor([frame for event in ALL for frame in frames_from_events([event])]) == expected


@pytest.mark.parametrize("size", [pytest.param(1024, marks=pytest.mark.slow), 20_000, 300_000, 10**9])
async def test_lines_in_pieces_of_any_size(size, expected):
    frames = read_in_pieces(encode_lines(ALL), size)
    assert by_monitor(frames) == expected
    assert await by_stream(frames) == expected


async def by_files(tmp_path, **events):
    """What is found where each of several files is read beside the others."""
    for name, some in events.items():
        (tmp_path / f"{name}.jsonl").write_bytes(encode_lines(some))
    paths = [str(tmp_path / f"{name}.jsonl") for name in events]
    found = await by_stream(lambda on_end: merge_by_time([read_events(path) for path in paths], on_end))
    time = RecordedTime(monitor := Monitor(METRICS))
    alerts = []
    async for frame in merge_by_time([read_events(path) for path in paths], time.input_ended):
        alerts += time.reach([frame])
        alerts += monitor.process(frame).alerts
    assert comparable([*alerts, *time.end(), *monitor.finish()]) == found
    return found


async def test_several_files_give_what_one_does_but_that_their_ends_are_no_silence(expected, tmp_path):
    found = await by_files(tmp_path, **{name: events_of(name) for name in ENGINES})
    assert found == [each for each in expected if each[0] != "gone"]


async def test_a_source_is_silent_while_others_of_its_own_file_go_on(expected, tmp_path):
    found = await by_files(tmp_path, both=events_of("gone", "bad"), other=events_of("pauses"))
    assert found == [each for each in expected if each[0] in ("gone", "bad", "pauses")]


async def test_what_is_between_two_files_of_a_source_is_not_known_to_be_silence(tmp_path):
    events = events_of("steady")
    cut, again = START + 200 * SECOND, START + 400 * SECOND
    parts = {
        "first": [event for event in events if event.ts < cut],
        "second": [event for event in events if event.ts >= again],
        "other": events_of("bad"),
    }
    assert {each[0] for each in await by_files(tmp_path, **parts)} == {"bad"}
    whole = [event for event in events if not cut <= event.ts < again]
    (tmp_path / "whole").mkdir()
    found = await by_files(tmp_path / "whole", one=whole, other=events_of("bad"))
    assert ("steady", "engine_stalled") in {each[:2] for each in found}, "in one file it is"


async def test_a_source_that_another_file_goes_on_with_is_silent_when_it_says_nothing(expected, tmp_path):
    gone = events_of("gone")
    first, rest = gone[: len(gone) // 2], gone[len(gone) // 2 :]
    found = await by_files(tmp_path, first=first, rest=sorted([*rest, *events_of("bad")], key=lambda e: e.ts))
    assert found == [each for each in expected if each[0] in ("gone", "bad")]


async def test_a_binary_log(expected):
    frames = read_in_pieces(encode_lines(ALL), 10**9)
    log = MAGIC + b"".join(map(encode_record, frames))
    assert await by_stream(read_in_pieces(log, 50_000)) == expected


def test_hours_of_the_clock_between_two_frames(expected):
    frames = read_in_pieces(encode_lines(ALL), 100_000)
    found = trio.run(by_stream, frames, 5000.0, clock=MockClock(autojump_threshold=0))
    assert found == expected


def test_sources_in_one_chunk_come_side_by_side():
    frames = frames_from_events(ALL)
    starts = [int(frame.ts[0]) for frame in frames if frame.source != "stepped"]
    assert all(after > before - 5 * SECOND for before, after in itertools.pairwise(starts))
    for name in ENGINES:
        of = [event for frame in frames if frame.source == name for event in frame.to_events()]
        assert of == [event for event in ALL if event.source == name]


def test_a_source_with_a_slow_clock_is_not_taken_for_silent():
    events = [*ENGINES["steady"](), *engine("slow", 0.5, clock=lambda t: -300)]
    events.sort(key=operator.itemgetter(0))
    lines = encode_lines([event for _, some in events for event in some])
    assert by_monitor(read_in_pieces(lines, 10**9)) == by_monitor(read_in_pieces(lines, 5000)) == []


def test_a_recording_takes_one_consumer():
    with pytest.raises(ConfigError, match="consumers must be 1"):
        StreamConfig(recorded=True, consumers=2)
