"""Alert handlers of real processes: dead, refusing, slow and full ones."""

import json
import re
import signal
import socket
import sys
import time

import anyio
import pytest

from kvstream import connect
from tests.alerting import endpoint
from tests.cli.conftest import kvstream as kvstream
from tests.cli.conftest import running
from tests.waiting import DEADLINE

START = 1_767_225_600_000_000_000
SECOND = 10**9
SECRET = "T0PSECRET"


@pytest.fixture
def recording(tmp_path):
    """Two engines whose caches are full for 40 s: two alerts fire and go on."""
    path = tmp_path / "full.jsonl"
    with path.open("w") as file:
        for engine in ("a", "b"):
            for block in range(20):
                event = {"type": "alloc", "block": block, "ts": START + block, "source": engine}
                file.write(json.dumps(event) + "\n")
        for second in range(1, 40):
            for engine in ("a", "b"):
                event = {"type": "access", "block": 1, "ts": START + second * SECOND, "source": engine}
                file.write(json.dumps(event) + "\n")
    return path


@pytest.fixture
def dead():
    """The address of a port that nobody listens at, and that stays so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def run_on(kvstream, recording, *handlers):
    return kvstream("run", recording, "--json", "--capacity", 20, *handlers)


def undelivered(err):
    """What a run says was not delivered: the alerts by destination."""
    found = re.findall(r"^not delivered: ([\d,]+) alerts? to (.+)$", err, re.MULTILINE)
    return {destination: int(count) for count, destination in found}


def test_a_run_whose_alerts_are_refused_says_so_and_ends_with_4(kvstream, recording):
    with endpoint(403) as (url, received):
        ran = run_on(kvstream, recording, "--webhook", f"{url}/{SECRET}", "--on-alert", "false")
    assert ran.code == 4
    fired = len(ran.of_type("alert"))
    assert undelivered(ran.err) == {f"webhook {url}": fired, "command false": fired}
    assert fired == len(received) >= 2
    assert SECRET not in ran.err
    assert "Traceback" not in ran.err


def test_a_run_waits_for_a_receiver_that_was_busy(kvstream, recording, tmp_path):
    with endpoint(503, (429, {"Retry-After": "1"}), 200) as (url, received):
        ran = run_on(kvstream, recording, "--webhook", url, "--slack", url, "--alertmanager", url)
    assert ran.code == 0, ran.err
    assert undelivered(ran.err) == {}
    assert len(received) >= 5


@pytest.mark.slow
def test_a_run_gives_up_on_the_dead_within_ten_seconds_and_names_them(kvstream, recording, dead, tmp_path):
    pager = tmp_path / "page.py"
    pager.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(600)\n")
    pager.chmod(0o700)
    begun = time.monotonic()
    run_on(kvstream, recording)
    without = time.monotonic() - begun
    begun = time.monotonic()
    ran = run_on(
        kvstream,
        recording,
        *("--webhook", f"{dead}/{SECRET}", "--slack", f"{dead}/{SECRET}", "--alertmanager", dead),
        *("--on-alert", pager, "--alert-log", "/dev/full"),
    )
    assert time.monotonic() - begun < 10 + 3 * without
    assert ran.code == 4
    fired = len(ran.of_type("alert"))
    found = undelivered(ran.err)
    assert set(found) == {
        f"webhook {dead}",
        f"Alertmanager {dead}",
        f"command {pager}",
        "file /dev/full",
    }
    assert found[f"command {pager}"] == fired
    assert SECRET not in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.slow
def test_a_server_that_is_stopped_names_what_it_could_not_deliver(tmp_path, dead):
    path = tmp_path / "kv.sock"

    async def send():
        async with connect(f"unix:{path}") as remote:
            engine = remote.producer("a")
            await engine.allocated(range(20), ts=START)
            for second in range(1, 60):
                await engine.accessed(1, ts=START + second * SECOND)

    options = ("serve", "--listen", f"unix:{path}", "--json", "--capacity", "20", "--webhook", dead)
    with (tmp_path / "err").open("wb") as errors, running(*options, stderr=errors) as process:
        end = time.monotonic() + DEADLINE
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.02)
        anyio.run(send)
        while b'"alert"' not in process.stdout.readline():
            assert time.monotonic() < end
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 4
    assert set(undelivered((tmp_path / "err").read_text())) == {f"webhook {dead}"}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--on-alert", "no-such-pager --now", "no command 'no-such-pager' in PATH"),
        ("--on-alert", "./no-such-pager", "no such file"),
        ("--webhook", "ftp://ops.example/T0PSECRET", "cannot post to 'ftp://ops.example'"),
        ("--slack", "https://", "names no host"),
        ("--alertmanager", "alertmanager:9093", "https://HOST/PATH"),
        ("--alert-log", "/no/such/folder/log", "No such file or directory"),
    ],
)
def test_a_handler_that_cannot_work_ends_the_run_at_its_start(kvstream, recording, option, value, says):
    ran = run_on(kvstream, recording, option, value)
    assert ran.code == 1
    assert says in ran.err
    assert ran.out == ""
    assert SECRET not in ran.err
    assert ran.err.strip().count("\n") == 0
