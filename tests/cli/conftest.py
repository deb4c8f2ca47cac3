"""Runs the real command in a process of its own."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import DEADLINE

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "examples" / "data"
COMMAND = [sys.executable, "-m", "kvstream"]
CHAT, SCAN, INCIDENT = (DATA / f"{name}.kvlog.gz" for name in ("chat", "scan", "incident"))


@contextmanager
def running(*args, **pipes):
    """The command while it runs; killed if the test ends before it."""
    # Unbuffered, so that select() sees every line that has not been read.
    process = subprocess.Popen([*COMMAND, *map(str, args)], stdout=subprocess.PIPE, bufsize=0, **pipes)
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


class Ran:
    """What a finished command printed, and its exit code."""

    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def results(self):
        return [json.loads(line) for line in self.out.splitlines()]

    def of_type(self, kind):
        return [result for result in self.results if result["type"] == kind]


@pytest.fixture
def kvstream():
    def run(*args, stdin=b"", env=None):
        done = subprocess.run(
            [*COMMAND, *map(str, args)],
            input=stdin,
            capture_output=True,
            timeout=DEADLINE,
            env={**os.environ, **(env or {})},
        )
        done.stdout = done.stdout.decode(errors="replace")
        done.stderr = done.stderr.decode(errors="replace")
        return Ran(done)

    return run
