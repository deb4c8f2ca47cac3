import json
import logging
import os
import signal
import sys
import threading
import time

import anyio
import pytest
from anyio import to_thread

from kvstream import ClosedStreamError, KVCacheMetricsCollector, KVStream, StreamConfig
from kvstream._core import recorder as installed
from kvstream.integrations.vllm import BackgroundConnection
from kvstream.transport.client import connect
from tests.interpreted import interpreted
from tests.waiting import DEADLINE

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    # From Python 3.12 on, to fork a process with threads warns, which is what is tried here.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

THREADS = 3


def in_child(work):
    """What ``work()`` returns in a forked child, which is killed if it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        answer = {"error": "ended early"}
        try:
            answer = work()
        except BaseException as error:
            answer = {"error": repr(error)}
        finally:
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
    os.close(writing)
    killer = threading.Timer(DEADLINE, os.kill, (child, signal.SIGKILL))
    killer.start()
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    killer.cancel()
    assert answer, "the child hung"
    return json.loads(answer)


class Recording:
    """Threads that record until they are stopped."""

    def __init__(self, *calls):
        self._calls = calls
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._record, args=(call,)) for call in calls]

    def _record(self, call):
        while not self._stop.is_set():
            call()

    def __enter__(self):
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def use(producer, recorder):
    """Everything that an engine may call."""
    for _ in range(50):
        producer.allocated_nowait(range(200))
        producer.accessed_nowait(7)
        producer.evicted_nowait(range(200))
        producer.cleared_nowait()
        recorder.allocated_nowait(range(100))
        recorder.accessed_nowait(1)
        recorder.end_step()
    return 50 * 503


def closed(call):
    try:
        call()
    except ClosedStreamError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("overflow", ["block", "drop_newest", "drop_oldest", "sample"])
async def test_a_forked_child_never_hangs_and_counts_what_it_is_asked_to_record(overflow):
    settings = StreamConfig(overflow=overflow, queue_events=2_000, frame_events=100, flush_seconds=0.001)
    async with KVStream(settings) as stream:
        producers = [stream.producer(f"engine-{n}") for n in range(THREADS)]
        recorders = [producer.recorder() for producer in producers]

        def work():
            before = stream.statistics().producers[0]
            recorded = use(producers[0], recorders[0])
            after = stream.statistics().producers[0]
            return {
                "recorded": recorded,
                "offered": after.offered - before.offered,
                "dropped": after.dropped.get("forked", 0) - before.dropped.get("forked", 0),
                "in_flight": stream.accounts().in_flight,
                "said": closed(lambda: stream.producer("another")),
                "own": anyio.run(own_stream),
            }

        def fork_often():
            with Recording(*(lambda p=p, r=r: use(p, r) for p, r in zip(producers, recorders, strict=True))):
                time.sleep(0.05)
                return [in_child(work) for _ in range(5)]

        answers = await to_thread.run_sync(fork_often)
    for answer in answers:
        assert "process that forked" in answer["said"]
        assert answer["offered"] == answer["dropped"] >= answer["recorded"]
        assert answer["in_flight"] == 0
        assert answer["own"] == 3
    assert stream.accounts().balanced


async def own_stream():
    async with KVStream() as stream:
        await stream.producer("child").allocated([1, 2, 3])
    return stream.summary_nowait().blocks_live


async def test_a_forked_connection_is_closed_and_another_can_be_made(tmp_path):
    path = tmp_path / "nobody.sock"
    async with connect(f"unix:{path}", config=StreamConfig(shutdown_timeout=0.01)) as remote:
        producer = remote.producer("engine", overflow="drop_oldest")
        recorder = producer.recorder()

        async def connect_here():
            async with connect(f"unix:{path}", config=StreamConfig(shutdown_timeout=0.01)) as own:
                own.producer("child").allocated_nowait([1, 2])
            return own.statistics().producers[0].offered

        def work():
            use(producer, recorder)
            return {"said": closed(lambda: remote.producer("x")), "own": anyio.run(connect_here)}

        with Recording(lambda: use(producer, recorder)):
            answer = await to_thread.run_sync(in_child, work)
    assert "process that forked" in answer["said"]
    assert answer["own"] == 2


def test_a_forked_collector_is_closed_until_it_is_reset():
    collector = KVCacheMetricsCollector()

    def record():
        collector.on_block_allocated(1)
        collector.on_block_evicted(1)

    def work():
        record()
        said = closed(collector.get_summary)
        collector.reset()
        collector.on_block_allocated(1)
        return {"said": said, "live": collector.get_summary().blocks_live}

    with Recording(record, collector.get_summary):
        answers = [in_child(work) for _ in range(5)]
    for answer in answers:
        assert "reset()" in answer["said"]
        assert answer["live"] == 1


async def test_a_forked_child_logs_one_line_and_not_one_for_each_call():
    async with KVStream() as stream:
        producer = stream.producer("engine")

        def work():
            lines = []
            handler = logging.Handler()
            handler.emit = lambda record: lines.append(record.getMessage())
            logging.getLogger("kvstream").addHandler(handler)
            for _ in range(1000):
                producer.allocated_nowait(1)
            return lines

        (line,) = await to_thread.run_sync(in_child, work)
    assert line.startswith("engine/gpu: events recorded after a fork are dropped")


async def test_an_engine_that_never_ends_its_steps_does_not_fill_a_forked_child():
    async with KVStream(StreamConfig(frame_events=100)) as stream:
        producer = stream.producer("engine")
        recorder = producer.recorder()

        def work():
            for _ in range(1_000):
                recorder.allocated_nowait(range(1_000))
                recorder.accessed_nowait(1)
            return len(recorder.take()[0])

        held = await to_thread.run_sync(in_child, work)
    assert held < 10_000


@pytest.mark.parametrize(
    "form", [installed, interpreted("kvstream._core.recorder")], ids=["installed", "interpreted"]
)
def test_a_closed_recorder_is_emptied_between_steps_too(form):
    taken = []
    recorder = form.StepRecorder(
        lambda: 5, 100, on_step=lambda: None, on_full=lambda: taken.append(recorder.take())
    )
    recorder.close()
    for block in range(10_000):
        recorder.accessed_nowait(block)
        recorder.evicted_nowait(block)
    taken.append(recorder.take())
    events = [len(ops) for ops, *_ in taken]
    assert sum(events) == 20_000
    assert max(events) < 5_000


def test_a_child_that_leaves_the_stream_by_an_exit_ends_at_once():
    async def main():
        async with KVStream() as stream:
            producer = stream.producer("engine")
            producer.allocated_nowait([1, 2, 3])
            if not os.fork():
                sys.exit(3)  # unwinds the stream's block in the child
            return await to_thread.run_sync(lambda: os.waitstatus_to_exitcode(os.wait()[1]))

    def work():
        process = os.getpid()
        try:
            return anyio.run(main)
        except BaseException as error:
            if os.getpid() != process:
                os._exit(error.code if isinstance(error, SystemExit) else 9)
            raise

    assert in_child(work) == 3


def test_a_forked_engine_does_not_wait_for_the_thread_of_its_connection(tmp_path):
    connection = BackgroundConnection(f"unix:{tmp_path / 'nobody.sock'}", None).open()
    try:
        assert in_child(lambda: connection.close() or "ended") == "ended"
    finally:
        connection.close()


def test_a_stream_that_was_not_open_is_opened_in_a_child():
    stream = KVStream()

    async def main():
        async with stream:
            await stream.producer("child").allocated([1, 2, 3])
        return stream.summary_nowait().blocks_live

    assert in_child(lambda: anyio.run(main)) == 3
