"""A file of targets that is watched."""

import json
import os

import anyio
import pytest

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.sources import engine_input
from kvstream.sources.targets import Targets, read_targets
from kvstream.stream import KVStream
from tests.publisher import Engine, stored
from tests.sources.test_engine_input import live, states
from tests.waiting import DEADLINE, until


def write(path, *targets):
    """Replace a file at once, as file_sd's writers do."""
    new = path.with_name("new")
    new.write_text(json.dumps([{"targets": list(targets), "labels": {"job": "vllm"}}]))
    os.replace(new, path)


def test_files_are_json_in_the_manner_of_file_sd_or_toml(tmp_path):
    path = tmp_path / "targets.json"
    path.write_text('[{"targets": ["zmq://a:1", "zmq://b:1"]}, {"targets": ["zmq://a:1"], "labels": {}}]')
    assert read_targets(path) == ["zmq://a:1", "zmq://b:1"]
    path = tmp_path / "targets.toml"
    path.write_text('[[group]]\ntargets = ["zmq://a:1"]\n[[group]]\ntargets = ["http://b:1"]\n')
    assert read_targets(path) == ["zmq://a:1", "http://b:1"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", "{"),
        ("t.json", "{}"),
        ("t.toml", "group = " + "1" * 5000),
        ("t.json", '["zmq://a:1"]'),
        ("t.json", '[{"targets": "zmq://a:1"}]'),
        ("t.json", '[{"targets": [1]}]'),
        ("t.json", "[" * 100_000),
        ("t.toml", "targets = 1"),
        ("t.toml", "[[group]"),
        ("missing.json", None),
    ],
)
def test_what_is_no_file_of_targets_is_an_error_that_names_it(tmp_path, name, text):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=name):
        read_targets(path)


async def test_targets_are_added_and_removed_while_it_runs(tmp_path):
    path = tmp_path / "targets.json"
    with Engine() as one, Engine() as other:
        first, second = (
            engine.url.replace("=engine", f"={name}") for engine, name in ((one, "one"), (other, "two"))
        )
        write(path, first)
        targets = Targets.read(path, look_seconds=0.02)
        with anyio.fail_after(DEADLINE):
            async with KVStream() as stream, anyio.create_task_group() as tasks:
                stream.watch_inputs(targets.statistics)
                tasks.start_soon(targets.deliver, stream.take, stream.forget)
                one.publish([stored(1)])
                other.publish([stored(1, 2)])
                await until(lambda: live(stream) == {"one": 1})
                write(path, first, second)
                await until(lambda: live(stream) == {"one": 1, "two": 2})
                path.write_text("[{")  # which changes nothing
                await until(lambda: "error" in states(stream))
                assert str(path) in stream.inputs()[0].error
                one.publish([stored(3)])
                await until(lambda: live(stream) == {"one": 2, "two": 2})
                write(path, second, "zmq://nonsense")
                await until(lambda: live(stream) == {"two": 2})
                (wrong, *rest) = stream.inputs()
                assert "zmq://nonsense" in wrong.input
                assert [seen.input for seen in rest] == [second]
                assert stream.accounts().balanced
                tasks.cancel_scope.cancel()


def test_a_target_that_is_none_at_the_start_is_an_error(tmp_path):
    path = tmp_path / "targets.json"
    write(path, "zmq://nonsense")
    with pytest.raises(ConfigError, match="nonsense"):
        Targets.read(path)


async def test_a_target_that_needs_a_package_that_is_missing_ends_no_other(tmp_path, monkeypatch):
    path = tmp_path / "targets.json"
    with Engine() as engine:
        write(path, engine.url)
        targets = Targets.read(path, look_seconds=0.02)
        with anyio.fail_after(DEADLINE):
            async with KVStream() as stream, anyio.create_task_group() as tasks:
                stream.watch_inputs(targets.statistics)
                tasks.start_soon(targets.deliver, stream.take, stream.forget)
                await until(lambda: states(stream) == ["connected"])

                def lack():
                    raise MissingExtraError("reading http://", "zmq")

                monkeypatch.setattr(engine_input, "require_http", lack)
                write(path, engine.url, "http://sglang:30000")
                await until(lambda: states(stream) == ["error", "connected"])
                assert "pip install 'kvstream[zmq]'" in stream.inputs()[0].error
                tasks.cancel_scope.cancel()
