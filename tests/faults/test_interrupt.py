"""Ctrl-C while the command line loads its packages, and while other programs load the library."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CHAT
from tests.waiting import DEADLINE

ROOT = Path(__file__).parents[2]


STAND_IN = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt as error:  # some packages make another error of it
    raise RuntimeError("import") from error
"""


def interrupted(command, folder, module):
    """Run Python with a SIGINT in the middle of the import of a module."""
    (folder / f"{module}.py").write_text(STAND_IN)
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.parametrize("module", ["numpy", "typer", "pyarrow", "zmq"])
def test_it_ends_the_command_quietly(tmp_path, module):
    arguments = {"pyarrow": ["report", CHAT, "--evictions", "x.parquet"], "zmq": ["run", "zmq://127.0.0.1:1"]}
    ran = interrupted(["-m", "kvstream", *arguments.get(module, ["run", CHAT])], tmp_path, module)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, b"", b"")


def test_it_ends_the_installed_command_quietly(tmp_path):
    script = tmp_path / "kvstream"  # as an installer writes it
    script.write_text("import sys\nfrom kvstream.__main__ import main\nsys.exit(main())\n")
    ran = interrupted([script, "run", CHAT], tmp_path, "numpy")
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, b"", b"")


@pytest.mark.parametrize("argument", ["kvstream", "run"])
def test_programs_that_load_the_library_are_interrupted_as_ever(tmp_path, argument):
    ran = interrupted(["-c", "import kvstream", argument], tmp_path, "numpy")
    assert b"KeyboardInterrupt" in ran.stderr
    code = "import signal, kvstream; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    (tmp_path / "numpy.py").unlink()
    (tmp_path / "kvstream").write_text(code)
    ran = interrupted([tmp_path / "kvstream"], tmp_path, "not_imported")
    assert ran.stdout == b"True\n"
