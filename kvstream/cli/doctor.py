"""``kvstream doctor``: what is installed, what limits there are, and what endpoints answer and send."""

import os
import platform
import resource
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import anyio
import msgspec
import typer
from rich.text import Text

from kvstream._core.build import COMPILED
from kvstream.cli.command import Attempts
from kvstream.cli.endpoint_check import Found, check_endpoint
from kvstream.cli.exit_codes import EXIT_ERROR
from kvstream.cli.messages import note
from kvstream.cli.options import KafkaConfig, TextResults
from kvstream.cli.render import console
from kvstream.cli.standard import write_lines
from kvstream.cli.tokens import TokenFile, token_from
from kvstream.cli.values import number
from kvstream.text.addresses import without_password
from kvstream.text.escape import for_terminal
from kvstream.version import __version__

EXAMPLES = """
[bold]Examples[/bold]

  kvstream doctor                                       this installation and this machine

  kvstream doctor zmq://vllm-0:5557                     does the engine publish, and what?

  kvstream doctor http://sglang-0:30000 --wait 30s      longer, as engines publish only while they serve

  kvstream doctor unix:/run/kvstream.sock http://127.0.0.1:9109      is kvstream serve there?

  kvstream doctor kafka://kafka:9092/kv                 are the topics of the fleet there, and read?

Exit code 1 where something is wrong.
"""

_EXTRAS = {
    "zstd": ("zstandard",),
    "zmq": ("zmq", "httpx2"),
    "webhook": ("httpx2", "standardwebhooks"),
    "apprise": ("apprise",),
    "prometheus": ("prometheus_client",),
    "web": ("starlette", "uvicorn", "prometheus_client"),
    "top": ("textual", "httpx2"),
    "pyarrow": ("pyarrow",),
    "kafka": ("confluent_kafka",),
    "bucket": ("fsspec",),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
}
_FEW_FILES = 1024
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


class Check(msgspec.Struct, frozen=True, kw_only=True, tag="check"):
    """What was looked at, and what was found.

    Attributes:
        state: ``note`` is neither right nor wrong.
        name: What was looked at.
        found: What was found.
        advice: What to do about it; empty if nothing.
    """

    state: Literal["ok", "note", "warning", "error"]
    name: str
    found: str
    advice: str = ""


def doctor_command(
    endpoints: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[zmq://HOST:PORT|http://HOST:PORT|unix:PATH|tcp://HOST:PORT|kafka://HOST:PORT/PREFIX]...",
            help="Engines, addresses of a kvstream serve, or the brokers of a fleet.",
            show_default=False,
        ),
    ] = None,
    *,
    wait: Annotated[
        float,
        number(
            "duration",
            "--wait",
            metavar="DURATION",
            low=0.1,
            high=3600,
            help="How long to listen at each endpoint, and to ask again where nobody answers.",
            show_default="5s",
        ),
    ] = 5.0,
    token_file: TokenFile = None,
    kafka_config: KafkaConfig = None,
    results: TextResults,
) -> int:
    """Check what is installed, this machine's limits, and whether endpoints answer and what they send."""
    with Attempts() as attempt:
        token = attempt(token_from, token_file)
        kafka_settings = attempt(_kafka_settings, kafka_config)
    checks = [*_installed(), *_machine(), *_environment()]
    for endpoint in endpoints or ():
        note(f"kvstream: listening at {without_password(endpoint)} for {wait:g} s")
    found = anyio.run(_check_all, endpoints or [], wait, token, kafka_settings)
    checks += map(_of_endpoint, found)
    if results.as_json():
        write_lines(checks)
    else:
        screen = console()
        for check in checks:
            screen.print(_line(check), soft_wrap=True)
        sys.stdout.flush()
    return EXIT_ERROR if any(check.state == "error" for check in checks) else 0


def _line(check: Check) -> Text:
    advice = f"; {check.advice}" if check.advice else ""
    return Text.assemble(
        (f"{check.state:8}", _STYLES[check.state]), for_terminal(f"{check.name:12} {check.found}{advice}")
    )


def _installed() -> Iterator[Check]:
    """Yield what is installed."""
    python = f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}"
    yield Check(state="ok", name="kvstream", found=f"{__version__}, {python}")
    if COMPILED:
        yield Check(state="ok", name="core", found="compiled")
    else:
        yield Check(
            state="warning",
            name="core",
            found="interpreted: events cost some 90 times more",
            advice="install a wheel, or a C compiler and kvstream again",
        )
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if not _is_there(name)]
        if missing:
            yield Check(
                state="note",
                name=extra,
                found=f"not installed ({', '.join(missing)})",
                advice=f"pip install 'kvstream[{extra}]'",
            )
            continue
        yield from _loads(extra, modules)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # of the package that it is in
        return False


def _loads(extra: str, modules: tuple[str, ...]) -> Iterator[Check]:
    """Yield whether packages can be loaded, with their versions."""
    try:
        for module in modules:
            import_module(module)
    except Exception as error:
        found = f"cannot be loaded: {type(error).__name__}: {error}"
        # Not `-U kvstream`: an index may know another project of that name.
        advice = f"pip install -U {' '.join(map(_package, modules))}"
        yield Check(state="error", name=extra, found=found, advice=advice)
        return
    versions = [_version(module) for module in modules]
    yield Check(state="ok", name=extra, found=", ".join(versions))


def _package(module: str) -> str:
    names = {"zmq": "pyzmq", "prometheus_client": "prometheus-client"}
    return names.get(module, module.replace(".proto.http", "-proto-http").replace(".", "-"))


def _version(module: str) -> str:
    package = _package(module)
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def _machine() -> Iterator[Check]:
    """Yield what limits this machine and this shell set."""
    yield _open_files()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check(state="ok", name="cores", found=f"{cores} for this process")
    if (most := _memory_limit()) is not None:
        yield Check(
            state="ok", name="memory", found=f"at most {most / 2**30:,.1f} GiB for this control group"
        )
    encoding = sys.stdout.encoding
    is_utf8 = encoding.lower().replace("-", "") == "utf8"
    yield Check(
        state="ok" if is_utf8 else "warning",
        name="text",
        found=f"{encoding}, {'a terminal' if sys.stdout.isatty() else 'piped'}",
        advice="" if is_utf8 else "set PYTHONUTF8=1, or LC_ALL=C.UTF-8",
    )


def _open_files() -> Check:
    """Return how many files and sockets a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Check(state="ok", name="open files", found="any number (ulimit -n)")
    found, most = f"at most {soft} (ulimit -n)", "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    if soft != hard:
        found += f", which can be raised to {most}"
    if soft >= _FEW_FILES:
        return Check(state="ok", name="open files", found=found)
    advice = f"raise it for kvstream serve: ulimit -n {most}"
    if soft == hard:
        advice = "raise the hard limit for kvstream serve: ulimit -Hn as root, or LimitNOFILE= of its unit"
    return Check(state="warning", name="open files", found=found, advice=advice)


def _memory_limit() -> int | None:
    """Return the bytes that the control group may take; None if it has no bound."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 2**60 else None
    return None


def _environment() -> Iterator[Check]:
    """Yield which variables are set; their values may be secrets."""
    given = [name for name in sorted(os.environ) if name.startswith("KVSTREAM_")]
    if given:
        found = ", ".join(f"${name}" for name in given)
        yield Check(state="note", name="environment", found=f"{found}: set")


def _kafka_settings(file: Path | None) -> dict[str, str]:
    """Return the settings of Kafka clients that a file holds.

    Raises:
        ConfigError: If it cannot be used.
        MissingExtraError: If there is a file, and ``kvstream[kafka]`` is not installed.
    """
    if file is None:
        return {}
    from kvstream.fleet.client import read_settings  # here, as it needs an extra

    return read_settings(file)


async def _check_all(
    endpoints: list[str], seconds: float, token: str | None, kafka_settings: Mapping[str, str]
) -> list[Found]:
    found: dict[str, Found] = {}

    async def check(endpoint: str) -> None:
        found[endpoint] = await check_endpoint(endpoint, seconds, token, kafka_settings)

    async with anyio.create_task_group() as tasks:
        for endpoint in dict.fromkeys(endpoints):
            tasks.start_soon(check, endpoint)
    return [found[endpoint] for endpoint in dict.fromkeys(endpoints)]


def _of_endpoint(found: Found) -> Check:
    return Check(
        state=found.state, name="endpoint", found=f"{found.endpoint}: {found.what}", advice=found.advice
    )
