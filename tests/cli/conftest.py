"""Runs the real command in a process of its own."""

import json
import os
import pty
import sys
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from kvstream.sources.inputs import Input
from tests.forked import PIPE, Kvstream
from tests.terminals import shown_until_closed
from tests.waiting import DEADLINE as DEADLINE

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "examples" / "data"
COMMAND = [sys.executable, "-m", "kvstream"]
CHAT, SCAN, INCIDENT = (DATA / f"{name}.kvlog.gz" for name in ("chat", "scan", "incident"))


CAPACITY = 20
"""Blocks, with which the cache of ``troubles`` is full."""


@pytest.fixture
def troubles(tmp_path):
    """A short recording of two engines: the cache of one is full for 40 s, the other falls silent."""

    def event(kind, block, second, source):
        return json.dumps({"type": kind, "block": block, "ts": (10**6 + second) * 10**9, "source": source})

    lines = [event("alloc", block, 0, "full") for block in range(CAPACITY)]
    for second in range(1, 120):
        lines.append(event("access", 1, second, "full"))
        if second < 60:
            lines.append(event("access", 1, second, "silent"))
        if second == 40:
            lines += [event("evict", block, 40, "full") for block in range(2, CAPACITY)]
    path = tmp_path / "troubles.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def closed_by_reader(monkeypatch):
    """Lists whether each input was closed by the task that read it, not at the end of the event loop."""
    found, read = [], Input.read

    async def watched(self, *args):
        reader = anyio.get_current_task()
        try:
            async for item in read(self, *args):
                yield item
        finally:
            found.append(anyio.get_current_task() == reader)

    monkeypatch.setattr(Input, "read", watched)
    return found


@contextmanager
def running(*args, **pipes):
    """The command while it runs; killed if the test ends before it."""
    with Kvstream(args, **{"stdout": PIPE, **pipes}) as process:
        yield process


def shown_on_terminal(*args, code=0, **variables):
    """What the command shows on a terminal of 120 columns.

    Args:
        args: The command line.
        code: The exit code that it must have.
        variables: Of the environment, which has no ``NO_COLOR`` otherwise.
    """
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    env.pop("NO_COLOR", None)
    parent, child = pty.openpty()
    with running(*args, stdout=child, stderr=child, env=env | variables) as process:
        os.close(child)
        shown = shown_until_closed(parent)
        assert process.wait(DEADLINE) == code
    return shown.decode()


class Ran:
    """What a finished command printed, and its exit code."""

    def __init__(self, code, out, err):
        self.code = code
        self.out, self.err = (text.decode(errors="replace") for text in (out, err))

    @property
    def results(self):
        return [json.loads(line) for line in self.out.splitlines()]

    def of_type(self, kind):
        return [result for result in self.results if result["type"] == kind]


@pytest.fixture
def kvstream():
    def run(*args, stdin=b"", env=None, without=None):
        pipes = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
        with Kvstream(args, **pipes, env={**os.environ, **(env or {})}, without=without) as process:
            out, err = process.communicate(stdin)
        return Ran(process.returncode, out, err)

    return run
