import json
import os
from pathlib import Path

import pytest

from kvstream.errors import UndeliveredError
from kvstream.notifiers.alert_file import AlertFile
from kvstream.stream import KVStream
from kvstream.text.json import encode_json
from tests.alerting import alert


def lines(path):
    return path.read_bytes().split(b"\n")


async def test_alerts_are_appended_one_a_line(tmp_path):
    path = tmp_path / "alerts.jsonl"
    for name in ("a", "b\udcff\nc"):
        await AlertFile(path).deliver(alert(source=name))
    first, second, end = lines(path)
    assert (json.loads(first)["source"], json.loads(second)["source"]) == ("a", "b\\udcff\nc")
    assert end == b""


async def test_a_torn_line_is_ended_and_kept(tmp_path):
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(b'{"whole":1}\n{"torn":')
    file = AlertFile(path)
    assert path.read_bytes() == b'{"whole":1}\n{"torn":'
    await file.deliver(alert())
    await file.deliver(alert("resolved"))
    whole, torn, first, second, _ = lines(path)
    assert (whole, torn) == (b'{"whole":1}', b'{"torn":')
    assert [json.loads(line)["state"] for line in (first, second)] == ["firing", "resolved"]


async def test_a_disk_that_was_full_takes_the_next_alert_on_a_line_of_its_own(tmp_path, monkeypatch):
    path, room = tmp_path / "alerts.jsonl", [10]
    file = AlertFile(path)
    write = os.write

    def narrow(descriptor, data):
        if not room[0]:
            raise OSError(28, "No space left on device")
        written = write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", narrow)
    with pytest.raises(UndeliveredError, match="No space left"):
        await file.deliver(alert())
    monkeypatch.undo()
    await file.deliver(alert())
    torn, whole, _ = lines(path)
    assert len(torn) == 10
    assert json.loads(whole)["state"] == "firing"


async def test_a_file_that_may_not_be_read_is_written(tmp_path, monkeypatch):
    path, room = tmp_path / "alerts.jsonl", [10]
    path.touch(0o222)
    write = os.write

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    def narrow(descriptor, data):
        if not room:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: room.pop()])

    monkeypatch.setattr(Path, "open", refuse)  # as root may read it
    file = AlertFile(path)
    await file.deliver(alert())
    with monkeypatch.context() as patches, pytest.raises(UndeliveredError, match="No space left"):
        patches.setattr(os, "write", narrow)
        await file.deliver(alert())
    await file.deliver(alert("resolved"))
    monkeypatch.undo()
    path.chmod(0o666)
    first, torn, last, end = lines(path)
    assert [json.loads(line)["state"] for line in (first, last)] == ["firing", "resolved"]
    assert (len(torn), end) == (10, b"")


async def test_a_pipe_without_a_reader_or_room_leaves_alerts_undelivered(tmp_path):
    path = tmp_path / "alerts.fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = AlertFile(path)
    large = alert(message="x" * 10_000)  # which a pipe takes in part
    with pytest.raises(UndeliveredError):
        for _ in range(1000):
            await file.deliver(large)
    with pytest.raises(UndeliveredError):  # nothing at all of this one is taken
        await file.deliver(alert())
    *whole, cut = os.read(reader, 2**20).split(b"\n")
    assert {json.loads(line)["message"] for line in whole} == {large.message}
    assert cut
    await file.deliver(alert())
    end, after, rest = os.read(reader, 2**20).split(b"\n")
    assert (end, json.loads(after)["state"], rest) == (b"", "firing", b"")
    os.close(reader)
    with pytest.raises(UndeliveredError):
        await file.deliver(alert())


async def test_a_full_device_leaves_alerts_undelivered():
    with pytest.raises(UndeliveredError, match="No space left"):
        await AlertFile(Path("/dev/full")).deliver(alert())


def test_a_file_that_cannot_be_written_is_refused_when_it_becomes_a_handler(tmp_path):
    stream = KVStream()
    file = AlertFile(tmp_path)
    with pytest.raises(OSError, match="directory"):
        stream.on_alert(file)
    assert not stream.statistics().subscribers
    stream.on_alert(AlertFile(tmp_path / "alerts.jsonl"))
    assert (tmp_path / "alerts.jsonl").read_bytes() == b""


async def test_a_file_that_would_grow_too_large_is_put_aside_and_few_of_before_are_kept(tmp_path):
    path = tmp_path / "alerts.jsonl"
    size = len(encode_json(alert(source="0"))) + 1
    file = AlertFile(path, most_bytes=2 * size, keep=2)
    for number in range(8):
        await file.deliver(alert(source=str(number)))
    kept = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    found = {name: [json.loads(line)["source"] for line in text.splitlines()] for name, text in kept.items()}
    assert found == {
        "alerts.jsonl": ["6", "7"],
        "alerts.jsonl.1": ["4", "5"],
        "alerts.jsonl.2": ["2", "3"],
    }


async def test_one_alert_larger_than_the_bound_is_written_all_the_same(tmp_path):
    path = tmp_path / "alerts.jsonl"
    file = AlertFile(path, most_bytes=1)
    for _ in range(2):
        await file.deliver(alert())
    assert len(list(tmp_path.iterdir())) == 2
