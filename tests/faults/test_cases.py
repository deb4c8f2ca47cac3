"""Small programs that once went wrong, each ending with status 0 where it goes right."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import DEADLINE

CASES = Path(__file__).parent / "cases"
KVSTREAM = Path(sys.executable).parent / "kvstream"
# They wait for some seconds, run many commands or unpack much.
SLOW = {"follow_rename", "record_twice", "webhook_down", "zstd_bomb"}
NAMES = sorted(path.stem for path in CASES.glob("*.py"))
ENV = {**os.environ, "TERM": "xterm-256color"}

pytestmark = pytest.mark.skipif(not KVSTREAM.exists(), reason="needs the kvstream command beside Python")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES]
)
def test_case_goes_right(name, tmp_path):
    # In a process group of its own, so that nothing it starts outlives a case that hangs.
    process = subprocess.Popen(
        [sys.executable, CASES / f"{name}.py", KVSTREAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**ENV, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=DEADLINE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said.decode(errors="replace")[-2000:]
