"""Files as frames: pipes, files that grow and are rotated, inputs that hold no events."""

import json
import os
import socket
from contextlib import asynccontextmanager

import anyio
import pytest

from kvstream.errors import UnreadableInputError
from kvstream.events.types import Malformed
from kvstream.sources import files
from kvstream.sources.files import read_events
from kvstream.sources.rotation import Rotation

DEADLINE = 30


class Reader:
    """Follows a file, and keeps what it has seen of it."""

    def __init__(self, path):
        self.path, self.seen, self.malformed, self._news = path, [], [], anyio.Event()

    async def follow(self):
        async for item in read_events(str(self.path), follow=True):
            if isinstance(item, Malformed):
                self.malformed.append(item)
            else:
                self.seen += item.blocks.tolist()
            self._news.set()
            self._news = anyio.Event()

    async def until(self, condition):
        with anyio.fail_after(DEADLINE):
            while not condition():
                await self._news.wait()


class Log(Reader):
    """A log that is written line by line and followed."""

    def __init__(self, path):
        super().__init__(path)
        self.written = 0
        self.file = path.open("ab", buffering=0)

    def write(self, count=1):
        for _ in range(count):
            line = {"type": "alloc", "block": self.written, "ts": self.written + 10**18}
            self.file.write(json.dumps(line).encode() + b"\n")
            self.written += 1

    def rotate(self, name):
        """Renames the log and begins it again."""
        self.path.rename(self.path.with_name(name))
        self.file.close()
        self.file = self.path.open("ab", buffering=0)

    async def until_all_seen(self):
        await self.until(lambda: len(self.seen) >= self.written)


@asynccontextmanager
async def followed(tmp_path):
    """A log of one line that is followed."""
    log = Log(tmp_path / "e.jsonl")
    log.write()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.follow)
        await log.until_all_seen()
        yield log
        tasks.cancel_scope.cancel()
    log.file.close()


async def test_a_renamed_file_is_read_to_its_end(tmp_path):
    async with followed(tmp_path) as log:
        for number in range(3):
            log.write(50)
            log.rotate(f"e.jsonl.{number}")
            log.write()
            await log.until_all_seen()
        assert log.seen == list(range(log.written))
        assert not log.malformed


async def test_a_writer_that_learns_late_of_a_rename_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_QUIET_POLLS", 15)
    async with followed(tmp_path) as log:
        log.path.rename(f"{log.path}.1")
        log.path.touch()
        await anyio.sleep(0.25)  # the reader sees the new file, while the old one is still written
        log.write(5)
        log.file.close()
        log.file = log.path.open("ab", buffering=0)
        log.write(5)
        await log.until_all_seen()
        assert log.seen == list(range(log.written))


async def test_several_rotations_between_two_looks_lose_nothing(tmp_path):
    async with followed(tmp_path) as log:
        for number in (1, 2, 3):
            log.write(10)
            log.rotate(f"e.jsonl-2026010{number}")
        log.write(10)
        await log.until_all_seen()
        assert log.seen == list(range(log.written))


async def test_rotated_files_of_before_and_packed_ones_are_not_read_again(tmp_path):
    (tmp_path / "e.jsonl.1").write_text('{"type":"alloc","block":77,"ts":1}\n')
    async with followed(tmp_path) as log:
        (tmp_path / "e.jsonl.1").rename(tmp_path / "e.jsonl.2")
        (tmp_path / "e.jsonl.3.gz").write_bytes(b"\x1f\x8b packed")
        log.rotate("e.jsonl.1")
        log.write()
        await log.until_all_seen()
    assert log.seen == [0, 1]
    assert not log.malformed


async def test_a_file_that_is_gone_for_a_while_is_read_when_it_is_there_again(tmp_path):
    async with followed(tmp_path) as log:
        log.path.unlink()
        await anyio.sleep(0.5)
        log.file.close()
        log.file = log.path.open("ab", buffering=0)
        log.write(3)
        await log.until_all_seen()
        assert log.seen == list(range(log.written))


async def test_a_file_that_is_cut_is_read_from_its_start_and_that_is_said(tmp_path):
    async with followed(tmp_path) as log:
        log.file.truncate(0)  # opened for appending, as by a logger whose log is copied and cut
        await log.until(lambda: log.malformed)
        log.write(3)
        await log.until_all_seen()
        assert log.seen == list(range(log.written))
        (cut,) = log.malformed
        assert "cut" in cut.reason


async def test_a_file_that_is_written_anew_is_noticed_though_it_is_longer(tmp_path):
    async with followed(tmp_path) as log:
        line = b'{"type":"alloc","block":%d,"ts":1}\n'
        os.truncate(log.path, 0)
        log.file.write(b"".join(line % block for block in range(100, 110)))
        await log.until(lambda: len(log.seen) >= 11)
        assert log.seen == [0, *range(100, 110)]
        assert len(log.malformed) == 1


def test_what_cannot_be_a_rotated_file_is_not_taken_for_one(tmp_path):
    log = tmp_path / "e.jsonl"
    log.touch()
    rotation = Rotation(str(log))
    rotation.leave_out_present()
    for name in ("e.jsonl.bak", "e.jsonl~", "e.jsonl.1.gz", "other.1", "e.jsonl.1"):
        (tmp_path / name).touch()
    old = (tmp_path / "other.1").stat()
    found = rotation.between(old, log.stat())
    assert [os.path.basename(path) for path in found] == ["e.jsonl.1"]


async def read(path):
    return [item async for item in read_events(str(path))]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:5e\nsize 3\n", "git lfs pull"),
        (b"a,b,c\n1,2,3\n4,5,6\n", "CSV"),
        (b"<!doctype HTML>\n<html></html>\n", "an HTML page"),
        (b"# Title\n\nWords.\n", "Markdown"),
        (b"just\nwords\n", "text"),
        (b'{\n  "type": "alloc"\n}\n', "one JSON document"),
        (b'[{"name":1}, {"name":2}]\n', "a JSON array"),
        (b'{"type":"summary","source":"a"}\n', "results of kvstream"),
        (b'{"name":1}\n{"name":2}\n', "JSON lines of another kind"),
        ("\ufeffa,b\n".encode("utf-16-le"), "UTF-16"),
    ],
)
async def test_an_input_of_no_events_is_an_error_that_says_what_it_looks_like(tmp_path, content, says):
    path = tmp_path / "input"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        await read(path)


async def test_nearly_nothing_is_an_error_too_and_some_damage_is_none(tmp_path):
    path, event = tmp_path / "input", b'{"type":"alloc","block":1,"ts":1}\n'
    path.write_bytes(event + b"nonsense\n" * 200)
    with pytest.raises(UnreadableInputError, match="1 event in 201 pieces"):
        await read(path)
    path.write_bytes(event * 3 + b"nonsense\n" * 200)
    assert len(await read(path)) > 200
    path.write_bytes(event + b"nonsense\n" * 50)
    assert len(await read(path)) > 50


async def test_an_input_that_begins_with_nothing_but_damage_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b"nonsense\n" * 300_000)
    with pytest.raises(UnreadableInputError):
        async for item in read_events(str(path)):
            last = item
    assert last.position < 150_000


async def test_good_lines_before_much_damage_are_read(tmp_path):
    path = tmp_path / "input"
    path.write_bytes(b'{"type":"alloc","block":1,"ts":1}\n' * 300 + b"nonsense\n" * 20_000)
    items = await read(path)
    assert sum(len(item) for item in items if not isinstance(item, Malformed)) == 300
    assert sum(isinstance(item, Malformed) for item in items) == 20_000


async def test_an_empty_input_is_no_error(tmp_path, caplog):
    (tmp_path / "empty").touch()
    assert await read(tmp_path / "empty") == []
    assert "empty" in caplog.text


async def test_a_path_with_a_lone_surrogate_names_its_source_without(tmp_path):
    path = tmp_path / "engine-\udcff.jsonl"
    path.write_bytes(b'{"event_id":0,"data":{"type":"removed","block_hashes":[7]},"ts":5}\nx\n')
    bad, frame = sorted(await read(path), key=lambda item: not isinstance(item, Malformed))
    assert frame.source == r"engine-\udcff"
    assert bad.origin.encode()


async def test_a_pipe_that_is_followed_outlives_its_writers(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = Reader(path)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.follow)
            for block in (1, 2):
                async with await anyio.open_file(path, "wb") as writer:
                    await writer.write(b'{"type":"alloc","block":%d,"ts":1}\n' % block)
                await reader.until(lambda block=block: reader.seen == list(range(1, block + 1)))
            tasks.cancel_scope.cancel()


def descriptors_of(folder):
    """What is open of a folder."""
    open_files = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return [found for each in open_files if (found := os.path.realpath(each)).startswith(f"{folder}/")]


async def test_a_pipe_that_cannot_be_kept_open_is_closed(tmp_path, monkeypatch):
    path, opened = tmp_path / "pipe", os.open
    os.mkfifo(path)

    def refuse_writing(name, flags, *rest):
        if flags & os.O_WRONLY:
            raise PermissionError(13, "Permission denied", name)
        return opened(name, flags, *rest)

    monkeypatch.setattr(os, "open", refuse_writing)
    with pytest.raises(PermissionError):
        await anext(read_events(str(path), follow=True))
    assert descriptors_of(tmp_path) == []


async def test_the_error_of_a_file_that_cannot_be_opened_in_the_place_of_another_is_its_own(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "_PATIENCE_SECONDS", 0.0)
    path = tmp_path / "e.jsonl"
    path.write_text('{"type":"alloc","block":1,"ts":1}\n')
    items = read_events(str(path), follow=True)
    assert len(await anext(items)) == 1
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        with anyio.fail_after(DEADLINE), pytest.raises(OSError, match="No such device or address"):
            await anext(items)
    assert descriptors_of(tmp_path) == []


async def test_a_file_that_is_followed_no_more_is_closed_at_once(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_text('{"type":"alloc","block":1,"ts":1}\n')
    items = read_events(str(path), follow=True)
    await anext(items)
    assert descriptors_of(tmp_path) == [str(path)]
    await items.aclose()
    assert descriptors_of(tmp_path) == []
