"""The parts that are measured: each makes fresh state and returns the work to time on it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from kvstream.bench.captures import captured_batches
from kvstream.bench.rival import Block, PlainCollector
from kvstream.bench.streams import busy, filling, keyed, labelled
from kvstream.blocks.table import BlockTable
from kvstream.collector import KVCacheMetricsCollector
from kvstream.engine.joining import joined_frames
from kvstream.engine.monitor import Monitor
from kvstream.events.clock import Clock
from kvstream.events.codec import decode_frame, decode_lines, encode_frame, encode_lines
from kvstream.events.frame import EventFrame
from kvstream.events.types import Op
from kvstream.recording.overflow import DropOldest
from kvstream.recording.producer import Producer
from kvstream.recording.queue import FrameQueue
from kvstream.sources.kv_events import KVEventDecoder
from kvstream.stream import KVStream

BLOCKS = 16_384
CONTENT_BLOCKS = 1_000_000
SMALL_FRAME = 64
SOURCES = 64
STEP_EVENTS = 64
FRAME_EVENTS = 4096
LINE_EVENTS = 3_000
BATCHES_AT_ONCE = 256  # of KV events, as captures are read

Work = Callable[[], object]
"""What is timed; a coroutine function is awaited."""

Steps = Sequence[Sequence[tuple[int, Any]]]
"""Operation codes and blocks, by scheduler steps."""

_ACCESS, _ALLOC = Op.ACCESS, Op.ALLOC
LOOP = "the loop that calls, with nothing called"
PLAIN, SAMPLED = "plain collector, 100 %", "plain collector, 1 % (the rival)"
RECORD_INTS = "record one at a time: ints, to the queue"
RECORD_BLOCKS = "record one at a time: block objects, to the queue"
COLLECT_INTS = "synchronous collector, one at a time, all included: ints"
COLLECT_BLOCKS = "synchronous collector, one at a time, all included"
ONE_AT_A_TIME = frozenset({PLAIN, SAMPLED, RECORD_INTS, RECORD_BLOCKS, COLLECT_INTS, COLLECT_BLOCKS})
"""Parts that spend some of their time in the loop that calls."""


class Parts:
    """The parts, over the same events as far as they can be.

    Args:
        events: Events that each part is given.
    """

    def __init__(self, events: int) -> None:
        fill = filling(min(BLOCKS, events // 2))
        whole = joined_frames([fill, busy(len(fill), events - len(fill))])
        self._frames = whole.cut(FRAME_EVENTS)
        self._keyed = labelled(keyed(whole)).cut(FRAME_EVENTS)
        self._encoded = [encode_frame(frame) for frame in self._frames]
        self._lines = [encode_lines(frame.to_events()) for frame in whole.cut(LINE_EVENTS)]
        blocks = [Block(i) for i in range(len(fill))]
        called = [(op, blocks[i]) for op, i in zip(whole.ops.tolist(), whole.blocks.tolist(), strict=True)]
        self._steps = [called[i : i + STEP_EVENTS] for i in range(0, events, STEP_EVENTS)]
        self._batches = [
            (int(frame.ops[0]), frame.blocks.tolist(), frame.blocks.copy())
            for frame in whole.cut(STEP_EVENTS)
        ]
        self._small = _interleaved(events)
        self._kv_batches = captured_batches(events)
        self._content_fill = filling(CONTENT_BLOCKS, content=True).cut(FRAME_EVENTS)
        self._content = busy(CONTENT_BLOCKS, events, content=True).cut(FRAME_EVENTS)

    def all(self) -> list[tuple[str, Callable[[], Work]]]:
        """Return the name of each part and what makes it."""
        small = [encode_frame(frame) for frame in self._small]
        numbered = [[(op, block.block_id) for op, block in step] for step in self._steps]
        return [
            (LOOP, self._call_nothing),
            (PLAIN, partial(self._plain, 1.0)),
            (SAMPLED, partial(self._plain, 0.01)),
            (RECORD_INTS, partial(self._record_each, numbered)),
            (RECORD_BLOCKS, partial(self._record_each, self._steps)),
            ("record 64 a call: lists, to the queue", partial(self._record_steps, 1)),
            ("record 64 a call: arrays, to the queue", partial(self._record_steps, 2)),
            ("record 64 a call: arrays, without a recorder", self._record_arrays),
            (COLLECT_INTS, partial(self._collect, numbered)),
            (COLLECT_BLOCKS, partial(self._collect, self._steps)),
            ("encode frames", lambda: lambda: [encode_frame(frame) for frame in self._frames]),
            ("decode frames", lambda: lambda: [decode_frame(data) for data in self._encoded]),
            ("decode JSON lines", lambda: lambda: [list(decode_lines(d, _no_bad)) for d in self._lines]),
            ("KV events of captures: all fields decoded with msgspec", self._decode_kv_events),
            ("KV events of captures: to frames", self._read_kv_events),
            ("apply to block state", self._apply),
            ("apply to block state: with labels and keys", self._apply_keyed),
            ("end to end: frames of 4,096", lambda: partial(_stream, self._frames)),
            ("end to end: frames of 4,096, encoded", lambda: partial(_stream_encoded, self._encoded)),
            ("end to end: frames of 64, 64 sources", lambda: partial(_stream, self._small)),
            ("end to end: frames of 64, 64 sources, encoded", lambda: partial(_stream_encoded, small)),
            ("end to end: JSON lines", lambda: partial(_stream_lines, self._lines)),
            ("content hashes, 1 M live: frames to rules", self._apply_content),
        ]

    def _call_nothing(self) -> Work:
        def work() -> None:
            for step in self._steps:
                for op, _block in step:
                    if op == _ACCESS:
                        continue
                    if op == _ALLOC:
                        continue

        return work

    def _plain(self, rate: float) -> Work:
        collector = PlainCollector(rate)

        def work() -> None:
            for step in self._steps:
                for op, block in step:
                    if op == _ACCESS:
                        collector.accessed(block)
                    elif op == _ALLOC:
                        collector.allocated(block)
                    else:
                        collector.evict(block)

        return work

    def _record_each(self, steps: Steps) -> Work:
        async def work() -> None:
            recorder = _producer().recorder()
            for step in steps:
                for op, block in step:
                    if op == _ACCESS:
                        recorder.accessed_nowait(block)
                    elif op == _ALLOC:
                        recorder.allocated_nowait(block)
                    else:
                        recorder.evicted_nowait(block)
                recorder.end_step()

        return work

    def _record_steps(self, form: int) -> Work:
        batches: list[tuple[int, Any]] = [(batch[0], batch[form]) for batch in self._batches]

        async def work() -> None:
            recorder = _producer().recorder()
            for op, ids in batches:
                if op == Op.ACCESS:
                    recorder.accessed_nowait(ids)
                elif op == Op.ALLOC:
                    recorder.allocated_nowait(ids)
                else:
                    recorder.evicted_nowait(ids)
                recorder.end_step()

        return work

    def _record_arrays(self) -> Work:
        async def work() -> None:
            producer = _producer()
            for op, _, ids in self._batches:
                if op == Op.ACCESS:
                    producer.accessed_nowait(ids)
                elif op == Op.ALLOC:
                    producer.allocated_nowait(ids)
                else:
                    producer.evicted_nowait(ids)

        return work

    def _collect(self, steps: Steps) -> Work:
        collector = KVCacheMetricsCollector()

        def work() -> None:
            for step in steps:
                for op, block in step:
                    if op == _ACCESS:
                        collector.on_block_accessed(block)
                    elif op == _ALLOC:
                        collector.on_block_allocated(block)
                    else:
                        collector.on_block_evicted(block)
            collector.flush()

        return work

    def _decode_kv_events(self) -> Work:
        decode = msgspec.msgpack.Decoder().decode
        return lambda: [len(decode(payload)) for payload in self._kv_batches]

    def _read_kv_events(self) -> Work:
        decoder = KVEventDecoder("bench")

        def work() -> None:
            for number, payload in enumerate(self._kv_batches, 1):
                decoder.add(payload)
                if not number % BATCHES_AT_ONCE:
                    decoder.frames()
            decoder.frames()

        return work

    def _apply(self) -> Work:
        table = BlockTable("bench", "gpu")
        return lambda: [table.apply(frame, records=False) for frame in self._frames]

    def _apply_keyed(self) -> Work:
        table = BlockTable("bench", "gpu", changes=True, label_sets=64)
        return lambda: [table.apply(frame, records=False) for frame in self._keyed]

    def _apply_content(self) -> Work:
        monitor = Monitor()
        monitor.process_batch(self._content_fill)

        def work() -> None:
            monitor.process_batch(self._content)
            monitor.summary()

        return work


def _producer() -> Producer:
    """Return a producer with a queue that drops its oldest frames, as nothing takes them."""
    queue = FrameQueue(65_536)
    return Producer(
        "bench", "gpu", queue, DropOldest(), FRAME_EVENTS, Clock(), lambda _: None, lambda _: None
    )


def _interleaved(events: int) -> list[EventFrame]:
    """Small frames of many sources by turns; ``events`` in all, about."""
    each = events // SOURCES // SMALL_FRAME * SMALL_FRAME or SMALL_FRAME
    cut = []
    for number in range(SOURCES):
        source = f"engine-{number}"
        fill = filling(min(1024, each // 2), source=source)
        frames = [fill, busy(len(fill), each - len(fill), source=source, seed=number)]
        cut.append(joined_frames(frames).cut(SMALL_FRAME))
    return [frame for turn in zip(*cut, strict=True) for frame in turn]


async def _stream(frames: list[EventFrame]) -> None:
    async with KVStream() as stream:
        for frame in frames:
            await stream.send(frame)
    stream.summary_nowait()


async def _stream_encoded(encoded: list[bytes]) -> None:
    async with KVStream() as stream:
        for data in encoded:
            await stream.send(decode_frame(data))
    stream.summary_nowait()


async def _stream_lines(chunks: list[bytes]) -> None:
    async with KVStream() as stream:
        for chunk in chunks:
            for frame in decode_lines(chunk, _no_bad):
                await stream.send(frame)
    stream.summary_nowait()


def _no_bad(number: int, reason: str) -> None:
    raise AssertionError(f"line {number}: {reason}")
