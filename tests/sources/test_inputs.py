"""Inputs of a service: files that come, go and cannot be read, beside others."""

import anyio
import pytest

from kvstream.errors import ConfigError, KVStreamError
from kvstream.sources import inputs
from kvstream.sources.inputs import live_input
from tests.waiting import DEADLINE, until

EVENT = '{"type":"alloc","block":1,"ts":1}\n'


class Pauses:
    """Ends pauses at once, and counts them."""

    def __init__(self, monkeypatch):
        self.count = 0
        self._sleep = anyio.sleep
        monkeypatch.setattr(inputs.anyio, "sleep", self.sleep)

    async def sleep(self, seconds):
        self.count += seconds == inputs._PAUSE_SECONDS
        await self._sleep(0)


async def test_a_file_that_is_missing_is_so_since_the_first_look(tmp_path, monkeypatch):
    pauses, path, taken = Pauses(monkeypatch), tmp_path / "e.jsonl", []

    async def take(item):
        taken.append(item)

    followed = live_input(str(path))
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: followed.deliver(take, is_alone=False))
            await until(lambda: pauses.count)
            (first,) = followed.statistics()
            assert (first.state, first.error) == ("error", "No such file or directory")
            await until(lambda: pauses.count > 3)
            assert followed.statistics() == [first]
            path.write_text("")
            await until(lambda: followed.statistics()[0].state == "connected")
            path.write_text(EVENT)
            await until(lambda: taken)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("error", [KVStreamError("the stream is closed"), OSError("the broker is gone")])
async def test_an_error_of_who_takes_what_a_file_brings_is_none_of_the_file(tmp_path, error):
    (tmp_path / "e.jsonl").write_text(EVENT)

    async def refuse(item):
        raise error

    with anyio.fail_after(DEADLINE), pytest.raises(type(error)) as raised:
        await live_input(str(tmp_path / "e.jsonl")).deliver(refuse, is_alone=False)
    assert raised.value is error


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vllm-0:5557", "an engine is zmq://vllm-0:5557 or http://vllm-0:5557"),
        ("zmp://vllm-0:5557", "did you mean zmq"),
        ("unix:/run/kvstream.sock", "kvstream serve --listen unix:/run/kvstream.sock"),
    ],
)
def test_an_address_that_is_none_is_not_awaited_as_a_file(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        live_input(name)
    (tmp_path / "vllm-0:5557").write_text(EVENT)
    live_input("vllm-0:5557")
