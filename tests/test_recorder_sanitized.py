"""The compiled recorder under the address and undefined-behaviour sanitizers."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.waiting import DEADLINE

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "kvstream" / "recorder_compiled.c"
# In place of the one that is installed, before anything of kvstream asks for it.
PROGRAM = """
import importlib.util, sys
name = "kvstream.recorder_compiled"
spec = importlib.util.spec_from_file_location(name, sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
import pytest
status = pytest.main(sys.argv[2:])
assert sys.modules[name] is module
sys.exit(status)
"""


def library(name):
    """Path of a sanitizer's library of the C compiler; None if it has none."""
    if shutil.which("gcc") is None:
        return None
    path = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return Path(path).resolve() if os.path.isabs(path) else None


def built(folder):
    """Build the recorder with the sanitizers and return its path."""
    made = folder / f"recorder_compiled{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(
        [
            *(
                "gcc",
                "-shared",
                "-fPIC",
                "-O1",
                "-g",
                "-fno-omit-frame-pointer",
                "-Wall",
                "-Wextra",
                "-Werror",
            ),
            *("-Wno-cast-function-type", "-Wno-missing-field-initializers", "-Wno-unused-parameter"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *(f"-I{sysconfig.get_path('include')}", str(SOURCE), "-o", str(made)),
        ],
        check=True,
    )
    return made


def run(module, *arguments):
    """Run tests in a process that has the sanitizers loaded first, as they must be."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(module), *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
            "PYTHONMALLOC": "malloc",  # so that every object is a block of its own
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE,
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(
        library("libasan.so") is None
        or library("libubsan.so") is None
        or not Path(sysconfig.get_path("include"), "Python.h").exists(),
        reason="needs gcc with its sanitizers, and Python's headers",
    ),
]


def test_the_recorder_does_nothing_that_the_sanitizers_forbid(tmp_path):
    # What counts references compares with what the interpreter's own allocator does.
    done = run(
        built(tmp_path),
        *("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "", "tests/test_recorder.py"),
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "ERROR: AddressSanitizer" not in done.stderr
    assert "runtime error" not in done.stderr


def test_the_sanitizers_are_at_work(tmp_path):
    source = tmp_path / "wrong.c"
    source.write_text(
        "#include <stdlib.h>\nint main(int n, char **v) { char *p = malloc(4); free(p); return p[n]; }\n"
    )
    subprocess.run(["gcc", "-fsanitize=address", str(source), "-o", str(tmp_path / "wrong")], check=True)
    done = subprocess.run([tmp_path / "wrong"], capture_output=True, text=True)
    assert "heap-use-after-free" in done.stderr
