"""``kvstream fleet``, as processes around a broker."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager

import anyio
import pytest
from anyio import to_thread

from kvstream import connect
from kvstream.events.codec import decode_frame
from kvstream.fleet.address import KafkaAddress
from tests.cli.conftest import running
from tests.fleet.brokers import mock_cluster, tansu
from tests.fleet.partitions import partition
from tests.fleet.test_notifier import incident, publish
from tests.fleet.workers import saved, wait_until, written
from tests.forked import PIPE
from tests.ports import free_port


@pytest.fixture(scope="module")
def broker():
    with mock_cluster() as made:
        yield made


@contextmanager
def agent(url, *options):
    """An agent that listens, and the lines that it says."""
    with running("fleet", "agent", "--to", url, *options, stderr=PIPE) as process:
        said = []
        while not said or not said[-1].startswith("listening"):
            line = process.stderr.readline().decode()
            assert line, said
            said.append(line)
        yield process, said


def test_an_agent_writes_what_engines_send_and_ends_by_a_signal(broker, tmp_path):
    url, port = broker.url(), free_port()
    path = f"unix:{tmp_path}/kv.sock"

    async def engine():
        async with connect(path) as remote:
            await remote.producer("engine-0").allocated(range(1000))
            await remote.flush()

    with agent(url, "--listen", path, "--metrics", f":{port}") as (process, _):
        anyio.run(engine)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            metrics = answer.read().decode()
        os.kill(process.pid, signal.SIGTERM)
        said = process.stderr.read().decode()
        assert process.wait() == 143
    assert "kvstream: 1,000 of 1,000 events were written" in said
    assert "kvstream_agent_events_written_total 1000.0" in metrics
    frames = [decode_frame(record[3]) for record in broker.records(KafkaAddress.parse(url).frames)]
    assert sum(map(len, frames)) == 1000


@pytest.mark.slow
def test_an_agent_that_is_killed_again_and_again_loses_nothing(broker, tmp_path):
    """What no broker had acknowledged the engine's side sends again; what comes twice counts once."""
    url, path = broker.url(), f"unix:{tmp_path}/kv.sock"
    kills, between = int(os.environ.get("KVSTREAM_FLEET_KILLS", "3")), 5_000

    async def engine():
        async with connect(path) as remote:
            producer = remote.producer("engine-0")
            with ExitStack() as agents:
                process, _ = agents.enter_context(agent(url, "--listen", path))
                for life in range(kills + 1):
                    for block in range(life * between, (life + 1) * between, 50):
                        await producer.allocated(range(block, block + 50))
                        await anyio.sleep(0.002)
                    os.kill(process.pid, signal.SIGKILL)
                    process, _ = await to_thread.run_sync(agents.enter_context, agent(url, "--listen", path))
                await remote.flush()

    anyio.run(engine)
    found = [record for key, record in next(iter(written(broker, url).values()))]
    part = partition()
    part.apply(found)
    accounts = part.accounts("engine-0")
    assert (accounts.processed, accounts.lost_frames, accounts.restarts) == ((kills + 1) * between, 0, 0)
    assert set(accounts.dropped) <= {"duplicate"}


def test_an_agent_makes_topics_once(kvstream, tmp_path):
    with tansu() as broker:
        url = f"kafka://{broker.address}/made"
        with agent(url, "--listen", f"unix:{tmp_path}/kv.sock", "--create-topics", "--copies", "1") as (
            _,
            said,
        ):
            assert said[:-1] == [f"made topic made.{name}\n" for name in ("frames", "alerts", "summaries")]
        with agent(url, "--listen", f"unix:{tmp_path}/kv.sock", "--create-topics", "--copies", "1") as (
            _,
            said,
        ):
            assert said[:-1] == []


@pytest.mark.slow
def test_a_worker_judges_what_an_agent_writes_and_leaves_it_to_the_next(broker, tmp_path):
    url, state, port = broker.url(), tmp_path / "state", free_port()
    path = f"unix:{tmp_path}/kv.sock"

    async def engine(blocks):
        async with connect(path) as remote:
            await remote.producer("engine-0").allocated(blocks)
            await remote.flush()

    def metric(name):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                lines = answer.read().decode().splitlines()
        except OSError:  # before it listens
            return 0
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    options = ("--state", state, "--metrics", f":{port}", "--checkpoint-every", 0.2)
    with agent(url, "--listen", path):
        for blocks in (range(1000), range(1000, 1500)):
            anyio.run(engine, blocks)
            with running("fleet", "worker", "--from", url, *options, stderr=PIPE) as process:
                wait_until(
                    lambda end=blocks.stop: metric("kvstream_worker_partition_events_processed") == end
                )
                os.kill(process.pid, signal.SIGTERM)
                said = process.stderr.read().decode()
                assert process.wait() == 143
            assert "records were applied" in said
    [part] = [part for part in saved(broker, url, state).values() if part.monitor.sources]
    accounts = part.accounts("engine-0")
    assert (accounts.processed, accounts.restarts, accounts.live) == (1500, 1, 500)  # of its second life


def test_topics_that_are_missing_are_named(kvstream, broker, tmp_path):
    ran = kvstream(
        "fleet", "agent", "--to", f"kafka://{broker.address}/none", "--listen", f"unix:{tmp_path}/s"
    )
    assert ran.code == 1
    assert "has no topic none.frames, none.alerts, none.summaries: make them with --create-topics" in ran.err


def test_without_the_extra_it_is_named(kvstream, tmp_path):
    for arguments in (
        ["agent", "--to", "kafka://x:1/p", "--listen", f"unix:{tmp_path}/s"],
        ["worker", "--from", "kafka://x:1/p", "--state", tmp_path],
        ["notify", "--from", "kafka://x:1/p", "--alert-log", tmp_path / "alerts"],
        ["serve", "--from", "kafka://x:1/p"],
    ):
        ran = kvstream("fleet", *arguments, without="confluent_kafka")
        assert ran.code == 1
        assert ran.err == "kvstream: a fleet needs an optional package: pip install 'kvstream[kafka]'\n"


def test_an_agent_needs_something_to_write(kvstream):
    ran = kvstream("fleet", "agent", "--to", "kafka://x:1/p")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "nothing to write" in ran.err


def test_all_that_is_wrong_is_said_at_once(kvstream, tmp_path):
    ran = kvstream(
        "fleet", "agent", "--to", "kfka://x:1/p", "--listen", "ftp://x", "--token-file", tmp_path / "t"
    )
    assert ran.code == 1
    for word in ("kfka://x:1/p", "ftp://x", f"{tmp_path}/t"):
        assert sum(word in line for line in ran.err.splitlines()) == 1
    assert ran.err.count("\n") == 3


@pytest.mark.parametrize(
    "command",
    [
        ("agent", "--to", "kfka://x:1/p", "--listen", "unix:/s"),
        ("worker", "--from", "kfka://x:1/p", "--state", "/s"),
        ("notify", "--from", "kfka://x:1/p", "--alert-log", "/s/a"),
    ],
)
@pytest.mark.parametrize("metrics", ["9109", "0.0.0.0:9109"])
def test_where_metrics_cannot_be_served_is_said_with_what_else_is_wrong(kvstream, command, metrics):
    ran = kvstream("fleet", *command, "--metrics", metrics)
    assert ran.code == 1
    assert [("kfka" in line, metrics in line) for line in ran.err.splitlines()] == [
        (True, False),
        (False, True),
    ]


def test_a_worker_judges_by_the_settings_and_rules_of_a_file(kvstream, tmp_path):
    """A mistake in each shows that both are read; the tables of other commands may be there."""
    config = tmp_path / "kvstream.toml"
    config.write_text(
        "[metrics]\ncapacity = 0\n\n[rules.lost_frame]\nenabled = false\n\n[serve]\nhttp = ':0'\n"
    )
    ran = kvstream("fleet", "worker", "--from", "kafka://x:1/p", "--state", tmp_path, "--config", config)
    assert ran.code == 1
    assert f"{config}:2: " in ran.err
    assert f"{config}:4: " in ran.err
    assert ran.err.count("\n") == 2


def test_the_durations_of_a_worker_take_units_and_have_bounds(kvstream, tmp_path):
    options = ("--checkpoint-every", "5x", "--session", "100ms", "--summary-every", "1m")
    ran = kvstream("fleet", "worker", "--from", "kafka://x:1/p", "--state", tmp_path, *options)
    assert ran.code == 2
    said = ran.err.splitlines()
    assert [line.split(":")[1].strip() for line in said[:-1]] == ["--checkpoint-every", "--session"]


def test_notifying_nobody_is_an_error(kvstream):
    ran = kvstream("fleet", "notify", "--from", "kafka://x:1/p")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "nobody to notify" in ran.err


@pytest.mark.slow
def test_alerts_are_notified_until_a_signal_comes(broker, tmp_path):
    url, log = broker.url(), tmp_path / "alerts.jsonl"
    publish(broker, url, [incident(1), incident(2), incident(1)])
    with running("fleet", "notify", "--from", url, "--alert-log", log, stderr=PIPE) as process:
        wait_until(lambda: log.exists() and log.read_text().count("\n") == 2)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == 143
    said = sorted(json.loads(line)["fingerprint"] for line in log.read_text().splitlines())
    assert said == [incident(number).fingerprint for number in (1, 2)]


def test_the_page_of_a_fleet_is_served_until_a_signal_comes(broker):
    with running("fleet", "serve", "--from", broker.url(), "--http", ":0", stderr=PIPE) as process:
        said = process.stderr.readline().decode()
        url = said.removeprefix("fleet at ").strip()
        wait_until(lambda: status(f"{url}readyz") == 200)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == 143


def status(url):
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_nobody_else_loads_kafka():
    loaded = "import sys, kvstream.cli.serve, kvstream.cli.fleet; print('confluent_kafka' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True)
    assert ran.stdout == "False\n"
