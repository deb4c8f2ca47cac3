"""The compiled recorder, with checked indices, under the address and undefined-behaviour sanitizers."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.waiting import DEADLINE

ROOT = Path(__file__).parent.parent
UNCHECKED = "boundscheck=False, wraparound=False, initializedcheck=False"
CHECKED = "boundscheck=True, wraparound=False, initializedcheck=True, nonecheck=True"
# The checked module is found in place of the one that is installed. What a function without exceptions
# prints, such as an index out of bounds, ends the process.
PROGRAM = """
import importlib.util, os, runpy, sys, traceback

NAME, PATH = "kvstream._core.recorder", sys.argv[1]

class Finder:
    def find_spec(name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, PATH) if name == NAME else None

def fail(unraisable):
    traceback.print_exception(unraisable.exc_value)
    os._exit(1)

sys.meta_path.insert(0, Finder)
sys.unraisablehook = fail
sys.argv[:] = sys.argv[2:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    assert sys.modules[NAME].__file__ == PATH
"""


def library(name):
    """Path of a sanitizer's library of the C compiler; None if it has none."""
    if shutil.which("gcc") is None:
        return None
    path = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return Path(path).resolve() if os.path.isabs(path) else None


def build(folder, right="", wrong=""):
    """Build the recorder with checks and sanitizers, a piece of it changed; return its path."""
    package = folder / "kvstream" / "_core"
    package.mkdir(parents=True)
    for name in ("__init__.py", "block_number.pxd"):
        shutil.copy(ROOT / "kvstream" / "_core" / name, package)
    (folder / "kvstream" / "__init__.py").touch()
    source = (ROOT / "kvstream" / "_core" / "recorder.py").read_text()
    for before, after in ((UNCHECKED, CHECKED), (right, wrong)):
        assert before in source
        source = source.replace(before, after, 1)
    (package / "recorder.py").write_text(source)
    subprocess.run(
        [sys.executable, "-m", "cython", "-3", "kvstream/_core/recorder.py", "-o", "recorder.c"],
        cwd=folder,
        check=True,
    )
    made = folder / f"recorder{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(
        [
            *("gcc", "-shared", "-fPIC", "-O1", "-g1", "-fno-omit-frame-pointer"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *(f"-I{sysconfig.get_path('include')}", str(folder / "recorder.c"), "-o", str(made)),
        ],
        check=True,
    )
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("checked"))


def run(module, *arguments):
    """Run tests or the fuzzer in a process that has the sanitizers loaded first, as they must be."""
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


def assert_clean(done):
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "ERROR: AddressSanitizer" not in done.stderr
    assert "runtime error" not in done.stderr


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(
        library("libasan.so") is None
        or library("libubsan.so") is None
        or not Path(sysconfig.get_path("include"), "Python.h").exists()
        or find_spec("Cython") is None,
        reason="needs gcc with its sanitizers, Python's headers and Cython",
    ),
]


@pytest.mark.parametrize("tests", ["tests/recording/test_recorder.py", "tests/test_collector.py"])
def test_the_recorder_does_nothing_that_the_sanitizers_forbid(built, tests):
    assert_clean(run(built, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "", tests))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_million_random_calls_do_nothing_that_the_sanitizers_forbid(built, seed):
    done = run(built, "tests.fuzz_recorder", "500000", str(seed))
    assert_clean(done)
    assert "500,000 calls" in done.stdout


def test_an_index_out_of_bounds_would_be_found(tmp_path):
    room = "self._columns.n + more > self._columns.room"
    done = run(build(tmp_path, room, room.replace("more", "more - 1")), "tests.fuzz_recorder", "100000")
    assert done.returncode != 0
    assert "Out of bounds on buffer access" in done.stdout + done.stderr


def test_the_sanitizers_are_at_work(tmp_path):
    source = tmp_path / "wrong.c"
    source.write_text(
        "#include <stdlib.h>\nint main(int n, char **v) { char *p = malloc(4); free(p); return p[n]; }\n"
    )
    subprocess.run(["gcc", "-fsanitize=address", str(source), "-o", str(tmp_path / "wrong")], check=True)
    done = subprocess.run([tmp_path / "wrong"], capture_output=True, text=True)
    assert "heap-use-after-free" in done.stderr
