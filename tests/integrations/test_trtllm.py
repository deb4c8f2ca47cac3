"""The poller against a stand-in for ``tensorrt_llm.LLM``, and its publisher's messages over a real socket."""

import asyncio
import json
import logging
from contextlib import aclosing

import anyio
import anyio.lowlevel
import msgspec
import pytest

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.integrations.trtllm import EventPoller
from kvstream.transport.client import connect
from tests.publisher import Engine as Publisher
from tests.sources.test_trtllm import created, moved, removed, stored
from tests.sources.test_zmq_events import settled, subscribed
from tests.transport.test_server import serving
from tests.waiting import DEADLINE

TOKENS = 9001  # that the events hold, and nothing of which may be kept


class Engine:
    """An engine's queue of events, with the ways of ``IterationResult``.

    It ends where none comes within the timeout, stays ended until the next request, and there is none before
    the first one.
    """

    def __init__(self, form=json.loads):
        self.queue = asyncio.Queue()
        self.has_requests = False
        self.polls = 0
        self._form, self._ended = form, False

    def serve(self, *lines):
        self.has_requests, self._ended = True, False
        for line in lines:
            self.queue.put_nowait(line)

    def get_kv_cache_events_async(self, timeout=2):
        self.polls += 1
        assert self.has_requests, "KV Event IterationResult is not properly instantiated."
        self.timeout = timeout
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self._ended:
            raise StopAsyncIteration
        try:
            return self._form(await asyncio.wait_for(self.queue.get(), self.timeout))
        except TimeoutError:
            self._ended = True
            raise StopAsyncIteration from None


class Draining:
    """A proxy of an engine in another process: it drains all events at once, then yields them one by one."""

    def __init__(self):
        self.events = []

    async def get_kv_cache_events_async(self, timeout):  # noqa: ASYNC109
        events, self.events = self.events, []
        for event in events:
            yield event


async def frames_of(poller, events):
    """Everything read until it holds that many events."""
    items, count = [], 0
    with anyio.fail_after(DEADLINE):
        async with aclosing(poller.read()) as reading:
            async for item in reading:
                items.append(item)
                count += len(item) if isinstance(item, EventFrame) else item.count
                if count >= events:
                    break
    return items


def config():
    return StreamConfig(metrics=MetricsConfig(export_interval=0.0))


@pytest.mark.parametrize("form", [json.loads, bytes.decode, lambda line: [json.loads(line)]])
async def test_every_form_of_event_becomes_frames(form):
    engine = Engine(form)
    engine.serve(created(), stored(1, [1, 2, 3]), removed(2, [3]), moved(3, 1, 0, 1))
    poller = EventPoller(engine, "trt", clock=lambda: 5_000)
    items = await frames_of(poller, 6)
    assert [(item.tier, item.blocks.tolist(), item.ops.tolist()) for item in items] == [
        ("gpu", [1, 2, 3, 3, 1], [4, 4, 4, 2, 2]),
        ("cpu", [1], [4]),
    ]
    assert poller.statistics() == (0, 0, 4, 0, 0)


async def test_an_engine_before_its_first_request_is_asked_again(caplog):
    engine = Engine()
    poller = EventPoller(engine)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:

            async def first_request():
                while not engine.polls:
                    await anyio.lowlevel.checkpoint()
                engine.serve(created(), stored(1, [5]))

            tasks.start_soon(first_request)
            (frame,) = await frames_of(poller, 1)
    assert frame.blocks.tolist() == [5]
    assert poller.statistics().failed_polls == 1
    assert "not properly instantiated" in caplog.text


async def test_nothing_of_what_a_poll_has_drained_is_lost():
    engine = Draining()
    engine.events = [json.loads(created()), *(json.loads(stored(n, [n])) for n in range(1, 2_001))]
    items = await frames_of(EventPoller(engine), 2_000)
    assert [block for item in items for block in item.blocks.tolist()] == list(range(1, 2_001))


async def test_events_that_the_engine_dropped_are_counted_and_reported(caplog):
    engine = Engine()
    engine.serve(created(), stored(1, [1]), stored(8, [2]))
    poller = EventPoller(engine, "trt")
    async with KVStream(config()) as stream:
        with anyio.move_on_after(DEADLINE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.feed, poller.read())
                while stream.summary_nowait().accounts.allocations < 2:  # noqa: ASYNC110
                    await anyio.sleep(0.005)
                tasks.cancel_scope.cancel()
        assert stream.summary_nowait("trt").accounts.lost_frames == 6
    assert poller.statistics().lost_events == 6
    assert "the engine dropped 6 events" in caplog.text


@pytest.mark.parametrize(
    "event", [None, 7, {}, {"data": 5}, {"event_id": 3, "data": {"blocks": [1]}}, "{", b"\xff"]
)
async def test_what_is_no_event_is_malformed_and_the_rest_goes_on(event):
    engine = Draining()
    engine.events = [json.loads(created()), [event], json.loads(stored(1, [4]))]
    poller = EventPoller(engine, "trt")
    malformed, frame = await frames_of(poller, 2)
    assert isinstance(malformed, Malformed)
    assert (malformed.origin, malformed.unit, malformed.position) == ("trt", "event", 2)
    assert frame.blocks.tolist() == [4]
    assert poller.statistics().malformed == 1


async def test_events_reach_a_server_in_another_process_and_tokens_do_not(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    engine = Engine()
    engine.serve(created(), *(stored(n, [n]) for n in range(1, 601)), removed(601, list(range(1, 101))))
    with anyio.fail_after(DEADLINE):
        async with serving(f"unix:{tmp_path}/kv.sock") as (stream, server):
            async with connect(str(server.endpoint)) as connection, anyio.create_task_group() as tasks:
                tasks.start_soon(EventPoller(engine, "trt").run, connection)
                while stream.summary_nowait().total_evictions < 100:  # noqa: ASYNC110
                    await anyio.sleep(0.005)
                tasks.cancel_scope.cancel()
            accounts = stream.summary_nowait("trt", "gpu").accounts
            assert (accounts.allocations, accounts.live) == (600, 500)
    assert str(TOKENS) not in caplog.text


async def test_the_streaming_publisher_is_read_over_zmq():
    """Messages as ``KvZmqPublisher`` sends them: an event each, signed hashes, hashes in place of tokens."""
    stores = [
        {
            "type": "BlockStored",
            "block_hashes": [-1, 2**62],
            "parent_block_hash": None,
            "tokens_hashes": [-5, 6],
            "block_size": 32,
            "lora_name": "sql",
            "block_mm_infos": [None, {"mm_objects": [{"mm_hash": 7, "offsets": []}]}],
        },
        {"type": "BlockRemoved", "block_hashes": [-1]},
        {"type": "BlockStored", "block_hashes": [], "parent_block_hash": -1, "tokens_hashes": []},
    ]
    payloads = [msgspec.msgpack.encode([1.8e9 + n, [event], 3]) for n, event in enumerate(stores)]
    with Publisher() as publisher:
        async with subscribed(publisher) as (stream, (subscriber,)):
            publisher.publish(payloads)
            await settled(stream, subscriber, len(payloads))
            summary = stream.summary_nowait()
            assert (summary.accounts.allocations, summary.total_evictions, summary.blocks_live) == (2, 1, 1)
            assert {of.value for of in summary.labels["lora"]} == {"sql"}
            publisher.publish([msgspec.msgpack.encode([1.8e9 + 9, [{"type": "AllBlocksCleared"}], 3])])
            await settled(stream, subscriber, len(payloads) + 1)
            assert stream.summary_nowait().accounts.cleared == 1
