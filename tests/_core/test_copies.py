"""Objects of the compiled core cannot be copied: a copy would point to memory of another one."""

import copy
import importlib
import pickle

import pytest

MODULES = ("buckets", "columns", "kv_events", "recorder", "reuse", "table")
CLASSES = [
    cls
    for name in MODULES
    for cls in vars(importlib.import_module(f"kvstream._core.{name}")).values()
    if isinstance(cls, type) and cls.__module__ == f"kvstream._core.{name}" and not cls.__flags__ & 2**9
]


@pytest.mark.skipif(not CLASSES, reason="interpreted, the core is of Python's own classes")
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda make: make.__name__)
def test_no_object_of_the_core_can_be_copied_or_pickled(cls, make):
    with pytest.raises(TypeError):
        make(cls.__new__(cls))
