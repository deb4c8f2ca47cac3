"""The reader of KV events with all its checks: bounds of arrays, addresses and undefined behaviour."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import kvstream._core
from tests.test_recorder_sanitized import ROOT, library, run
from tests.waiting import DEADLINE

SOURCE = Path(kvstream._core.__file__).parent / "kv_events.py"
UNCHECKED = "boundscheck=False, wraparound=False, initializedcheck=False"
CHECKED = "boundscheck=True, wraparound=False, initializedcheck=True"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(
        library("libasan.so") is None
        or library("libubsan.so") is None
        or importlib.util.find_spec("Cython") is None
        or not Path(sysconfig.get_path("include"), "Python.h").exists(),
        reason="needs Cython, gcc with its sanitizers, and Python's headers",
    ),
]
