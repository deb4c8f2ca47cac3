"""A plugin that streams every block event out of vLLM's engine core, beside vLLM's own sampled metrics.

vLLM finds it by the entry point group ``vllm.general_plugins``. It is switched on by the environment:
``KVSTREAM_ENDPOINT`` names the ``kvstream serve`` to send to, ``KVSTREAM_TOKEN`` its token if it has one, and
``KVSTREAM_SOURCE`` the engine (``vllm`` by default), of which rank 1 is the source ``vllm/dp1``. vLLM must
collect its KV-cache metrics (``--kv-cache-metrics``), at whatever sample rate.
"""

import atexit
import functools
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import Any, Protocol, Self

import anyio
import anyio.from_thread
import numpy as np
from anyio.lowlevel import current_token

from kvstream._core.ids import group_salt
from kvstream._core.recorder import StepRecorder, hash_tails
from kvstream.config import StreamConfig
from kvstream.events.frame import I64
from kvstream.events.recorded import HasBlockId
from kvstream.recording.producer import Producer
from kvstream.transport.client import Connection, connect
from kvstream.transport.endpoint import Endpoint

_GROUP_BYTES = 4
_START_SECONDS = 5.0
_STOP_SECONDS = 2.0

_logger = logging.getLogger("kvstream")


Handler = Callable[[HasBlockId], None]
_hash_slot = attrgetter("_block_hash")


class EngineCollector(Protocol):
    """vLLM's own collector (``vllm.v1.core.kv_cache_metrics.KVCacheMetricsCollector``)."""

    sample_rate: float
    block_metrics: dict[int, Any]

    def on_block_allocated(self, block: Any) -> None:
        """Record that a block was handed out."""

    def on_block_accessed(self, block: Any) -> None:
        """Record that a block was found."""

    def on_block_evicted(self, block: Any) -> None:
        """Record that a block is about to be handed out again."""

    def reset(self) -> None:
        """Record that the cache was emptied."""

    def drain_events(self) -> list[Any]:
        """Eviction records since the last call."""


class StreamingCollector:
    """Stands where vLLM's collector stood, keeps it going, and records every event.

    Events of a scheduler step carry the time of its first one. Nothing here waits or raises: where
    kvstream fails, vLLM's metrics go on without it.

    Args:
        inner: vLLM's collector, which is called for the blocks that it samples.
        producer: Where the events go, with a policy that does not wait.
    """

    on_block_allocated: Handler
    on_block_accessed: Handler
    on_block_evicted: Handler

    def __init__(self, inner: EngineCollector, producer: Producer) -> None:
        self.inner, self.sample_rate = inner, inner.sample_rate
        self.block_metrics = inner.block_metrics
        self._producer, self._recorder = producer, producer.recorder(content_keys)
        self._handlers = _handlers(inner, self._recorder)
        self._first = tuple(map(self._noting_the_time, self._handlers))
        self._failed = False
        self._handle_by(self._first)

    def reset(self) -> None:
        """Record that the prefix cache was emptied."""
        self.inner.reset()
        self._end_step(cleared=True)

    def drain_events(self) -> list[Any]:
        """Return evictions among the blocks that vLLM samples since the last call, that is, the last step."""
        self._end_step()
        return self.inner.drain_events()

    def _handle_by(self, handlers: tuple[Handler, ...]) -> None:
        self.on_block_allocated, self.on_block_accessed, self.on_block_evicted = handlers

    def _noting_the_time(self, handler: Handler) -> Handler:
        """Return a handler of a step's first event, after which no event need look whether it is."""

        def handle(block: HasBlockId) -> None:
            self._recorder.begin_step()
            self._handle_by(self._handlers)
            handler(block)

        return handle

    def _end_step(self, cleared: bool = False) -> None:
        if self._failed:
            return
        try:
            if self._recorder.began_ns:
                self._recorder.end_step()
                self._handle_by(self._first)
            if cleared:
                self._producer.cleared_nowait()
        except Exception:
            _logger.exception("streaming of block events ends here; vLLM's own metrics go on")
            self._failed = True
            inner = self.inner
            self._handle_by((inner.on_block_allocated, inner.on_block_accessed, inner.on_block_evicted))


def _handlers(inner: EngineCollector, recorder: StepRecorder) -> tuple[Handler, ...]:
    """Return closures for an allocation, an access and an eviction, which are called for every block."""
    allocated, accessed, evicted = (
        recorder.allocated_nowait,
        recorder.accessed_nowait,
        recorder.evicted_nowait,
    )
    sampled, inner_accessed, inner_evicted = (
        inner.block_metrics,
        inner.on_block_accessed,
        inner.on_block_evicted,
    )
    inner_allocated = inner.on_block_allocated

    def on_allocated(block: HasBlockId) -> None:
        allocated(block)  # itself, as its content is known once the scheduler has filled it
        inner_allocated(block)

    def on_accessed(block: HasBlockId) -> None:
        block_id = block.block_id
        accessed(block_id)
        if block_id in sampled:
            inner_accessed(block)

    def on_evicted(block: HasBlockId) -> None:  # vLLM says so also of blocks that held nothing
        block_id = block.block_id
        evicted(block_id)
        if block_id in sampled:
            inner_evicted(block)

    return on_allocated, on_accessed, on_evicted


def content_keys(blocks: list[Any]) -> I64:
    """Return the content key of each block: the id that vLLM's KV events have for it; 0 for one without hash.

    A block that vLLM has cached holds its hash with four bytes of its cache group behind it. Blocks that are
    filled by output have none in the step that allocates them.

    Returns:
        int64 of shape (n,).
    """
    try:
        hashes = list(map(_hash_slot, blocks))  # what the property block_hash gives, at a quarter of its cost
    except AttributeError:
        hashes = [block.block_hash for block in blocks]
    tails, has_groups = hash_tails(hashes, _GROUP_BYTES)
    keys: I64 = np.frombuffer(tails, dtype=np.int64)
    if has_groups:  # of a model with several kinds of attention
        groups = np.frombuffer(hash_tails(hashes, 0)[0], dtype=np.int64) & 2 ** (8 * _GROUP_BYTES) - 1
        salts = [group_salt(group) if group else 0 for group in groups.tolist()]
        keys = keys ^ np.array(salts, dtype=np.uint64).view(np.int64)
    return keys


class BackgroundConnection:
    """A connection to ``kvstream serve`` on a thread of its own, for as long as the process lives.

    Args:
        endpoint: ``unix:PATH``, ``tcp://HOST:PORT`` or ``tls://HOST:PORT``, which trusts the system's roots
            or those of ``SSL_CERT_FILE``.
        token: What the server asks for.

    Raises:
        ConfigError: If the endpoint cannot be used.
    """

    def __init__(self, endpoint: str, token: str | None) -> None:
        Endpoint.parse(endpoint)
        self._endpoint, self._token = endpoint, token
        self._process = os.getpid()
        self._ready = threading.Event()
        self._connection: Connection | None = None
        self._stop: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="kvstream", daemon=True)

    def open(self) -> Self:
        """Start the thread, wait until it runs, and return this connection.

        Raises:
            TimeoutError: If the thread does not start in time.
        """
        self._thread.start()
        if not self._ready.wait(_START_SECONDS) or self._connection is None:
            raise TimeoutError("kvstream's thread did not start")
        atexit.register(self.close)
        return self

    def producer(self, source: str) -> Producer:
        """Return the producer of one engine's events; it drops its oldest frames where there is no room."""
        assert self._connection is not None  # noqa: S101
        return self._connection.producer(source, "gpu", "drop_oldest")

    def close(self) -> None:
        """Send what is left, for a little while, and end the thread."""
        atexit.unregister(self.close)
        if os.getpid() != self._process:
            return  # a forked child has no such thread, and must not wait for it
        with suppress(RuntimeError):  # it may have ended by itself
            if self._stop is not None:
                self._stop()
        self._thread.join(_STOP_SECONDS + 1)

    def _run(self) -> None:
        try:
            anyio.run(self._hold)
        except Exception:
            _logger.exception("the connection to %s has ended", self._endpoint)
        finally:
            self._ready.set()

    async def _hold(self) -> None:
        stopped = anyio.Event()
        token = current_token()
        self._stop = functools.partial(anyio.from_thread.run_sync, stopped.set, token=token)
        config = StreamConfig(shutdown_timeout=_STOP_SECONDS)
        async with connect(self._endpoint, token=self._token, config=config) as self._connection:
            self._ready.set()
            await stopped.wait()


def register() -> None:
    """Register with vLLM in each of its processes; do nothing unless ``KVSTREAM_ENDPOINT`` is set."""
    endpoint = os.environ.get("KVSTREAM_ENDPOINT")
    if not endpoint:
        return
    try:
        from vllm.v1.core.sched import scheduler

        _replace_collector(scheduler, endpoint)
    except Exception:  # whatever is wrong here must not keep an engine from starting
        _logger.exception("kvstream cannot stream block events out of this vLLM")


def _replace_collector(scheduler: Any, endpoint: str) -> None:
    """Make schedulers get a streaming collector where they make vLLM's."""
    original = scheduler.KVCacheMetricsCollector
    if hasattr(original, "streams_to"):
        return
    begin = scheduler.Scheduler.__init__
    rank = 0

    @functools.wraps(begin)
    def begin_with_rank(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal rank
        rank = vllm_config.parallel_config.data_parallel_rank
        begin(self, vllm_config, *args, **kwargs)

    def collector(sample_rate: float = 0.01) -> Any:
        inner = original(sample_rate)
        try:
            connection = BackgroundConnection(endpoint, os.environ.get("KVSTREAM_TOKEN")).open()
            source = f"{os.environ.get('KVSTREAM_SOURCE', 'vllm')}/dp{rank}"
            return StreamingCollector(inner, connection.producer(source))
        except Exception:
            _logger.exception("block events are not streamed to %s", endpoint)
            return inner

    collector.streams_to = endpoint  # type: ignore[attr-defined]
    scheduler.Scheduler.__init__ = begin_with_rank
    scheduler.KVCacheMetricsCollector = collector
    _logger.info("block events will be streamed to %s", endpoint)
