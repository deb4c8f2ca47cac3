"""Engines by their names, over real sockets."""

import itertools
import json
from contextlib import ExitStack, asynccontextmanager

import anyio
import numpy as np
import pytest
import trio
from trio.testing import MockClock

from kvstream.errors import ConfigError, MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.sources.engine_input import EngineInput
from kvstream.sources.zmq_events import KVEventSubscriber
from kvstream.stream import KVStream
from tests.ports import answering, free_ports
from tests.publisher import Engine, stored
from tests.waiting import DEADLINE, until


@asynccontextmanager
async def following(url, **options):
    """A stream that follows an engine."""
    engine = EngineInput(url, **options)
    with anyio.fail_after(DEADLINE):
        async with KVStream() as stream, anyio.create_task_group() as tasks:
            stream.watch_inputs(engine.statistics)
            tasks.start_soon(engine.deliver, stream.take, stream.forget)
            yield stream
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def ranks(count, first=None):
    """Publishers at ports one after another, as data-parallel ranks are."""
    first = first or free_ports(count)
    with ExitStack() as stack:
        engines = [
            stack.enter_context(Engine(endpoints=(f"tcp://127.0.0.1:{first + rank}", "tcp://127.0.0.1:*")))
            for rank in range(count)
        ]
        yield first, engines


def states(stream):
    return [seen.state for seen in stream.inputs()]


def live(stream):
    return {source: stream.summary_nowait(source).blocks_live for source, _ in stream.caches()}


async def test_each_rank_of_one_address_is_a_source():
    async with ranks(3) as (first, engines):
        async with following(f"zmq://127.0.0.1:{first}?dp=3&source=vllm") as stream:
            await until(lambda: states(stream) == ["connected"] * 3)
            for rank, engine in enumerate(engines):
                engine.publish([stored(1)])  # which names no rank, as older engines do
                engine.publish([stored(*range(1, 2 + rank), rank=0)])  # or all name the same
            await until(lambda: sum(live(stream).values()) == 6)
            assert live(stream) == {"vllm/dp0": 1, "vllm/dp1": 2, "vllm/dp2": 3}


async def test_a_rank_that_is_missing_ends_no_other_and_is_seen():
    async with ranks(2) as (first, engines):
        async with following(f"zmq://127.0.0.1:{first}?dp=3&source=vllm") as stream:
            await until(lambda: states(stream) == ["connected", "connected", "not connected"])
            for engine in engines:
                engine.publish([stored(1)])
            await until(lambda: live(stream) == {"vllm/dp0": 1, "vllm/dp1": 1})
            missing = stream.inputs()[2]
            assert f"tcp://127.0.0.1:{first + 2} rank 2" in missing.input
            assert missing.error == "nobody answers there"


async def test_sglang_by_its_url_alone_also_when_it_moves_and_comes_later():
    described = None

    def answer(path):
        return 200, json.dumps({"kv_events": described}).encode()

    with answering(answer) as url:
        async with following(f"{url}?source=sglang", refresh_seconds=0.05) as stream:
            await until(lambda: states(stream) == ["not connected"])
            assert "--kv-events-config" in stream.inputs()[0].error
            async with ranks(2) as (first, engines):
                described = {"endpoint_host": "*", "endpoint_port_base": first, "dp_size": 2}
                await until(lambda: states(stream) == ["connected"] * 2)
                for engine in engines:
                    engine.publish([stored(1)])
                await until(lambda: live(stream) == {"sglang/dp0": 1, "sglang/dp1": 1})
                async with ranks(1) as (other, (engine,)):
                    described = {"endpoint_host": "*", "endpoint_port_base": other, "dp_size": 1}
                    # What is there no more is forgotten, so that its silence alerts nobody.
                    await until(lambda: live(stream) == {} and states(stream) == ["connected"])
                    engine.publish([stored(1, 2)])
                    await until(lambda: live(stream) == {"sglang/dp0": 2})
            assert stream.accounts().balanced


async def test_what_takes_the_events_may_end_it():
    async def take(item):
        raise MalformedInputError("enough")

    with Engine() as engine:
        engine.publish([stored(1)])
        with anyio.fail_after(DEADLINE), pytest.raises(ExceptionGroup) as raised:
            await EngineInput(engine.url).deliver(take)
        assert raised.group_contains(MalformedInputError)


@pytest.mark.parametrize("is_alone", [True, False])
async def test_an_endpoint_that_cannot_be_bound_to_ends_only_what_is_alone(is_alone):
    async with ranks(1) as (port, _):
        engine = EngineInput(f"zmq://0.0.0.0:{port}")
        with anyio.fail_after(DEADLINE):
            if is_alone:
                with pytest.raises(ExceptionGroup) as raised:
                    await engine.deliver(lambda item: None)
                assert raised.group_contains(ConfigError, match="cannot bind")
                return
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: engine.deliver(lambda item: None, is_alone=False))
                await until(lambda: engine.statistics()[0].state == "error")
                assert "cannot bind" in engine.statistics()[0].error
                tasks.cancel_scope.cancel()


def test_pauses_between_tries_grow_until_a_publisher_brings_frames(monkeypatch):
    tries, taken = [], []

    async def read(subscriber, marker_of):
        tries.append(trio.current_time())
        if len(tries) == 4:
            yield EventFrame(np.zeros(1, np.uint8), np.zeros(1, np.int64), np.ones(1, np.int64), "s")
        raise OSError("no more sockets")

    async def take(frame):
        taken.append(frame)

    async def follow():
        with anyio.move_on_after(60):
            await EngineInput("zmq://127.0.0.1:5557").deliver(take)

    monkeypatch.setattr(KVEventSubscriber, "read", read)
    trio.run(follow, clock=MockClock(autojump_threshold=0))
    assert len(taken) == 1
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses == pytest.approx([1, 2, 4, 1, 2, 4, 8, 16])
