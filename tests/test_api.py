import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import msgspec

import kvstream
from tests.waiting import DEADLINE

ROOT = Path(__file__).parents[1]
PUBLIC = [
    "kvstream",
    "kvstream.exporters.prometheus",
    "kvstream.integrations.trtllm",
    "kvstream.notifiers.alert_file",
    "kvstream.notifiers.alertmanager",
    "kvstream.notifiers.apprise",
    "kvstream.notifiers.command",
    "kvstream.notifiers.webhook",
    "kvstream.sinks.event_log",
    "kvstream.sources.files",
    "kvstream.testing",
    "kvstream.transport.endpoint",
    "kvstream.transport.server",
    "kvstream.web",
]

NOT_READ = ("kvstream.__main__",)
MODULES = [m.name for m in pkgutil.walk_packages(kvstream.__path__, "kvstream.") if m.name not in NOT_READ]
ORDER = [
    "version",
    "errors",
    "text",
    "faults",
    "subscriptions",
    "config",
    "settings",
    "events",
    "_core",
    "blocks",
    "metrics",
    "alerts",
    "engine",
    "state",
    "recording",
    "streaming",
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
    "fleet",
    "schemas",
    "testing",
    "bench",
    "cli",
]

HEAVY = {
    *("asyncio", "difflib", "hashlib", "hmac", "html", "http", "importlib.resources", "ipaddress"),
    *("pathlib", "queue", "secrets", "selectors", "shutil", "signal", "socket", "ssl", "subprocess"),
    *("tempfile", "tomllib", "urllib"),
    *("anyio.abc._sockets", "anyio.streams", "anyio._core._synchronization"),
    *("kvstream.cli", "kvstream.exporters", "kvstream.fleet", "kvstream.integrations", "kvstream.notifiers"),
    *("kvstream.reports", "kvstream.sinks", "kvstream.sources", "kvstream.state.keeper", "kvstream.web"),
    *("kvstream.transport.endpoint", "kvstream.transport.sender"),
}
"""What most programs that import kvstream have no use for, or load later for what they do."""


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


def public_names():
    """Yield each public thing with the module and the name that it has there."""
    for module in map(importlib.import_module, PUBLIC):
        for name in module.__all__:
            yield module.__name__, name, getattr(module, name)


def classes_in(annotation):
    """The classes that an annotation is made of."""
    parts = [
        part for each in typing.get_args(annotation) for part in (each if isinstance(each, list) else [each])
    ]
    if parts:
        return {found for part in parts for found in classes_in(part)} | {typing.get_origin(annotation)}
    return {annotation} if isinstance(annotation, type) else set()


def annotations_of(public):
    """The annotations of a function; of a class, those of its fields and of its public methods."""
    if inspect.isfunction(public):
        return [inspect.get_annotations(public, eval_str=public.__module__ != "kvstream.web")]
    if not inspect.isclass(public):
        return []
    members = [member for name, member in inspect.getmembers(public) if name[0] != "_"]
    functions = [getattr(member, "fget", None) or getattr(member, "__func__", member) for member in members]
    return [
        typing.get_type_hints(public) if issubclass(public, (msgspec.Struct, tuple)) else {},
        *(typing.get_type_hints(function) for function in functions if inspect.isfunction(function)),
    ]


def test_every_public_name_exists_and_is_documented():
    assert [(module, name) for module, name, found in public_names() if not found.__doc__] == []


def test_public_calls_and_fields_are_of_public_types():
    public = {id(found) for _, _, found in public_names()}
    internal = [
        (module, name, place, each)
        for module, name, found in public_names()
        for annotations in annotations_of(found)
        for place, annotation in annotations.items()
        for each in classes_in(annotation)
        if id(each) not in public and each.__module__.startswith("kvstream")
    ]
    assert internal == []


def test_modules_without_a_list_of_names_are_internal():
    listed = {name for name in MODULES if hasattr(importlib.import_module(name), "__all__")}
    assert listed == set(PUBLIC) - {"kvstream"}


def test_every_public_name_stands_in_the_docs():
    sections = re.split(r"^## `([\w.]+)`$", (ROOT / "docs" / "api.md").read_text(), flags=re.M)
    documented = {
        module: re.findall(r"^\| `(\w+)` \|", text, re.M)
        for module, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    assert documented == {module: sorted(importlib.import_module(module).__all__) for module in PUBLIC}


def test_the_docs_describe_a_public_name_as_its_docstring_does():
    module, wrong = None, []
    for line in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"## `([\w.]+)`", line):
            module = importlib.import_module(heading[1])
        elif (row := re.fullmatch(r"\| `(\w+)` \| (.+) \|", line)) and row[1] != "__version__":
            summary, *_ = inspect.getdoc(getattr(module, row[1])).split("\n\n")
            if row[2] != summary.replace("\n", " ").replace("``", "`"):
                wrong.append(line)
    assert wrong == []


def test_what_is_shown_to_users_is_public():
    shown = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]
    internal = [
        (path.name, module, name)
        for path in shown
        for module, names in re.findall(r"^\s*from (kvstream[\w.]*) import (.+)$", path.read_text(), re.M)
        for name in re.split(r",\s*", names)
        if name not in importlib.import_module(module).__all__
    ]
    assert internal == []


def test_the_version_is_that_of_the_package():
    assert re.fullmatch(r"\d+\.\d+\.\d+", kvstream.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "kvstream.version.__version__"}


def test_docstring_examples_run():
    assert [name for name in MODULES if doctest.testmod(importlib.import_module(name)).failed] == []


def test_imports_point_upstream():
    wrong = []
    for name in MODULES:
        path = Path(importlib.import_module(name).__file__)
        path = path.with_name(f"{path.name.partition('.')[0]}.py")  # a compiled module's source is beside it
        text = "".join(each.read_text() for each in (path, path.with_suffix(".pyi")) if each.exists())
        room = ORDER.index(name.split(".")[1])
        imported = re.findall(r"^\s*(?:from|import) kvstream\.(\w+)", text, re.M)
        wrong += [f"{name} imports {each}" for each in imported if ORDER.index(each) > room]
        if re.search(r"^\s*(?:from kvstream import|import kvstream$)", text, re.M):
            wrong.append(f"{name} imports the face")
    assert wrong == []


def test_core_does_not_import_asyncio():
    for path in Path(kvstream.__path__[0]).rglob("*.py"):
        assert not re.search(r"^\s*(import|from) asyncio", path.read_text(), re.M), path


def test_importing_kvstream_loads_nothing_heavy_besides_what_its_dependencies_load():
    code = (
        "import sys, numpy, msgspec, anyio\n"
        "before = set(sys.modules)\n"
        "import kvstream\n"
        "print(*sys.modules.keys() - before)\n"
    )
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=DEADLINE
    ).stdout.split()
    assert "kvstream.stream" in loaded
    assert HEAVY.intersection(loaded) == set()
