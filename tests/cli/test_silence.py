import json
from datetime import UTC, datetime, timedelta

import anyio
import anyio.to_thread
import pytest

from tests.alerts.test_silences import T0, config, fill
from tests.cli.conftest import running
from tests.forked import PIPE
from tests.serving import served


async def silence(url, *args):
    """The command against a server of this process; its exit code, lines of JSON and errors."""
    with running("silence", *args, "--server", url, stderr=PIPE) as process:
        out, err = await anyio.to_thread.run_sync(process.communicate)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


async def test_silences_are_added_listed_and_removed():
    async with served(config=config()) as (stream, url):
        await fill(stream)
        code, (added,), _ = await silence(url, "add", "--rule", "occupancy_*", "--for", "2h", "--reason", "x")
        assert code == 0
        until = datetime.fromisoformat(added["until"])
        assert abs(until - datetime.fromtimestamp(T0 + 9 + 7200, UTC)) < timedelta(minutes=5)
        assert (added["rule"], added["reason"]) == ("occupancy_*", "x")
        code, (other,), _ = await silence(url, "add", "--until", "2100-01-01T00:00:00Z")
        assert (await silence(url, "list"))[1] == [added, other]
        assert (await silence(url, "remove", added["id"], other["id"]))[0] == 0
        assert stream.silences() == []
        code, _, said = await silence(url, "remove", added["id"])
        assert (code, said) == (1, f"kvstream: {url.rstrip('/')}: there is no silence with that id\n")


async def test_an_alert_is_acknowledged_by_its_fingerprint():
    async with served(config=config()) as (stream, url):
        await fill(stream)
        (alert,) = stream.firing()
        code, (made,), _ = await silence(url, "acknowledge", alert.fingerprint)
        assert (code, made["incident"]) == (0, alert.incident)
        assert stream.firing() == []
        code, _, said = await silence(url, "acknowledge", "0" * 16)
        assert code == 1
        assert "no alert with that fingerprint fires" in said


async def test_the_token_comes_from_a_file(tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    async with served(token="s3cret") as (_, url):
        code, _, said = await silence(url, "list")
        assert code == 1
        assert "--token-file" in said
        assert (await silence(url, "list", "--token-file", str(tmp_path / "token")))[0] == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["add"], "--for DURATION or --until TIME"),
        (["add", "--for", "2h", "--until", "2030-01-01T00:00:00Z"], "--for DURATION or --until TIME"),
        (["list", "--server", "kv-1:9109"], "is no server"),
        (
            ["list", "--server", "http://127.0.0.1:1"],
            ":1: connection refused: nothing listens there; start kv",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(kvstream, args, said):
    ran = kvstream("silence", *args)
    assert ran.code == 1
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
