"""The compiled core as it is where there is no C compiler: the same files, interpreted."""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from unittest import mock

import pytest

import kvstream
from kvstream._core.build import COMPILED

needs_compiled = pytest.mark.skipif(not COMPILED, reason="takes minutes with an interpreted core")
"""For tests of many events, for which only a compiled core is fast enough."""


def interpreted(name, **replaced):
    """Load the source of a module beside the one that is installed, where Cython is not.

    Args:
        name: Of the module, such as ``kvstream._core.recorder``.
        **replaced: What it imports instead of modules of the same last name, such as ``recorder=…``.
    """
    source = Path(kvstream.__file__).parent.parent / f"{name.replace('.', '/')}.py"
    spec = spec_from_file_location(f"{name}_interpreted", source)
    module = module_from_spec(spec)
    instead = {"cython": None, **{f"kvstream._core.{last}": other for last, other in replaced.items()}}
    assert all(find_spec(other) for other in instead if other != "cython")
    with mock.patch.dict(sys.modules, instead):
        spec.loader.exec_module(module)
    return module
