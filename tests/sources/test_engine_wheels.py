"""The publisher classes of real wheels of vLLM and SGLang, heard and asked for replays over ZMQ."""

import logging
import time
import types
from collections import Counter

import anyio
import pytest

from kvstream import KVStream
from kvstream.events.types import Labels
from kvstream.sources.zmq_events import KVEventSubscriber
from kvstream.text.pseudonym import pseudonym
from tests.ports import free_port
from tests.waiting import until
from tests.wheels import Wheel

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
BATCHES = 60


def vllm(monkeypatch):
    wheel = Wheel("vllm", monkeypatch)
    wheel.stand_in("vllm.config.kv_events", KVEventsConfig=types.SimpleNamespace)
    wheel.stand_in("vllm.logger", init_logger=logging.getLogger)
    wheel.stand_in(
        "vllm.utils.network_utils",
        get_ip=lambda: "127.0.0.1",
        get_tcp_uri=lambda host, port: f"tcp://{host}:{port}",
        is_valid_ipv6_address=lambda host: ":" in host,
        split_zmq_path=lambda path: ("tcp", "", path.rsplit(":", 1)[1]),
    )
    wheel.stand_in("vllm.v1.core.kv_cache_utils", ExternalBlockHash=int)
    return wheel.load("vllm.distributed.kv_events"), "data_parallel_rank"


def sglang(monkeypatch):
    wheel = Wheel("sglang", monkeypatch)
    wheel.stand_in("psutil", Process=object)
    wheel.stand_in("sglang.srt.runtime_context", get_parallel=lambda: None)
    wheel.load("sglang.srt.utils.network")
    return wheel.load("sglang.srt.disaggregation.kv_events"), "attn_dp_rank"


def batch(module, number):
    """A batch: a salted block and one after it are stored; of every third batch they are removed again."""
    labelled = {"session_id": "session"}
    if module.__name__.startswith("vllm"):
        labelled |= {"medium": "GPU", "lora_name": None, "extra_keys": [("salt",)]}
        after = {"medium": "GPU", "lora_name": None, "extra_keys": [None]}
    else:
        labelled |= {"cache_salt": "salt"}
        after = {"cache_salt": "salt"}
    first, second = 2 * number, (1 << 63) + 2 * number
    of_all = {"token_ids": [7] * 16, "block_size": 16, "lora_id": None}
    events = [
        module.BlockStored(block_hashes=[first], parent_block_hash=None, **of_all, **labelled),
        module.BlockStored(block_hashes=[second], parent_block_hash=first, **of_all, **after),
    ]
    if number % 3 == 0:
        events.append(module.BlockRemoved(block_hashes=[first, second], medium="GPU"))
    return module.KVEventBatch(ts=time.time(), events=events)


class Lossy:
    """A socket on which every seventh message is lost."""

    def __init__(self, socket):
        self._socket, self._sent = socket, 0

    def send_multipart(self, parts, *args, **kwargs):
        self._sent += 1
        if self._sent % 7:
            self._socket.send_multipart(parts, *args, **kwargs)

    def close(self, linger=0):
        self._socket.close(linger=linger)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("engine", [vllm, sglang])
async def test_every_batch_of_a_real_publisher_comes_once_and_in_order(engine, rank, monkeypatch):
    module, rank_name = engine(monkeypatch)
    port, replay = free_port(), free_port()
    publisher = module.ZmqEventPublisher(
        endpoint=f"tcp://*:{port - rank}",
        replay_endpoint=f"tcp://*:{replay - rank}",
        topic="kv",
        **{rank_name: rank},
    )
    publisher._pub = Lossy(publisher._pub)
    url = f"zmq://127.0.0.1:{port}?replay=tcp://127.0.0.1:{replay}&source=engine"
    subscriber, seen = KVEventSubscriber(url), []
    try:
        async with KVStream() as stream, anyio.create_task_group() as tasks:

            async def feed():
                async for item in subscriber.read():
                    seen.append(item)
                    await stream.send(item)

            tasks.start_soon(feed)
            for number in range(BATCHES):
                publisher.publish(batch(module, number))
                await anyio.sleep(0.01)
            await until(lambda: subscriber.statistics().batches >= BATCHES)
            await stream.flush()
            tasks.cancel_scope.cancel()
        summary = stream.summary_nowait()
    finally:
        publisher.shutdown()
    assert (subscriber.statistics().lost_batches, subscriber.statistics().malformed) == (0, 0)
    assert subscriber.statistics().replayed > 0
    stored = Counter(event.block for frame in seen for event in frame.to_events() if hasattr(event, "labels"))
    assert stored == {block: 1 for n in range(BATCHES) for block in (2 * n, 2 * n - (1 << 63))}
    assert [event.ts for frame in seen for event in frame.to_events()] == sorted(
        event.ts for frame in seen for event in frame.to_events()
    )
    assert (summary.accounts.allocations, summary.accounts.evicted) == (2 * BATCHES, 2 * BATCHES // 3)
    salt = pseudonym("salt", b"salt")
    labels = {event.labels for frame in seen for event in frame.to_events() if hasattr(event, "labels")}
    assert labels == {Labels(session=pseudonym("session", b"session"), salt=salt), Labels(salt=salt)}
    assert {frame.source for frame in seen} == {f"engine/dp{rank}"}
