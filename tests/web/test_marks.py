"""Marks over real HTTP, and by the command."""

import json

import anyio.to_thread
import httpx2
import pytest

from tests.alerts.test_silences import T0, config, fill
from tests.cli.conftest import running
from tests.forked import PIPE
from tests.serving import DEADLINE, served


def client_of(url, **options):
    return httpx2.AsyncClient(base_url=url, timeout=DEADLINE, **options)


async def mark(url, *args):
    """The command against a server of this process; its exit code, lines of JSON and errors."""
    with running("mark", *args, "--server", url, stderr=PIPE) as process:
        out, err = await anyio.to_thread.run_sync(process.communicate)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


async def test_a_mark_is_made_listed_shown_in_the_history_and_removed():
    async with served(config=config()) as (stream, url), client_of(url) as client:
        await fill(stream)
        made = await client.post("api/marks", json={"text": "vLLM 0.33", "source": "nobody*"})
        assert made.status_code == 201
        other = made.json()
        made = await client.post("api/marks", json={"text": "deploy", "time": "2001-09-09T01:46:45Z"})
        deploy = made.json()
        assert (deploy["text"], deploy["timestamp"], deploy["source"]) == ("deploy", 1_000_000_005.0, "*")
        assert other["timestamp"] >= T0
        listed = (await client.get("api/marks")).json()["marks"]
        assert sorted(each["id"] for each in listed) == sorted([deploy["id"], other["id"]])
        (source, _), *_ = stream.caches()
        assert (await client.get("api/marks", params={"source": source})).json() == {"marks": [deploy]}
        history = (await client.get("api/history")).json()
        begun = min(history["ts"])
        assert [each["id"] for each in history["marks"]] == [
            each["id"] for each in listed if each["timestamp"] >= begun
        ]
        assert history["marks"]
        assert (await client.delete(f"api/marks/{deploy['id']}")).status_code == 204
        assert (await client.delete(f"api/marks/{deploy['id']}")).status_code == 404
        assert [each.id for each in stream.marks()] == [other["id"]]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({}, "text"),
        ({"text": ""}, "1 to 256 characters"),
        ({"text": "x", "time": "2030-01-01T00:00:00"}, "timezone"),
        ({"text": "x", "tme": "2030-01-01T00:00:00Z"}, "tme"),
        ({"text": "x", "time": "1960-01-01T00:00:00Z"}, "since 1970"),
    ],
)
async def test_what_is_no_mark_is_refused(body, what):
    async with served() as (stream, url), client_of(url) as client:
        answer = await client.post("api/marks", json=body)
        assert answer.status_code == 400
        assert what in answer.json()["error"]
        assert stream.marks() == []


async def test_a_form_of_another_page_makes_no_mark():
    async with served() as (stream, url), client_of(url) as client:
        answer = await client.post("api/marks", data={"text": "x"})
        assert answer.status_code == 415
        assert stream.marks() == []


@pytest.mark.slow
async def test_the_command_makes_lists_and_removes_marks():
    async with served(token="s3cret") as (stream, url):
        assert (await mark(url, "deploy"))[0] == 1
        with running("mark", "x", "--server", url, stderr=PIPE, env={"KVSTREAM_TOKEN": "s3cret"}) as process:
            assert await anyio.to_thread.run_sync(process.wait) == 0
        assert [each.text for each in stream.marks()] == ["x"]
    async with served() as (stream, url):
        code, (made,), _ = await mark(url, "deploy", "--at", "2027-01-01T06:00:00Z", "--source", "vllm-*")
        assert (code, made["text"], made["source"]) == (0, "deploy", "vllm-*")
        assert (await mark(url))[1] == [made]
        assert (await mark(url, "--remove", made["id"]))[0] == 0
        assert stream.marks() == []
        code, _, said = await mark(url, "--remove", made["id"])
        assert (code, "there is no mark with that id" in said) == (1, True)
