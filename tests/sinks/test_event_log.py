"""Recordings on disk: appended to or numbered on, never overwritten unasked."""

import errno
import gzip
import os
import sys
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from kvstream.errors import ConfigError
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed, Op
from kvstream.sinks.event_log import EventLogWriter, RotatingWriter
from kvstream.sources.reader import EventReader


def frame(first, n=10):
    return EventFrame(np.zeros(n, np.uint8), np.arange(first, first + n), np.arange(n) + 1, "s")


def write(path, first, existing="append"):
    with EventLogWriter(str(path), existing=existing) as writer:
        writer.write(frame(first))


def read(path):
    reader = EventReader(str(path))
    items = [*reader.feed(path.read_bytes()), *reader.finish()]
    blocks = [block for item in items if isinstance(item, EventFrame) for block in item.blocks.tolist()]
    return blocks, [item for item in items if isinstance(item, Malformed)]


def test_a_file_is_opened_with_the_context_or_the_first_frame_and_not_before(tmp_path):
    path = tmp_path / "day.kvlog"
    writer = EventLogWriter(str(path))
    assert not path.exists()
    writer.write(frame(0))
    writer.close()
    assert read(path) == (list(range(10)), [])
    with EventLogWriter(str(tmp_path / "none.kvlog")), pytest.raises(FileExistsError):
        EventLogWriter(str(tmp_path / "none.kvlog"), existing="refuse").open()


def test_a_format_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"format must be one of jsonl, kvlog.*'csv'"):
        EventLogWriter(str(tmp_path / "day.kvlog"), format="csv").open()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_never_opened_is_not_made_by_closing_it(tmp_path):
    writer = EventLogWriter(str(tmp_path / "day.kvlog"))
    writer.flush()
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_could_not_be_begun_is_begun_by_the_next_frame(tmp_path, monkeypatch):
    path = tmp_path / "day.kvlog"
    writer = EventLogWriter("-", "kvlog")
    with open("/dev/full", "wb", buffering=0) as full, path.open("wb", buffering=0) as unbuffered:
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=full))
        for _ in range(2):
            with pytest.raises(OSError, match=r"No space left.*standard output"):
                writer.write(frame(0))
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=unbuffered))
        writer.write(frame(10))
        writer.close()
        monkeypatch.undo()
    assert read(path) == (list(range(10, 20)), [])


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_recording_that_could_not_be_completed_is_closed(tmp_path, ending):
    (tmp_path / f"full{ending}").symlink_to("/dev/full")
    writer = EventLogWriter(str(tmp_path / f"full{ending}"), "mooncake")
    writer.write(
        msgspec.structs.replace(frame(0, 10_000), ts=np.ones(10_000, np.int64), keys=np.arange(10_000) + 1)
    )
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    writer.close()
    assert "/dev/full" not in [
        os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
    ]


APPENDABLE = ["jsonl", "kvlog", "jsonl.gz", "kvlog.gz", "kvlog.zst"]


@pytest.mark.parametrize("ending", APPENDABLE)
def test_a_recording_that_exists_is_appended_to(tmp_path, ending):
    path = tmp_path / f"day.{ending}"
    for first in (0, 10, 20):
        write(path, first)
    assert read(path) == (list(range(30)), [])


@pytest.mark.parametrize(("ending", "clears"), [("kvlog", 0), ("jsonl", 2)])
def test_a_restart_is_a_clear_of_each_tier_in_json_lines_which_have_no_epochs(tmp_path, ending, clears):
    path = tmp_path / f"day.{ending}"
    lives = [("gpu", 7), ("cpu", 7), ("gpu", 7), ("gpu", 8), ("gpu", 8), ("gpu", 7)]
    with EventLogWriter(str(path)) as writer:
        for at, (tier, epoch) in enumerate(lives):
            writer.write(msgspec.structs.replace(frame(10 * at), tier=tier, epoch=epoch))
    reader = EventReader(str(path))
    ops = [
        (item.tier, op)
        for item in [*reader.feed(path.read_bytes()), *reader.finish()]
        for op in (Op.CLEAR if each == Op.CLEAR else Op.ALLOC for each in item.ops.tolist())
    ]
    assert sorted(tier for tier, op in ops if op == Op.CLEAR) == ["cpu", "gpu"][:clears]
    of_gpu = [op for tier, op in ops if tier == "gpu"]
    assert clears == 0 or of_gpu.index(Op.CLEAR) == 20


@pytest.mark.parametrize("ending", ["jsonl", "kvlog"])
def test_a_torn_end_costs_no_more_than_itself(tmp_path, ending):
    path = tmp_path / f"day.{ending}"
    write(path, 0)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[len(whole) // 2 : -3] if ending == "jsonl" else whole + whole[8:-3])
    write(path, 50)
    blocks, bad = read(path)
    assert [block for block in blocks if block >= 50] == list(range(50, 60))
    assert blocks[:10] == list(range(10))
    assert len(bad) in (1, 2)  # a torn line can be two pieces here: its start is missing, too


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.gz", gzip.compress(b'{"type":"alloc","block":1,"ts":5}\n' * 100, mtime=0)[:-9], "damaged"),
        ("a.wire", b"\x94\xcf", "cannot be appended to"),
        ("a.kvlog", b"something else", "something else"),
        ("a.jsonl", b"\x89PNG\r\n", "something else"),
        ("a.jsonl.gz", b"not compressed", "something else"),
    ],
    ids=["torn gzip", "a capture", "no kvlog", "a picture", "no gzip"],
)
def test_what_cannot_be_appended_to_is_refused_and_kept(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        write(path, 0)
    assert path.read_bytes() == content


def test_parts_are_numbered_after_those_that_are_there(tmp_path):
    for name in ("day-0001.kvlog", "day-0007.kvlog", "day-0009.jsonl", "today-0020.kvlog"):
        (tmp_path / name).write_bytes(b"kept")
    with RotatingWriter(str(tmp_path / "day.kvlog"), most_bytes=1) as writer:
        for first in (0, 10):
            writer.write(frame(first))
    assert [path.rpartition("/")[2] for path in writer.paths] == ["day-0008.kvlog", "day-0009.kvlog"]
    assert read(tmp_path / "day-0009.kvlog")[0] == list(range(10, 20))
    assert (tmp_path / "day-0007.kvlog").read_bytes() == b"kept"


def test_two_recordings_at_once_share_no_part(tmp_path):
    first, second = (RotatingWriter(str(tmp_path / "day.jsonl"), most_bytes=1) for _ in range(2))
    with first, second:
        for n in range(3):
            first.write(frame(10 * n))
            second.write(frame(100 + 10 * n))
    assert not set(first.paths) & set(second.paths)
    assert len(list(tmp_path.iterdir())) == 6


def test_a_part_that_cannot_be_opened_is_begun_by_a_later_frame_and_not_at_the_end(tmp_path, monkeypatch):
    def refuse(writer):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with RotatingWriter(str(tmp_path / "day.kvlog"), most_bytes=1) as writer:
        writer.write(frame(0))
        with monkeypatch.context() as patched:
            patched.setattr(EventLogWriter, "open", refuse)
            for _ in range(2):
                with pytest.raises(OSError, match="open files"):
                    writer.write(frame(10))
        assert [path.name for path in tmp_path.iterdir()] == ["day-0001.kvlog"]
        writer.write(frame(20))
    assert read(tmp_path / "day-0001.kvlog") == (list(range(10)), [])
    assert read(tmp_path / "day-0002.kvlog") == (list(range(20, 30)), [])


def test_force_replaces_a_recording(tmp_path):
    path = tmp_path / "day.jsonl"
    write(path, 0)
    with RotatingWriter(str(path), force=True) as writer:
        writer.write(frame(70))
    assert read(path) == (list(range(70, 80)), [])


@pytest.mark.parametrize("bounds", [{"keep": 2}, {"most_kept_bytes": 400}])
def test_the_oldest_parts_are_removed_and_nothing_else(tmp_path, bounds):
    for name in ("day-0001.kvlog", "day-0001.jsonl", "today-0001.kvlog", "day.kvlog", "day-1.kvlog"):
        (tmp_path / name).write_bytes(b"kept")
    with RotatingWriter(str(tmp_path / "day.kvlog"), most_bytes=1, **bounds) as writer:
        for first in range(0, 60, 10):
            writer.write(frame(first))
    left = sorted(path.name for path in tmp_path.glob("day-????.kvlog"))
    assert left[-1] == "day-0007.kvlog"
    assert writer.removed == 7 - len(left) > 0
    if "keep" in bounds:
        assert left == ["day-0006.kvlog", "day-0007.kvlog"]
    else:
        sizes = [(tmp_path / name).stat().st_size for name in left]
        assert sum(sizes) <= 400 < sum(sizes) + max(sizes)
    assert len(list(tmp_path.iterdir())) == len(left) + 4


def test_the_part_that_is_written_is_never_removed(tmp_path):
    with RotatingWriter(str(tmp_path / "day.kvlog"), most_bytes=1, most_kept_bytes=1) as writer:
        for first in (0, 10):
            writer.write(frame(first))
            writer.flush()
    (part,) = tmp_path.iterdir()
    assert read(part)[0] == list(range(10, 20))


def test_one_file_has_no_parts_to_remove(tmp_path):
    with pytest.raises(ConfigError, match="rotated"):
        RotatingWriter(str(tmp_path / "day.kvlog"), keep=2)
    assert not list(tmp_path.iterdir())
