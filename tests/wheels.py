"""Modules of other projects' wheels, run as they are, for tests that are slow and need what no extra names.

``pip download --no-deps vllm==0.33.0 sglang==0.5.23 aiperf==0.13.0 lmcache==0.5.6 ai-dynamo-runtime==1.6.1 -d
FOLDER``, then ``KVSTREAM_TEST_WHEELS=FOLDER``. What a module imports and a test does not use is stood in for.
"""

import os
import sys
import types
import zipfile
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

FOLDER = os.environ.get("KVSTREAM_TEST_WHEELS")


class Wheel:
    """A wheel's modules, by their names; a package that is not asked for is an empty one."""

    def __init__(self, name, monkeypatch):
        found = sorted(Path(FOLDER or ".").glob(f"{name}-*.whl"))
        if FOLDER is None or not found:
            pytest.skip(f"needs KVSTREAM_TEST_WHEELS=FOLDER with a wheel of {name}")
        self._files, self._patch = zipfile.ZipFile(found[-1]), monkeypatch

    def stand_in(self, name, **attributes):
        """Put a module in place, and packages around it."""
        *packages, _ = name.split(".")
        for n in range(1, len(packages) + 1):
            if (package := ".".join(packages[:n])) not in sys.modules:
                self._put(package, types.ModuleType(package)).__path__ = []
        self._put(name, types.ModuleType(name)).__dict__.update(attributes)

    def load(self, name):
        """Run a module of the wheel."""
        self.stand_in(name)
        source = self._files.read(name.replace(".", "/") + ".py")
        exec(compile(source, name, "exec"), sys.modules[name].__dict__)
        return sys.modules[name]

    def load_extension(self, name, file, folder):
        """Load a compiled module of the wheel from a folder that it is unpacked to."""
        loader = ExtensionFileLoader(name, self._files.extract(file, folder))
        module = module_from_spec(spec_from_loader(name, loader))
        loader.exec_module(module)
        return module

    def _put(self, name, module):
        self._patch.setitem(sys.modules, name, module)
        return module
