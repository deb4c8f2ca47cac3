import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import kvstream

NOT_READ = ("kvstream.__main__",)
MODULES = [m.name for m in pkgutil.walk_packages(kvstream.__path__, "kvstream.") if m.name not in NOT_READ]
ORDER = [
    "errors",
    "text",
    "faults",
    "subscriptions",
    "config",
    "events",
    "_core",
    "blocks",
    "metrics",
    "alerts",
    "engine",
    "recording",
    "consumer",
    "stream",
    "collector",
    "transport",
    "exporters",
    "sources",
    "sinks",
    "notifiers",
    "reports",
    "web",
    "integrations",
    "schemas",
    "testing",
    "bench",
    "cli",
]


def test_names_of_the_original_module_are_exported():
    for name in (
        "MetricType",
        "AlertLevel",
        "MetricsConfig",
        "BlockMetricsState",
        "KVCacheEvictionEvent",
        "CacheAlert",
        "CacheMetricsSummary",
        "KVCacheMetricsCollector",
        "BatchMetricsCollector",
        "create_metrics_collector",
    ):
        assert hasattr(kvstream, name)


def test_every_public_name_exists_and_is_documented():
    for name in kvstream.__all__:
        assert getattr(kvstream, name).__doc__, name


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_upstream(name):
    path = Path(importlib.import_module(name).__file__)
    path = path.with_name(f"{path.name.partition('.')[0]}.py")  # a compiled module's source is beside it
    mine = name.split(".")[1]
    for imported in re.findall(r"^\s*(?:from|import) kvstream\.(\w+)", path.read_text(), re.M):
        assert ORDER.index(imported) <= ORDER.index(mine), f"{name} imports {imported}"


def test_core_does_not_import_asyncio():
    for path in Path(kvstream.__path__[0]).rglob("*.py"):
        assert not re.search(r"^\s*(import|from) asyncio", path.read_text(), re.M), path
