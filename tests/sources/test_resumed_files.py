"""Files that are followed, and changed while nobody reads them: reading goes on where it had come to."""

import gzip
import json
import os
import shutil

import anyio
import pytest

from kvstream.events.codec import decode_lines
from kvstream.events.log import encode_record
from kvstream.events.types import Malformed
from kvstream.sources.files import read_input
from kvstream.state.progress import InputProgress
from kvstream.state.resumption import InputMarker, add_saved
from tests.state.saved import through_a_snapshot

DEADLINE = 30


def lines(blocks):
    events = ({"type": "alloc", "block": block, "ts": 10**18 + block, "source": "a"} for block in blocks)
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def records(blocks):
    return b"".join(encode_record(frame) for block in blocks for frame in decode_lines(lines([block]), print))


class Log:
    """A log and a reader that comes and goes."""

    def __init__(self, path, encode=lines, start=b""):
        self.path, self._encode = path, encode
        self.seen, self.malformed, self._saved = [], [], {}
        path.write_bytes(start)

    def write(self, blocks):
        self.append(self._encode(blocks))

    def append(self, data):
        with open(self.path, "ab") as file:
            file.write(data)

    def rotate(self, name):
        self.path.rename(self.path.with_name(name))
        self.path.write_bytes(b"")

    async def read(self, until):
        """Go on from what was saved until a block was seen, and save."""
        inputs, progress = {}, InputProgress()
        add_saved(inputs, self._saved, None)
        progress.restore(inputs)
        marker = InputMarker("x", inputs.get("x"), {})
        with anyio.fail_after(DEADLINE):
            items = read_input(str(self.path), True, marker=marker)
            async for item in items:
                if isinstance(item, Malformed):
                    self.malformed.append(item)
                    continue
                progress.take(item)
                self.seen += item.blocks.tolist()
                progress.apply([item], False)
                if until in self.seen:
                    break
            await items.aclose()
        self._saved = through_a_snapshot(progress.of_others(set()))


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "log")


@pytest.mark.parametrize(("encode", "start"), [(lines, b""), (records, b"KVLOG\x00\x01\n")])
async def test_reading_goes_on_in_a_file_that_has_grown(tmp_path, encode, start):
    log = Log(tmp_path / "log", encode, start)
    log.write(range(5))
    await log.read(4)
    log.write(range(5, 9))
    await log.read(8)
    assert log.seen == list(range(9))
    log.write([9])
    await log.read(9)
    assert log.seen == list(range(10))


async def test_half_a_line_is_read_whole_by_the_next_process(log):
    log.write(range(3))
    log.append(lines([3])[:20])
    await log.read(2)
    log.append(lines([3])[20:])
    await log.read(3)
    assert (log.seen, log.malformed) == ([0, 1, 2, 3], [])


async def test_files_that_were_rotated_meanwhile_are_read_in_order(log):
    log.write([-1])
    log.rotate("log.old.0")
    log.write(range(3))
    await log.read(2)
    log.write([3])
    log.rotate("log.1")
    log.write([4])
    log.rotate("log.2")
    log.write([5])
    await log.read(5)
    log.write([6])
    await log.read(6)
    assert (log.seen, log.malformed) == (list(range(7)), [])


async def test_a_log_that_was_copied_and_cut_is_read_in_its_copy_first(log):
    log.write(range(3))
    await log.read(2)
    log.write([3])
    shutil.copy(log.path, log.path.with_name("log.1"))
    os.truncate(log.path, 0)
    log.write([4])
    await log.read(4)
    assert (log.seen, log.malformed) == ([0, 1, 2, 3, 4], [])


async def test_a_log_that_was_moved_to_another_machine_is_gone_on_with(log):
    log.write(range(3))
    await log.read(2)
    shutil.copy(log.path, log.path.with_name("copy"))
    log.path.unlink()
    log.path.with_name("copy").rename(log.path)
    log.write([3])
    await log.read(3)
    assert (log.seen, log.malformed) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize("is_cut", [True, False])
async def test_what_was_cut_or_removed_meanwhile_is_said_to_be_lost(log, is_cut):
    log.write(range(3))
    await log.read(2)
    log.write([3])
    if is_cut:
        os.truncate(log.path, 0)
    else:
        log.rotate("log.1")
        log.write([4])
        log.rotate("log.2")
        log.path.with_name("log.1").unlink()
    log.write([5])
    await log.read(5)
    assert log.seen == ([0, 1, 2, 5] if is_cut else [0, 1, 2, 4, 5])
    (lost,) = log.malformed
    assert "is gone or was cut: what was added since then is lost" in str(lost)


async def test_what_cannot_be_begun_in_the_middle_is_read_again_and_passed_over(tmp_path):
    log = Log(tmp_path / "log.gz", lambda blocks: gzip.compress(lines(blocks)))
    log.write(range(5))
    await log.read(4)
    log.write(range(5, 8))
    await log.read(7)
    log.write([8])
    await log.read(8)
    assert log.seen == list(range(9))
