import json
import os
import signal
import subprocess
import sys
import threading

import anyio
import httpx2
import pytest
from anyio import to_thread

from kvstream import StreamConfig, connect
from kvstream.cli.app import app
from kvstream.sinks.patient_file import PatientFile
from tests.cli.conftest import DEADLINE, SCAN, running
from tests.ports import free_port
from tests.publisher import Engine, stored
from tests.waiting import until


def listening(process):
    """Endpoints as the server says them on standard error."""
    line = process.stderr.readline().decode()
    assert line.startswith("listening at "), line
    return line.removeprefix("listening at ").strip()


@pytest.mark.parametrize("at", ["unix", "tcp"])
async def test_remote_producers_are_served_until_a_signal(tmp_path, at):
    listen = f"unix:{tmp_path}/kv.sock" if at == "unix" else "tcp://127.0.0.1:0"
    with running("serve", "--listen", listen, "--json", stderr=subprocess.PIPE) as process:
        async with connect(listening(process)) as remote:
            await remote.producer("engine-0").allocated(range(500))
            await remote.producer("engine-0").evicted(range(100))
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 130
        summary = json.loads(out.splitlines()[-1])
        assert summary["final"]
        assert (summary["blocks_live"], summary["total_evictions"]) == (400, 100)


async def test_a_token_is_read_from_a_file_or_the_environment(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with running(
        "serve", "--listen", "tcp://127.0.0.1:0", "--token-file", tmp_path / "token", stderr=subprocess.PIPE
    ) as process:
        endpoint = listening(process)
        async with connect(endpoint, config=StreamConfig(shutdown_timeout=0.2)) as remote:
            remote.producer().allocated_nowait(1)
            await until(lambda: remote.statistics().last_error)
        assert "token" in remote.statistics().last_error
        async with connect(endpoint, token="secret") as remote:
            remote.producer().allocated_nowait(1)
            with anyio.fail_after(DEADLINE):
                await remote.flush()
        process.terminate()
        process.communicate(timeout=DEADLINE)
        assert process.returncode == 143


def test_beyond_this_machine_it_does_not_start_without_a_token(kvstream):
    ran = kvstream("serve", "--listen", "tcp://0.0.0.0:0")
    assert ran.code == 1
    assert "token" in ran.err
    assert "Traceback" not in ran.err


def test_the_dashboard_beyond_this_machine_needs_a_token_too(kvstream, tmp_path):
    ran = kvstream("serve", "--listen", f"unix:{tmp_path}/kv.sock", "--http", "0.0.0.0:0")
    assert ran.code == 1
    assert "set a token" in ran.err
    ran = kvstream("serve", "--listen", f"unix:{tmp_path}/kv.sock", "--http", "9109")
    assert ran.code == 1
    assert "HOST:PORT" in ran.err


async def test_the_dashboard_shows_what_producers_send_and_ends_with_the_rest(tmp_path):
    listen = f"unix:{tmp_path}/kv.sock"
    arguments = ("serve", "--listen", listen, "--http", "127.0.0.1:0", "--json")
    with running(*arguments, stderr=subprocess.PIPE) as process:
        endpoint = listening(process)
        url = process.stderr.readline().decode().removeprefix("dashboard at ").strip()
        async with connect(endpoint) as remote, httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
            await remote.producer("engine-0").allocated(range(500))
            with anyio.fail_after(DEADLINE):
                await remote.flush()
                while (await client.get("api/summary")).json()["blocks_live"] != 500:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                assert (
                    b'kvstream_blocks{source="engine-0",tier="gpu"} 500.0'
                    in (await client.get("metrics")).content
                )
                async with client.stream("GET", "events") as followed:  # which would go on for ever
                    process.send_signal(signal.SIGTERM)
                    lines = [line async for line in followed.aiter_lines()]
        assert "event: end" in lines
        out, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 143
        assert err == b""
        assert json.loads(out.splitlines()[-1])["final"]


def test_all_results_are_written_by_one_thread_so_that_none_is_written_twice(tmp_path, monkeypatch, capfd):
    threads = []

    class Noted(PatientFile):
        def write(self, line):
            if not threads:
                os.kill(os.getpid(), signal.SIGTERM)
            threads.append(threading.current_thread())
            return super().write(line)

    monkeypatch.setattr("kvstream.cli.session.PatientFile", Noted)
    listen = f"unix:{tmp_path}/kv.sock"
    monkeypatch.setattr(
        sys, "argv", ["kvstream", "serve", "--listen", listen, "--json", "--summary-every", "10ms"]
    )
    assert app(standalone_mode=False) == 128 + signal.SIGTERM
    summaries = [json.loads(line)["final"] for line in capfd.readouterr().out.splitlines()]
    assert summaries == [False] * (len(threads) - 1) + [True]
    assert set(threads) == {threading.main_thread()}


def test_a_recording_is_replayed_to_a_server(kvstream, tmp_path):
    endpoint = f"unix:{tmp_path}/kv.sock"
    with running("serve", "--listen", endpoint, "--json", stderr=subprocess.PIPE) as process:
        listening(process)
        ran = kvstream("replay", SCAN, "--to", endpoint, "--speed", "0")
        assert ran.code == 0, ran.err
        assert "150,000 sent" in ran.err
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=DEADLINE)
        summary = json.loads(out.splitlines()[-1])
        assert summary["accounts"]["processed"] == 150_000
        assert summary["accounts"]["unknown_evictions"] == 255


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--tls-cert", "missing.pem", "--tls-key", "missing.pem"], "missing.pem"),
        (["--tls-cert", "missing.pem"], "--tls-key"),
        (["--tls-client-ca", "missing.pem"], "--tls-cert"),
        ([], "needs a certificate"),
        (["--token-file", "missing"], "missing"),
    ],
)
def test_serve_without_what_tls_and_tokens_need_says_so_in_one_line(kvstream, options, why):
    ran = kvstream("serve", "--listen", "tls://127.0.0.1:0", *options)
    assert ran.code == 1
    assert why in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("command", [["serve", "--listen"], ["replay", SCAN, "--to"]])
def test_an_empty_token_is_refused(kvstream, tmp_path, command):
    ran = kvstream(*command, f"unix:{tmp_path}/kv.sock", env={"KVSTREAM_TOKEN": ""})
    assert ran.code == 1
    assert "KVSTREAM_TOKEN is empty" in ran.err
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    ran = kvstream(*command, f"unix:{tmp_path}/kv.sock", "--token-file", tmp_path / "token")
    assert ran.code == 1
    assert "UTF-8" in ran.err


async def test_a_hangup_has_the_rules_read_again_and_wrong_ones_change_nothing(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text("[occupancy_high]\nthreshold = 0.9\nclear = 0.8\nfor_seconds = 0\n")
    listen = ("--listen", f"unix:{tmp_path}/kv.sock", "--capacity", 100, "--rules", rules, "--json")

    def said(process):
        return process.stderr.readline().decode().strip()

    async def half_fill(remote, source):
        producer = remote.producer(source)
        producer.allocated_nowait(range(50), ts=10**18)
        producer.accessed_nowait([1], ts=10**18 + 10**9)
        await remote.flush()

    with running("serve", *listen, stderr=subprocess.PIPE) as process:
        async with connect(listening(process)) as remote:
            await half_fill(remote, "a")
            rules.write_text("[occupancy_hihg]\nthreshold = 0.5\n[occupancy_high]\nclaer = 0.4\n")
            process.send_signal(signal.SIGHUP)
            lines = [said(process) for _ in range(3)]
            assert "did you mean occupancy_high?" in lines[0]
            assert "rules.toml:4: rule occupancy_high: unknown field claer; did you mean clear?" in lines[1]
            assert lines[2].endswith("the rules stay as they were")
            rules.write_text("[occupancy_high]\nthreshold = 0.5\nclear = 0.4\nfor_seconds = 0\n")
            process.send_signal(signal.SIGHUP)
            assert said(process) == f"kvstream: read {rules} again: 19 rules, 0 silences"
            await half_fill(remote, "b")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=DEADLINE)
    fired = [
        line["source"] for line in map(json.loads, out.splitlines()) if line.get("rule") == "occupancy_high"
    ]
    assert "b" in fired


def test_a_reader_that_leaves_ends_it_quietly(tmp_path):
    arguments = ("serve", "--listen", f"unix:{tmp_path}/kv.sock", "--json", "--summary-every", "50ms")
    with running(*arguments, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=DEADLINE) == 0
    assert err.decode() == f"listening at unix:{tmp_path}/kv.sock\n"


def test_a_hangup_without_rules_drains_and_ends_it(tmp_path):
    arguments = ("serve", "--listen", f"unix:{tmp_path}/kv.sock", "--json")
    with running(*arguments, stderr=subprocess.PIPE) as process:
        listening(process)
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=DEADLINE)
        assert (process.returncode, err) == (128 + signal.SIGHUP, b"")
    assert json.loads(out.splitlines()[-1])["final"]


def test_a_heartbeat_needs_an_alertmanager(kvstream, tmp_path):
    ran = kvstream("serve", "--listen", f"unix:{tmp_path}/kv.sock", "--heartbeat")
    assert ran.code == 1
    assert "--alertmanager" in ran.err


async def test_engines_are_followed_beside_producers_and_one_that_fails_ends_none(tmp_path):
    targets = tmp_path / "engines.json"
    targets.write_text("[]")
    dead = f"zmq://127.0.0.1:{free_port()}"
    missing = tmp_path / "not-there.jsonl"
    with Engine() as engine:
        arguments = ("--from", engine.url, "--from", dead, "--from", missing, "--targets", targets)
        listen = ("--listen", f"unix:{tmp_path}/kv.sock", "--http", "127.0.0.1:0", "--json")
        with running("serve", *arguments, *listen, stderr=subprocess.PIPE) as process:
            endpoint = listening(process)
            url = process.stderr.readline().decode().removeprefix("dashboard at ").strip()
            assert await to_thread.run_sync(engine.subscribed.wait, DEADLINE)
            engine.publish([stored(*range(7))])
            async with (
                connect(endpoint) as remote,
                httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client,
            ):
                await remote.producer("engine-0").allocated(range(5))

                async def blocks():
                    return (await client.get("api/summary")).json()["blocks_live"]

                with anyio.fail_after(DEADLINE):
                    while await blocks() != 12:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                    while True:
                        inputs = (await client.get("api/inputs")).json()["inputs"]
                        states = {seen["input"]: seen["state"] for seen in inputs}
                        if states[dead] == "not connected":
                            break
                        await anyio.sleep(0.01)
                assert states == {engine.url: "connected", dead: "not connected", str(missing): "error"}
                missing.write_text('{"type":"alloc","block":1,"ts":1767225600000000000}\n')
                text = (await client.get("metrics")).text
                assert f'kvstream_input_connected{{input="{dead}"}} 0.0' in text
                state = (await client.get("api/state")).json()
                assert any(f"{dead} is not connected since" in sentence for sentence in state["verdict"])
                targets.write_text(json.dumps([{"targets": [engine.url.replace("=engine", "=again")]}]))
                with anyio.fail_after(DEADLINE):
                    while await blocks() != 20:  # noqa: ASYNC110 - 7 by the replay, 1 of the file that is there now
                        await anyio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=DEADLINE)
            assert process.returncode == 143
            assert f"{dead} is not connected: nobody answers there" in err.decode()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "--from"),
        (["--from", "zmq://nonsense"], "zmq://HOST:PORT"),
        (["--from", "http://h:1?dp=2"], "unknown dp"),
        (["--targets", "missing.json"], "missing.json"),
    ],
)
def test_inputs_that_are_none_are_said_in_one_line(kvstream, options, why):
    ran = kvstream("serve", *options)
    assert ran.code == 1
    assert why in ran.err
    assert len(ran.err.splitlines()) == 1


def test_an_input_that_cannot_be_used_and_is_all_there_is_ends_the_command(kvstream):
    with Engine() as engine:
        port = engine.endpoint.rpartition(":")[2]
        ran = kvstream("serve", "--from", f"zmq://*:{port}")
        assert ran.code == 1
        assert "cannot bind" in ran.err
        assert "Traceback" not in ran.err


async def test_a_directory_of_state_is_for_one_process(tmp_path, kvstream):
    arguments = ("serve", "--listen", f"unix:{tmp_path}/kv.sock", "--state", tmp_path / "state")
    with running(*arguments, stderr=subprocess.PIPE) as process:
        listening(process)
        ran = await to_thread.run_sync(kvstream, *arguments)
        assert ran.code == 1
        expected = f"kvstream: {tmp_path}/state is in use by process {process.pid}: "
        assert ran.err.startswith(expected), ran.err
        process.terminate()
        process.communicate(timeout=DEADLINE)


async def test_a_restart_goes_on_from_the_state(tmp_path):
    arguments = ("serve", "--listen", f"unix:{tmp_path}/kv.sock", "--state", tmp_path / "state", "--json")
    lives = []
    for _ in range(2):
        with running(*arguments, stderr=subprocess.PIPE) as process:
            async with connect(listening(process)) as remote:
                await remote.producer("engine-0").allocated(range(500))
            process.terminate()
            out, _ = process.communicate(timeout=DEADLINE)
            lives.append(json.loads(out.splitlines()[-1])["accounts"])
    assert [(each["processed"], each["restarts"]) for each in lives] == [(500, 0), (1000, 1)]
    assert [(each["live"], each["cleared"]) for each in lives] == [(500, 0), (500, 500)]
