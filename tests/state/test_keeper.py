"""A stream that is closed, or dies, and goes on from its directory in another one."""

import logging

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from kvstream import (
    ConfigError,
    Delivery,
    EventFrame,
    InputStatistics,
    KVStream,
    Malformed,
    MetricsConfig,
    StreamConfig,
    UndeliveredError,
)
from kvstream.errors import StateError
from kvstream.exporters.prometheus import exposition
from kvstream.reports.overview import Selection, state_of
from kvstream.state.store import DirectoryStore
from kvstream.stream import consumers_of, keeper_of
from tests.engine.test_saved import of_cache
from tests.state.power import UnsyncedFiles
from tests.test_stream import trouble
from tests.waiting import DEADLINE

QUIET = StreamConfig(metrics=MetricsConfig(export_interval=0.0, forget_seconds=0.0))
QUICK = replace(QUIET, delivery_timeout=0.2)
SECOND = 10**9


@pytest.fixture(autouse=True)
def _by_event_time(monkeypatch):
    """The clock closes no windows, so that a run that is interrupted can be compared with one that is not."""
    monkeypatch.setattr("kvstream.engine.cache._SILENT_WINDOWS", 10**9)


def steady(source="s", seconds=20, start=0, epoch=1):
    """Frames of an engine, one a second: a few blocks come, are used and go."""
    frames = []
    for second in range(start, start + seconds):
        blocks = [second % 7, 10 + second % 7, second % 7, (second + 3) % 7]
        ops = [0, 0, 1, 2]
        ts = [second * SECOND + n for n in range(4)]
        columns = np.array(ops, np.uint8), np.array(blocks), np.array(ts)
        frames.append(EventFrame(*columns, source, epoch=epoch, seq=second))
    return frames


class Notifier(Delivery):
    """Keeps what it is given, or fails."""

    def __init__(self, destination, fails=False):
        self.destination, self.fails, self.delivered = destination, fails, []

    async def deliver(self, item):
        if self.fails:
            raise UndeliveredError("down", retry_after=1.0)
        self.delivered.append(item)


def figures(stream):
    summary = stream.summary_nowait()
    caches = {
        (c.source, c.tier): of_cache(c, stream.summary_nowait(c.source, c.tier))
        for c in consumers_of(stream).caches()
    }
    return summary.accounts, caches


async def send_all(stream, frames):
    for each in frames:
        await stream.send(each)
    await stream.flush()


async def run(path, frames, config=QUIET):
    """Give frames to a stream that is closed then; return its figures and alerts."""
    async with KVStream(config, state=path) as stream:
        alerts = stream.alerts(buffer=10_000)
        await send_all(stream, frames)
        inside = figures(stream)
    return inside, [alert async for alert in alerts]


@pytest.mark.parametrize("consumers", [1, 2])
async def test_a_stream_goes_on_where_the_one_before_was_left(consumers, tmp_path):
    config = StreamConfig(consumers=consumers, metrics=QUIET.metrics)
    frames = [each for pair in zip(steady("a"), steady("b"), strict=True) for each in pair]
    straight, _ = await run(None, frames)
    await run(tmp_path, frames[:17], config)
    await run(tmp_path, frames[17:18], config)
    after, _ = await run(tmp_path, frames[18:], config)
    assert after == straight


async def test_an_incident_goes_on_without_a_second_notification(tmp_path):
    frames = trouble()
    _, expected = await run(None, frames)
    found = []
    for cut in range(0, len(frames), 60):
        found += (await run(tmp_path, frames[cut : cut + 60]))[1]
    first = {(a.rule, a.state, a.incident, a.started_at) for a in found}
    assert ("hit_ratio_drop", "firing") in {(a.rule, a.state) for a in found}
    # A subscriber of a new process is given what fires; nothing begins, rises or ends that did not before.
    of_state = {(a.rule, a.state, a.incident, a.started_at) for a in expected}
    assert first == {each for each in of_state if each[1] == "firing"}


async def test_a_stream_that_ends_by_an_error_leaves_the_snapshot_before(tmp_path):
    frames = steady()
    await run(tmp_path, frames[:5])
    with pytest.raises(ZeroDivisionError):
        async with KVStream(QUIET, state=tmp_path) as stream:
            await send_all(stream, frames[5:9])
            raise ZeroDivisionError
    after, _ = await run(tmp_path, frames[5:])
    assert after == (await run(None, frames))[0]


async def test_accounts_go_on_and_are_balanced(tmp_path):
    async with KVStream(QUIET, state=tmp_path) as stream:
        stream.reject(Malformed("x", "line", 1, "bad"))
        await send_all(stream, [*steady()[:5], steady()[2]])
        producer = stream.producer("other")
        producer.allocated_nowait(range(10))
    before = stream.accounts()
    assert before.balanced
    async with KVStream(QUIET, state=tmp_path) as after:
        assert after.accounts() == before
        await send_all(after, steady()[5:7])
        accounts = after.accounts()
    assert accounts.balanced
    assert (accounts.malformed, accounts.dropped) == (1, {"duplicate": 4})
    assert accounts.offered == before.offered + 8


async def test_inputs_are_asked_to_go_on_from_where_the_state_ends(tmp_path):
    async with KVStream(QUIET, state=tmp_path) as stream:
        assert stream.cursors() == {}
        await send_all(stream, [*steady("a", 5, epoch=7), *steady("b", 3)])
        stream.producer("embedded").allocated_nowait([1])
    async with KVStream(QUIET, state=tmp_path) as after:
        assert after.cursors() == {"a": (7, 5), "b": (1, 3)}


async def test_an_engine_that_restarts_meanwhile_begins_with_an_empty_cache(tmp_path):
    await run(tmp_path, steady(seconds=5))
    async with KVStream(QUIET, state=tmp_path) as after:
        assert after.summary_nowait().blocks_live > 0
        (first, *_) = steady(seconds=1, start=100, epoch=2)
        await send_all(after, [first])
        accounts = after.accounts()
    assert (accounts.restarts, accounts.live) == (1, 2)
    assert accounts.cleared > 0
    assert accounts.balanced


async def test_an_engine_in_this_process_begins_with_an_empty_cache(tmp_path):
    """Its cache ended with the process before; what is only read on, as from a pipe, did not."""
    for source in ("embedded", "piped"):
        async with KVStream(QUIET, state=tmp_path) as stream:
            await stream.producer(source).allocated(range(10))
    async with KVStream(QUIET, state=tmp_path) as after:
        assert after.accounts().live == 20
        producer = after.producer("embedded")
        assert after.producer("embedded", "cpu") is not producer
        await producer.allocated(range(5))
        await send_all(after, [replace(each, seq=-1) for each in steady("piped", 1)])
        after.producer("piped")
        assert after.accounts("embedded").live == 5
        assert after.accounts("piped").live == 10
        accounts = after.accounts()
    assert (accounts.restarts, accounts.cleared) == (1, 10)
    assert accounts.balanced


async def test_another_process_is_kept_out(tmp_path):
    async with KVStream(QUIET, state=tmp_path):
        with pytest.raises(StateError, match="in use by process"):
            async with KVStream(QUIET, state=tmp_path):
                pass
    async with KVStream(QUIET, state=tmp_path):
        pass


async def test_a_damaged_snapshot_is_named_and_the_one_before_used(tmp_path, caplog):
    await run(tmp_path, steady()[:5])
    await run(tmp_path, steady()[5:9])
    newest = max(tmp_path.glob("*.kvstate"))
    newest.write_bytes(newest.read_bytes()[:-9])
    async with KVStream(QUIET, state=tmp_path) as stream:
        assert stream.cursors() == {"s": (1, 5)}
    assert f"{newest.name} is damaged: torn at byte" in caplog.text


async def test_where_nothing_can_be_read_the_stream_begins_with_nothing_and_says_so(tmp_path, caplog):
    await run(tmp_path, steady()[:5])
    for file in tmp_path.glob("*.kvstate"):
        file.write_bytes(b"no snapshot")
    async with KVStream(QUIET, state=tmp_path) as stream:
        assert stream.accounts().offered == 0
        assert stream.statistics().state.saved_at is None
    assert "nothing can be read: beginning with nothing" in caplog.text


async def test_the_statistics_say_how_old_and_large_the_state_is(tmp_path, caplog):
    caplog.set_level(logging.INFO, "kvstream")
    await run(tmp_path, steady())
    async with KVStream(QUIET, state=tmp_path) as stream:
        state = stream.statistics().state
        assert (state.snapshots, state.failures, state.error) == (0, 0, "")
        assert state.bytes == max(tmp_path.glob("*.kvstate")).stat().st_size
        assert 0.0 <= state.age_seconds < DEADLINE
        assert await keeper_of(stream).saver.save()
        assert stream.statistics().state.snapshots == 1
    assert "state of 1 sources restored from snapshot-" in caplog.text
    async with KVStream(QUIET) as without:
        assert without.statistics().state is None


def test_a_recording_has_no_state_to_keep(tmp_path):
    with pytest.raises(ConfigError, match="recording"):
        KVStream(StreamConfig(recorded=True), state=tmp_path)


async def test_handlers_go_on_with_what_they_were_not_delivered(tmp_path):
    frames = trouble()[:420]
    down, up = Notifier("page", fails=True), Notifier("page")
    async with KVStream(QUICK, state=tmp_path) as stream:
        stream.on_alert(down)
        stream.on_alert(Notifier("log"))
        await send_all(stream, frames)
    assert down.delivered == []
    late, log, plain = Notifier("new"), Notifier("log"), []
    after = KVStream(QUICK, state=tmp_path)
    for handler in (up, late, log, plain.append):
        after.on_alert(handler)
    async with after:
        firing = after.firing()
        assert {alert.rule for alert in firing} == {"hit_ratio_drop"}
    states = {(alert.state, alert.incident) for alert in up.delivered}
    assert states == {("firing", alert.incident) for alert in firing}
    assert log.delivered == []  # which had been delivered it
    assert late.delivered == plain == firing
    again = Notifier("page")
    last = KVStream(QUICK, state=tmp_path)
    last.on_alert(again)
    async with last:
        pass
    assert again.delivered == []


async def test_an_input_that_is_not_connected_alerts_on(tmp_path):
    seen = InputStatistics(input="zmq://x:1", state="not connected", since=0.0)
    shown = [seen]
    now = 1_000

    def clock():
        return now * SECOND

    async with KVStream(QUIET, clock=clock, state=tmp_path) as stream:
        stream.watch_inputs(lambda: shown)
        stream._alerting.look()
        now = 2_000
        (fired,) = stream._alerting.look()
    async with KVStream(QUIET, clock=clock, state=tmp_path) as after:
        after.watch_inputs(lambda: shown)
        for state in ("connecting", "not connected"):
            shown[0] = msgspec.structs.replace(seen, state=state)
            assert after._alerting.look() == []
        assert after.drop_alerts() == [fired]


async def test_state_that_cannot_be_saved_raises_an_alert_and_is_shown(tmp_path):
    files = UnsyncedFiles(None)
    async with KVStream(QUIET, state=DirectoryStore(tmp_path, files)) as stream:
        await send_all(stream, steady())
        assert stream._alerting.look() == []
        files.fail_at = files.steps
        assert not await keeper_of(stream).saver.save()
        keeper_of(stream)._opened_at -= 100.0
        (fired,) = stream._alerting.look()
        assert fired.rule == "state_not_saved"
        assert fired.source == str(tmp_path)
        assert fired.message.endswith("No space left on device")
        state = (await stream.summary()).state
        assert (state.error, state.failures) == ("No space left on device", 1)
        body, _ = await exposition(stream)
        assert b"kvstream_state_failures_total 1.0" in body
        shown = await state_of(stream, Selection(None, None))
        assert "the state cannot be saved (not yet): No space left on device" in shown.verdict
        files.fail_at = None
        assert await keeper_of(stream).saver.save()
        assert stream._alerting.look() == []


async def test_what_was_lost_is_degraded_until_it_is_turned_over_or_cleared(tmp_path):
    names = ("turned over", "cleared", "from its beginning", "as before")
    frames = {name: steady(name, 40) for name in names}
    await run(tmp_path, [each for name in names for each in frames[name][:10]])
    for file in tmp_path.glob("*.kvstate"):
        file.write_bytes(b"")
    async with KVStream(QUIET, state=tmp_path) as stream:

        def degraded():
            return stream.statistics().state.degraded

        for name in names:
            await send_all(stream, steady(name, 1, epoch=2) if name == names[2] else frames[name][10:11])
        assert degraded() == [names[0], names[1], names[3]]
        await stream.producer("cleared").cleared()
        turned = stream.producer("turned over")
        for block in range(100, 120):
            await turned.allocated(block)
            await turned.evicted(block)
        await stream.flush()
        assert degraded() == ["as before"]
    async with KVStream(QUIET, state=tmp_path) as stream:
        assert degraded() == ["as before"]
        assert (await stream.summary()).state.degraded == ["as before"]


async def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match=r"cannot keep state in .*file"):
        async with KVStream(QUIET, state=tmp_path / "file" / "state"):
            pass


async def test_how_long_a_source_was_silent_is_remembered(tmp_path):
    """Less what its input may take to be there again."""
    async with KVStream(QUIET, state=tmp_path) as stream:
        await send_all(stream, steady("a", 2))
        stream._times.arrivals.postpone(-100.0)
    async with KVStream(QUIET, state=tmp_path) as after:
        assert 80.0 < after.input_age("a") < 80.0 + DEADLINE


async def test_marks_outlive_the_process(tmp_path):
    async with KVStream(QUIET, state=tmp_path) as stream:
        await stream.producer("engine-0").allocated([1, 2])
        mark = stream.mark("deploy")
    async with KVStream(QUIET, state=tmp_path) as after:
        assert after.marks() == [mark]
