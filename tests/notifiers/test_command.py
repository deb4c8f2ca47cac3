"""Commands as alert handlers: real processes."""

import json
import os
import signal
import sys

import anyio
import pytest

from kvstream.errors import ConfigError, KVStreamError
from kvstream.notifiers.command import Command
from kvstream.stream import KVStream
from tests.alerting import alert
from tests.waiting import DEADLINE, until

NAMELESS = "a\udcffb"

# Writes the ids of itself and of a child that ignores SIGTERM, and waits, deaf to SIGTERM itself.
DEAF = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    open(sys.argv[1] + ".new", "w").write(f"{os.getpid()} {child}")
    os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


def python(script, *arguments):
    return " ".join([sys.executable, "-c", json.dumps(script).replace("\\n", "\n"), *arguments])


def is_running(pid):
    """Whether a process is there and is not just waiting to be reaped."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_command_gets_the_alert_as_json(tmp_path):
    script = f"import sys; open({str(tmp_path / 'delivered')!r}, 'w').write(sys.stdin.read())"
    for one in (alert(), alert(source=NAMELESS)):
        await Command(f"{sys.executable} -c {json.dumps(script)}")(one)
        read = json.loads((tmp_path / "delivered").read_text())
        assert read["source"] == one.source.encode("utf-8", "backslashreplace").decode()
        assert read["message"] == one.message


@pytest.mark.parametrize(
    ("code", "says"), [("sys.exit('no such pager')", "no such pager"), ("input(); input()", "ended with 1")]
)
async def test_a_command_that_fails_says_why(code, says):
    with pytest.raises(KVStreamError, match=says):
        await Command(f'{sys.executable} -c "import sys; {code}"')(alert())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("by", ["timeout", "cancellation"])
def test_a_command_that_goes_on_is_ended_with_all_that_it_started(tmp_path, backend, by):
    file = tmp_path / "pids"
    command = Command(python(DEAF, str(file)), timeout=2.0 if by == "timeout" else 600)

    async def main():
        with anyio.fail_after(DEADLINE):
            if by == "timeout":
                with pytest.raises(KVStreamError, match="longer than"):
                    await command(alert())
                return
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(command, alert())
                await until(file.exists)
                tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    if by == "cancellation" or file.exists():  # on a machine at its limits it may not have come so far
        for pid in map(int, file.read_text().split()):
            anyio.run(until, lambda pid=pid: not is_running(pid))


async def test_a_command_that_heeds_sigterm_is_not_killed(tmp_path):
    file, begun = tmp_path / "ended", tmp_path / "begun"
    script = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n    pathlib.Path(sys.argv[1]).touch()\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\npathlib.Path(sys.argv[2]).touch()\ntime.sleep(600)\n"
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Command(python(script, str(file), str(begun))), alert())
        await until(begun.exists)
        tasks.cancel_scope.cancel()
    assert file.exists()


async def test_what_a_command_leaves_behind_does_not_hold_the_next_up(tmp_path):
    file = tmp_path / "pid"
    script = (
        "import os, sys, time\nchild = os.fork()\n"
        "if child == 0: time.sleep(600)\n"
        "open(sys.argv[1], 'w').write(str(child))\nprint('cannot', file=sys.stderr)\nsys.exit(3)\n"
    )
    try:
        with anyio.fail_after(DEADLINE), pytest.raises(KVStreamError, match="ended with 3: cannot"):
            await Command(python(script, str(file)), timeout=DEADLINE * 2)(alert())
    finally:
        os.kill(int(file.read_text()), signal.SIGKILL)


async def test_only_the_end_of_what_a_command_prints_is_kept():
    script = "import sys\nfor _ in range(400): sys.stderr.write('x' * 100_000)\nsys.exit('the end')"
    with anyio.fail_after(DEADLINE), pytest.raises(KVStreamError, match="the end") as caught:
        await Command(python(script))(alert())
    assert len(str(caught.value)) < 700


async def test_no_descriptor_is_left_open(tmp_path):
    command = Command("true")
    await command(alert())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await command(alert())
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_cannot_be_run_is_refused_with_what_to_do(tmp_path):
    script = tmp_path / "page.sh"
    script.write_text("#!/bin/sh\n")
    for command, says in (
        ("", "empty"),
        ("'", "no command"),
        ("no-such-pager --now", "'no-such-pager' in PATH"),
        (f"{tmp_path}/none.sh", "no such file"),
        (str(script), "chmod"),
        (str(tmp_path), "directory"),
    ):
        with pytest.raises(ConfigError, match=says):
            KVStream().on_alert(Command(command))
    script.chmod(0o700)
    assert Command(f"{script} --team x").destination == f"command {script}"
