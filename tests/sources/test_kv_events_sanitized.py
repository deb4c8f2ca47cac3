"""The reader of KV events, with checked indices, under the address and undefined-behaviour sanitizers."""

import os
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.test_recorder_sanitized import library
from tests.waiting import DEADLINE

ROOT = Path(__file__).parents[2]
UNCHECKED = "boundscheck=False, wraparound=False, initializedcheck=False"
CHECKED = "boundscheck=True, wraparound=False, initializedcheck=True, nonecheck=True"
# The checked module is found in place of the one that is installed. What a function without exceptions
# prints, such as an index out of bounds, ends the process.
PROGRAM = """
import importlib.util, os, runpy, sys, traceback

NAME, PATH = "kvstream._core.kv_events", sys.argv[1]

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
    assert sys.modules[NAME].COMPILED
"""

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


def build(folder, right="", wrong=""):
    """Build the reader with checks and sanitizers, a piece of it changed; return its path."""
    source = (ROOT / "kvstream" / "_core" / "kv_events.py").read_text()
    for before, after in ((UNCHECKED, CHECKED), (right, wrong)):
        assert before in source
        source = source.replace(before, after, 1)
    (folder / "kv_events.py").write_text(source)
    subprocess.run([sys.executable, "-m", "cython", "-3", "kv_events.py"], cwd=folder, check=True)
    made = folder / f"kv_events{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(
        [
            *("gcc", "-shared", "-fPIC", "-O1", "-g1", "-fno-omit-frame-pointer"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *(f"-I{sysconfig.get_path('include')}", str(folder / "kv_events.c"), "-o", str(made)),
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
            "PYTHONMALLOC": "malloc",  # so that every payload is a block of its own
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE,
    )


def test_the_tests_do_nothing_that_the_sanitizers_forbid(built):
    tests = "tests/sources/test_kv_events.py"
    done = run(
        built, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "not interpreted", tests
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_payloads_do_nothing_that_the_sanitizers_forbid(built, seed):
    done = run(built, "tests.sources.fuzz_wire", "200000", str(seed))
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "mutants 200,000" in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        # Rows written where there is no room, and a string that is compared beyond the end of the payload.
        (
            "self.count + rows > self.room",
            "self.count + rows > self.room + 1",
            "Out of bounds on buffer access",
        ),
        (
            "if at >= end:\n                    raise _torn()",
            "if at >= end + 64:\n                    raise _torn()",
            "heap-buffer-overflow",
        ),
    ],
    ids=["columns", "payload"],
)
def test_a_wrong_bound_would_be_found(tmp_path, right, wrong, found):
    done = run(build(tmp_path, right, wrong), "tests.sources.fuzz_wire", "200000")
    assert done.returncode != 0
    assert found in done.stdout + done.stderr
