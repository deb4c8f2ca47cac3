import json
import os
import resource
import socket
import tomllib
from pathlib import Path

import anyio
import pytest

from kvstream.cli import doctor, endpoint_check
from kvstream.cli.doctor import _EXTRAS, _open_files
from kvstream.errors import KVStreamError
from tests.cli.conftest import running
from tests.forked import PIPE, Kvstream
from tests.ports import answering, free_port, saying
from tests.publisher import Engine, stored
from tests.waiting import DEADLINE

ROOT = Path(__file__).parents[2]


def checks(ran):
    return {check["name"]: check for check in map(json.loads, ran.out.splitlines())}


def test_it_says_what_is_installed_and_what_limits_there_are(kvstream):
    ran = kvstream("doctor")
    assert ran.code == 0
    for wanted in ("kvstream", "core", "pyzmq", "textual", "open files", "cores"):
        assert wanted in ran.out
    found = checks(kvstream("doctor", "--json"))
    assert found["zmq"]["state"] == "ok"


def test_a_missing_package_is_said_with_what_to_install(kvstream):
    check = checks(kvstream("doctor", "--json", without="pyarrow"))["pyarrow"]
    assert check["state"] != "ok"
    assert "pip install" in check["advice"]


def test_packages_that_cannot_be_loaded_are_updated_by_their_own_names(monkeypatch):
    def fail(module):
        raise ImportError("no such symbol")

    monkeypatch.setattr(doctor, "import_module", fail)
    (check,) = doctor._loads("zmq", ("zmq", "httpx2"))
    assert check.state == "error"
    assert check.advice == "pip install -U pyzmq httpx2"


def test_every_extra_is_looked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].keys() - {"all", "cli", "test", "lint", "docs"}
    assert _EXTRAS.keys() == extras


def test_few_open_files_are_a_warning_with_what_to_do():
    limits = {resource.RLIMIT_NOFILE: 200}
    with Kvstream(["doctor", "--json"], stdout=PIPE, stderr=PIPE, limits=limits) as process:
        out, _ = process.communicate()
    found = {check["name"]: check for check in map(json.loads, out.splitlines())}
    assert found["open files"]["state"] == "warning"
    assert "ulimit -Hn" in found["open files"]["advice"]


@pytest.mark.parametrize(
    ("limits", "found", "advice"),
    [
        ((200, 900), "at most 200 (ulimit -n), which can be raised to 900", "ulimit -n 900"),
        (
            (200, resource.RLIM_INFINITY),
            "at most 200 (ulimit -n), which can be raised to unlimited",
            "-n unlim",
        ),
        ((200, 200), "at most 200 (ulimit -n)", "LimitNOFILE="),
        ((1024, 1024), "at most 1024 (ulimit -n)", ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), "any number (ulimit -n)", ""),
    ],
)
def test_open_files_can_be_raised_as_far_as_their_hard_limit(limits, found, advice, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    check = _open_files()
    assert check.state == ("warning" if advice else "ok")
    assert check.found == found
    assert advice in check.advice


async def test_a_name_that_is_not_known_is_looked_up_again_until_the_wait_is_over(monkeypatch):
    errors = [socket.gaierror(socket.EAI_NONAME, "unknown")] * 3 + [KVStreamError("asked four times")]

    async def getaddrinfo(*args, **options):
        raise errors.pop(0)

    monkeypatch.setattr(endpoint_check, "_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    found = await endpoint_check.check_endpoint("zmq://vllm-0:5557", DEADLINE, None, {})
    assert (found.state, found.what) == ("error", "asked four times")


@pytest.mark.parametrize("scheme", ["http", "tcp"])
async def test_where_nobody_listens_somebody_may_soon(scheme):
    found = await endpoint_check._look(f"{scheme}://127.0.0.1:{free_port()}", DEADLINE, None, {})
    assert (found.state, found.may_pass) == ("error", True)
    assert "nothing listens there" in found.what


async def test_an_engine_that_comes_within_the_wait_is_found(monkeypatch):
    state = [endpoint_check.Found("zmq://h:1", "error", "away", may_pass=True)] * 3
    state.append(endpoint_check.Found("zmq://h:1", "ok", "there"))

    async def look(*_):
        return state.pop(0)

    monkeypatch.setattr(endpoint_check, "_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(endpoint_check, "_look", look)
    assert (await endpoint_check.check_endpoint("zmq://h:1", DEADLINE, None, {})).state == "ok"
    assert not state


@pytest.mark.parametrize("scheme", ["zmq", "http", "tcp", "kafka"])
def test_a_password_in_an_address_is_not_shown(kvstream, scheme):
    ran = kvstream("doctor", f"{scheme}://user:secret@127.0.0.1:9/kv", "--wait", "0.1")
    assert ran.code == 1
    assert "secret" not in ran.out + ran.err


def test_an_engine_that_publishes_is_described(kvstream):
    with Engine() as engine, running("doctor", engine.url, "--wait", "3s", "--json", stderr=PIPE) as process:
        assert engine.subscribed.wait(DEADLINE)
        engine.publish([stored(1, 2, 3)])
        out, _ = process.communicate()
    (check,) = [each for each in map(json.loads, out.splitlines()) if each["name"] == "endpoint"]
    assert check["state"] == "ok"
    assert "3 stores of" in check["found"]
    assert "hits are not published" in check["advice"]


def test_an_endpoint_where_nobody_is_is_an_error(kvstream):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoints = (f"zmq://127.0.0.1:{port}", f"tcp://127.0.0.1:{port}", f"http://127.0.0.1:{port}", "nonsense")
    ran = kvstream("doctor", *endpoints, "--wait", "500ms")
    assert ran.code == 1
    for endpoint in endpoints:
        [line] = [each for each in ran.out.splitlines() if f" {endpoint}: " in each]
        assert line.startswith("error")
        assert "Errno" not in line
        assert "attempts failed" not in line
    assert f"nothing listens there; start kvstream serve --listen tcp://127.0.0.1:{port}" in ran.out
    assert "nothing listens there; start the engine or kvstream serve --http" in ran.out
    assert "write zmq://HOST:PORT" in ran.out


def test_what_answers_and_is_neither_an_engine_nor_kvstream_is_an_error(kvstream):
    with answering(lambda path: (200, b"<html>")) as url, saying(b"HTTP/1.1 400 Bad Request\r\n") as port:
        ran = kvstream("doctor", url, f"tcp://127.0.0.1:{port}", "--wait", f"{DEADLINE}s", "--json")
    found = [each for each in map(json.loads, ran.out.splitlines()) if each["name"] == "endpoint"]
    assert [each["state"] for each in found] == ["error", "error"]
    assert "is it an SGLang server?" in found[0]["found"]
    assert "zmq://HOST:5557" in found[0]["advice"]
    assert found[1]["found"].endswith("what answers there is not kvstream serve")


def test_brokers_cannot_be_checked_without_their_extra(kvstream):
    ran = kvstream("doctor", "kafka://127.0.0.1:1/kv", without="confluent_kafka")
    assert ran.code == 1
    assert "pip install 'kvstream[kafka]'" in ran.out.splitlines()[-1]


def test_a_running_server_is_recognized_and_counts_nothing(kvstream):
    options = ("--listen", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0")
    with running("serve", *options, stderr=PIPE, env={**os.environ, "KVSTREAM_TOKEN": "s"}) as server:
        places = [server.stderr.readline().decode().split()[-1] for _ in range(2)]
        ran = kvstream("doctor", *places, "--wait", f"{DEADLINE}s", env={"KVSTREAM_TOKEN": "s"})
        refused = kvstream("doctor", places[0], "--wait", f"{DEADLINE}s")
        server.terminate()
        out, _ = server.communicate()
    assert ran.code == 0
    assert ran.out.count("kvstream serve is there") == 2
    assert refused.code == 1
    assert "token" in refused.out
    assert json.loads(out.splitlines()[-1])["accounts"]["offered"] == 0
