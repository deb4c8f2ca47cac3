"""A directory after crashes and damage: what is gone on from is true, with the cursors that belong to it."""

from collections import Counter

import anyio
import pytest

from kvstream.errors import StateError
from kvstream.state.sections import restore, source_section, stream_section
from kvstream.state.snapshot import Header, pack, unpack
from kvstream.state.store import DirectoryStore
from tests.state.power import PowerLoss, UnsyncedFiles
from tests.state.test_saver import Saved
from tests.state.test_sections import NAMES, Stream
from tests.strategies import frame

SECTOR = 512


def frames_of(second):
    """A frame of each source, none like another."""
    return {
        name: frame(
            [
                (0, second, second * 10**9 + number, ""),
                (1, second // 2, second * 10**9 + 9, ""),
                (2, second - 3, second * 10**9 + 10, "preempted"),
            ],
            name,
            epoch=1,
            seq=second,
        )
        for number, name in enumerate(NAMES)
    }


def process(saved, second):
    for name, each in frames_of(second).items():
        saved.sent.append((name, saved.saver.held.send(name)))
        saved.stream.process(each)
        saved.saver.held.apply(name, 1)


class Straight:
    """Figures of streams that were given the first frames of each source, and never interrupted."""

    def __init__(self):
        self._figures = {}

    def figures(self, cursors):
        key = tuple(cursors[name] for name in NAMES)
        if key not in self._figures:
            stream = Stream(1)
            for name, seen in cursors.items():
                for second in range(seen):
                    stream.process(frames_of(second)[name])
            self._figures[key] = stream.figures()
        return self._figures[key]


def gone_on(store):
    """A stream that goes on from what a store finds, and the cursor of each source; None if it finds none."""
    newest = store.newest()
    if newest is None:
        return None
    stream = Stream(1)
    assert restore(stream.parts, newest.sections, stream.monitor_of, 0.0).problems == {}
    return stream, {name: source.cursor.next for name, source in stream.parts.sources().items()}


def damaged(data, at):
    """Yield a file cut, flipped and overwritten at an offset."""
    yield data[:at]
    yield data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
    yield data[:at] + bytes(len(data[at : at + SECTOR])) + data[at + SECTOR :]
    yield data[:at] + data[at + SECTOR :]
    yield data[:at] + data[:1] + data[at:]


def begun(path, files=None):
    saved = Saved(path, files)
    saved.sent = []  # name and number of each frame
    return saved


async def save_twice(path, files=None):
    """A stream with two snapshots, of two and of five seconds."""
    saved = begun(path, files)
    for second in range(5):
        process(saved, second)
        if second in (1, 4):
            assert await saved.saver.save()
    return saved


def test_damage_at_any_offset_goes_back_to_the_older_snapshot_and_its_cursors(tmp_path):
    anyio.run(save_twice, tmp_path)
    store, straight = DirectoryStore(tmp_path), Straight()
    newest = tmp_path / "snapshot-000000000001.kvstate"
    whole = newest.read_bytes()
    for at in range(0, len(whole), len(whole) // 7):
        for data in damaged(whole, at):
            newest.write_bytes(data)
            stream, cursors = gone_on(store)
            assert cursors == dict.fromkeys(NAMES, 5 if data == whole else 2)
            assert stream.figures() == straight.figures(cursors)
    newest.unlink()
    stream, cursors = gone_on(store)
    assert cursors == dict.fromkeys(NAMES, 2)
    assert stream.figures() == straight.figures(cursors)


def test_damage_at_every_offset_is_seen():
    stream = Stream(1)
    stream.process(frames_of(1)["a"])
    saved = stream.parts.sources()
    whole = pack(
        Header(number=0, taken_at=0.0, writer="test"),
        [*map(source_section, saved.values()), stream_section(stream.parts, saved)],
    )
    for at in range(len(whole)):
        for data in damaged(whole, at):
            if data != whole:
                with pytest.raises(StateError):
                    unpack(data)


@pytest.mark.parametrize("data", [None, b"", b"KVSTATE\n", bytes(4096)])
def test_with_both_damaged_or_gone_there_is_nothing_to_go_on_from(tmp_path, data):
    anyio.run(save_twice, tmp_path)
    for path in tmp_path.glob("snapshot-*"):
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
    assert gone_on(DirectoryStore(tmp_path)) is None


def test_power_lost_at_any_step_of_any_save_loses_nothing_that_was_acknowledged(tmp_path):
    """A source's input forgets what was acknowledged: no snapshot that is found may have less."""

    async def main():
        files, straight, outcomes = UnsyncedFiles(), Straight(), set()
        await save_twice(tmp_path, files)
        for step in range(files.steps + 1):
            files = UnsyncedFiles()
            files.power_lost_at = step
            acknowledged = await until_power_is_lost(files)
            for found in files.after_power_loss():
                store = DirectoryStore(tmp_path, found)
                after = gone_on(store)
                cursors = dict.fromkeys(NAMES, 0) if after is None else after[1]
                assert all(cursors[name] >= acknowledged[name] for name in NAMES)
                if after is not None:
                    assert after[0].figures() == straight.figures(cursors)
                outcomes.add(cursors["a"])
        assert outcomes == {0, 2, 5}

    async def until_power_is_lost(files):
        """Save until then; return how many frames of each source may be acknowledged."""
        saved = begun(tmp_path, files)
        try:
            for second in range(5):
                process(saved, second)
                if second in (1, 4):
                    await saved.saver.save()
        except PowerLoss:
            pass
        return Counter(name for name, number in saved.sent if saved.saver.held.holds(name, number))

    anyio.run(main)


def test_after_power_was_lost_the_next_process_saves_and_goes_on(tmp_path):
    async def main():
        files = UnsyncedFiles()
        await save_twice(tmp_path, files)
        for step in range(files.steps // 2, files.steps, 3):
            files = UnsyncedFiles()
            files.power_lost_at = step
            with pytest.raises(PowerLoss):
                await save_twice(tmp_path, files)
            for found in files.after_power_loss():
                after = Saved(tmp_path, found)
                stream, cursors = gone_on(after.store)
                after.stream = stream
                for second in range(min(cursors.values()), 8):
                    for name, each in frames_of(second).items():
                        if second >= cursors[name]:
                            stream.process(each)
                assert await after.saver.save()
                again, cursors = gone_on(after.store)
                assert cursors == dict.fromkeys(NAMES, 8)
                assert again.figures() == stream.figures()

    anyio.run(main)
