"""A module of the core built with checked indices and the sanitizers, and programs that run with it.

The address and the undefined-behaviour sanitizer of gcc end a process at the first thing that they forbid,
and so does an index out of bounds.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.waiting import DEADLINE

ROOT = Path(__file__).parents[1]
UNCHECKED = "boundscheck=False, wraparound=False, initializedcheck=False"
CHECKED = "boundscheck=True, wraparound=False, initializedcheck=True"
# The checked module is found in place of the one that is installed. What a function without exceptions
# prints, such as an index out of bounds, ends the process.
PROGRAM = """
import importlib.util, os, runpy, sys, traceback

NAME, PATH = sys.argv[1:3]

class Finder:
    def find_spec(name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, PATH) if name == NAME else None

def fail(unraisable):
    traceback.print_exception(unraisable.exc_value)
    os._exit(1)

sys.meta_path.insert(0, Finder)
sys.unraisablehook = fail
sys.argv[:] = sys.argv[3:]
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


MARKS = [
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


def build(name, folder, right="", wrong=""):
    """Build a module with checks and sanitizers; return its path.

    Args:
        name: Of the module in ``kvstream._core``.
        folder: Where to.
        right: A piece of its source, which is there once, that is changed.
        wrong: What the piece is changed to.
    """
    core = ROOT / "kvstream" / "_core"
    package = folder / "kvstream" / "_core"
    package.mkdir(parents=True)
    for empty in (folder / "kvstream", package):
        (empty / "__init__.py").touch()
    for declarations in core.glob("*.pxd"):
        shutil.copy(declarations, package)
    source = (core / f"{name}.py").read_text()
    assert not right or source.count(right) == 1
    assert UNCHECKED in source
    # A check for None needs the GIL; without one the address sanitizer finds what it would.
    checked = CHECKED if "cython.nogil" in source else f"{CHECKED}, nonecheck=True"
    source = source.replace(UNCHECKED, checked, 1).replace(right, wrong, 1)
    (package / f"{name}.py").write_text(source)
    cythonize = [sys.executable, "-m", "cython", "-3", "-X", "show_performance_hints=False"]
    subprocess.run([*cythonize, f"kvstream/_core/{name}.py", "-o", f"{name}.c"], cwd=folder, check=True)
    made = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(
        [
            *("gcc", "-shared", "-fPIC", "-O1", "-g1", "-fno-omit-frame-pointer"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
            *(f"-I{sysconfig.get_path('include')}", str(folder / f"{name}.c"), "-o", str(made)),
        ],
        check=True,
    )
    return made


def build_once(name, tmp_path_factory):
    """Build a module for all workers that run tests of it; return its path."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of this run
    folder /= f"checked_{name}"
    made = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return made if made.exists() else build(name, folder)


def run(made, *arguments, **environment):
    """Run a module of Python with the one that ``build`` made; return the process, which is over.

    Args:
        made: Path of what was built.
        *arguments: The module to run, and its arguments.
        **environment: Variables that it has besides.
    """
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, f"kvstream._core.{made.name.split('.')[0]}", str(made), *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",  # first, as they must be
            "PYTHONMALLOC": "malloc",  # so that every object is a block of its own
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE,
    )


def run_tests(made, *arguments, **environment):
    """Run tests with the module that ``build`` made, all of a file unless the arguments say otherwise."""
    return run(made, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments, **environment)


def assert_clean(done):
    """Check that a process found nothing wrong."""
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "ERROR: AddressSanitizer" not in done.stderr
    assert "runtime error" not in done.stderr
