"""Rounds of mutants in this process: decoders, servers and the application, with their accounts checked."""

import itertools
import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.engine.monitor import Monitor
from kvstream.errors import KVStreamError, MalformedInputError
from kvstream.events.codec import decode_frame, encode_frame
from kvstream.events.frame import EventFrame
from kvstream.sources.inputs import Input, live_and_recorded
from kvstream.sources.options import ReadOptions
from kvstream.sources.publisher import Publisher
from kvstream.sources.reader import EventReader
from kvstream.sources.synthetic import generate
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.messages import Hello
from kvstream.transport.server import FrameServer
from kvstream.web import create_app
from tests.faults import mutants
from tests.faults.tally import Tally, kind_of
from tests.waiting import DEADLINE

_AT_ONCE = 200  # frames
_REAL_FILES = 20  # a round
_hello_decoder = msgspec.msgpack.Decoder(Hello)


def seeded(kind: str, seed: int) -> random.Random:
    return random.Random(f"{kind} {seed}")


class _Followed:
    """A monitor of what was decoded, which must account for all of it."""

    def __init__(self, tally: Tally, seed: int) -> None:
        self._tally, self._seed = tally, seed
        self._start()

    def _start(self) -> None:
        self._monitor = Monitor(MetricsConfig(max_caches=64))
        self._offered = 0
        self._waiting: list[EventFrame] = []

    def take(self, frames: list[EventFrame], mutant: bytes = b"") -> None:
        """Apply frames, those of a source together, once there are many."""
        self._waiting += frames
        if len(self._waiting) >= _AT_ONCE:
            self._apply(mutant)

    def _apply(self, mutant: bytes = b"") -> None:
        frames, self._waiting = self._waiting, []
        by_source: dict[str, list[EventFrame]] = {}
        for frame in frames:
            by_source.setdefault(frame.source, []).append(frame)
        for of_source in by_source.values():
            try:
                self._monitor.process_batch(of_source, records=True)
            except Exception as error:
                self._tally.crash(self._seed, error, mutant)
                self._start()  # what is half applied adds up no more
                return
            self._offered += sum(map(len, of_source))

    def check(self) -> None:
        """Close windows and look whether everything adds up."""
        self._apply()
        try:
            self._monitor.finish()
            summary = self._monitor.summary()
            msgspec.json.encode(summary.to_dict())
        except Exception as error:
            self._tally.crash(self._seed, error)
            return
        accounts = summary.accounts
        if not accounts.balanced or accounts.offered != self._offered:
            self._tally.crash(self._seed, f"accounts do not add up: {self._offered} offered, {accounts}")


# Frames, payloads and files: decoders in this process, a monitor behind them.


def frames(tally: Tally, seed: int, count: int) -> None:
    rng, followed = seeded("frames", seed), _Followed(tally, seed)
    for _ in range(count):
        data = mutants.frame(rng)
        try:
            frame = decode_frame(data)
        except MalformedInputError as error:
            reason = str(error)
            tally.count(kind_of(reason), not reason.startswith(("not a frame", "frame version")))
            continue
        except Exception as error:
            tally.count("crashed", True)
            tally.crash(seed, error, data)
            continue
        tally.count("decoded", True)
        followed.take([frame], data)
        if tally.mutants % 16 == 0:
            _same_again(tally, seed, frame)
    followed.check()


def _same_again(tally: Tally, seed: int, frame: EventFrame) -> None:
    """What is encoded again is decoded to the same."""
    data = encode_frame(frame)
    if encode_frame(decode_frame(data)) != data or frame.to_events() != decode_frame(data).to_events():
        tally.crash(seed, "a frame changes by encoding and decoding", data)


def payloads(tally: Tally, seed: int, count: int) -> None:
    rng, followed = seeded("payloads", seed), _Followed(tally, seed)
    publisher = Publisher("mutants", "publisher")
    for start in range(0, count, 50):
        batch = [mutants.payload(rng) for _ in range(min(50, count - start))]
        try:
            for position, data in enumerate(batch, start):
                publisher.deliver(position, data)
            items = publisher.take()
        except Exception as error:
            tally.crash(seed, error, b"".join(batch))
            for _ in batch:
                tally.count("crashed", True)
            publisher = Publisher("mutants", "publisher")
            continue
        reasons = {item.position: item.reason for item in items if not isinstance(item, EventFrame)}
        for position in range(start, start + len(batch)):
            reason = reasons.get(position, "decoded").removeprefix("event ")
            tally.count(kind_of(reason), not reason.startswith("not a batch"))
        followed.take([item for item in items if isinstance(item, EventFrame)])
    followed.check()


def files(tally: Tally, seed: int, count: int) -> None:
    rng, followed = seeded("files", seed), _Followed(tally, seed)
    for _ in range(count):
        kind, data = mutants.file(rng)
        try:
            items, refused = _read(kind, data, rng)
        except Exception as error:
            tally.count("crashed", True)
            tally.crash(seed, error, data)
            continue
        frames = [item for item in items if isinstance(item, EventFrame)]
        reasons = [item.reason for item in items if not isinstance(item, EventFrame)]
        outer = ("compressed data", "trailing bytes", "not a record", "not the beginning", "not a frame")
        deeper = [reason for reason in reasons if not reason.startswith(outer)]
        outcome = refused or (kind_of((deeper or reasons)[0]) if reasons else "decoded")
        tally.count(f"{kind}: {outcome}", bool(frames or deeper))
        followed.take(frames, data)
    followed.check()
    try:
        anyio.run(_files_of_a_folder, rng, tally, seed)
    except Exception as error:
        tally.crash(seed, error)


async def _files_of_a_folder(rng: random.Random, tally: Tally, seed: int) -> None:
    """Some more as real files, read into a stream together as ``kvstream run`` does."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = []
        for number in range(_REAL_FILES):
            kind, data = mutants.file(rng)
            path = Path(folder) / f"{number}.{kind}"
            path.write_bytes(data)
            inputs.append(Input.find(str(path)))
        refused: list[Exception] = []
        async with KVStream(quiet_config()) as stream:
            _, (items,) = live_and_recorded(inputs, ReadOptions(capacity=16), on_unreadable=refused.append)
            await stream.feed(items)
            await stream.flush()
    check_accounts(tally, seed, stream)


def _read(kind: str, data: bytes, rng: random.Random) -> tuple[list[Any], str | None]:
    """Read a file in pieces; what it held, and why it was refused if it was."""
    reader, items = EventReader(f"mutant.{kind}", ReadOptions(capacity=16)), []
    edges = [0, *sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(3))), len(data)]
    try:
        for start, end in itertools.pairwise(edges):
            items += reader.feed(data[start:end])
        items += reader.finish()
    except KVStreamError as error:
        return items, f"{type(error).__name__}"
    return items, None


# Hellos and requests: a stream in this process, the real server or application before it.


def in_event_loop(rounds: Callable[[Tally, int, int], Any]) -> Callable[[Tally, int, int], None]:
    """Make a round of one that is asynchronous; an error that comes out of it is a crash."""

    def run(tally: Tally, seed: int, count: int) -> None:
        try:
            anyio.run(rounds, tally, seed, count)
        except Exception as error:
            tally.crash(seed, error)

    return run


async def hellos(tally: Tally, seed: int, count: int) -> None:
    rng = seeded("hellos", seed)
    with tempfile.TemporaryDirectory() as folder:
        endpoint = Endpoint(path=f"{folder}/kv.sock")
        async with KVStream(quiet_config()) as stream:
            server = FrameServer(stream, endpoint, token=mutants.TOKEN)
            await server.bind()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve)
                for start in range(0, count, 40):
                    async with anyio.create_task_group() as clients:
                        for _ in range(min(40, count - start)):
                            data, leaves = mutants.hello(rng, mutants.TOKEN), rng.randrange(4) == 0
                            clients.start_soon(_say_hello, tally, endpoint.path, data, leaves)
                with anyio.fail_after(DEADLINE):
                    while server.statistics().connections:  # noqa: ASYNC110 - it tells no other way
                        await anyio.sleep(0.001)
                await stream.flush()
                tasks.cancel_scope.cancel()
        check_accounts(tally, seed, stream)


async def _say_hello(tally: Tally, path: str, data: bytes, leaves: bool) -> None:
    answers = bytearray()
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        async with await anyio.connect_unix(path) as connection:
            await connection.send(data)
            if not leaves:
                await connection.send_eof()
                with suppress(anyio.EndOfStream):
                    while True:
                        answers += await connection.receive()
    tally.count(said(answers, leaves), is_hello(data))


def is_hello(data: bytes) -> bool:
    """Whether the first message is whole and a hello by its form."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 + length or length > 4096:
        return False
    try:
        _hello_decoder.decode(data[4 : 4 + length])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def said(answers: bytes | bytearray, leaves: bool) -> str:
    if leaves:
        return "left at once"
    if not answers:
        return "no answer"
    length = int.from_bytes(answers[:4], "big")
    try:
        first = msgspec.msgpack.decode(answers[4 : 4 + length])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "an answer of another form"
    if isinstance(first, int):
        return "admitted"
    # The name of another protocol stands first in its answer.
    return kind_of(f"refused: {str(first)[str(first).find(' is not kvstream') + 1 :]}")


def quiet_config() -> StreamConfig:
    """Return settings of a stream that says nothing by itself and drains whatever there is."""
    metrics = MetricsConfig(export_interval=0.0, max_caches=64)
    return StreamConfig(metrics=metrics, shutdown_timeout=DEADLINE)


def check_accounts(tally: Tally, seed: int, stream: KVStream) -> None:
    """Note a stream in which events are missing or on their way for ever."""
    accounts = stream.summary_nowait().accounts
    if not accounts.balanced or accounts.in_flight:
        tally.crash(seed, f"accounts do not add up: {accounts}")


async def requests(tally: Tally, seed: int, count: int) -> None:
    rng = seeded("requests", seed)
    stream = KVStream(quiet_config())
    app = create_app(stream, token=mutants.TOKEN)
    async with stream:
        for source in ("vllm-0", "[/red]\x1b[31m"):
            for frame in generate("chat", 600, blocks=64, rate=2_000, source=source):
                await stream.send(frame)
        await stream.flush()
        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {mutants.TOKEN}".encode())]
        _, body = await _asked(app, mutants.Request("GET", "/api/alerts", b"", headers))
        boot = boot_of(body)
        for _ in range(count):
            wanted = mutants.request(rng).of_run(boot)
            try:
                status, _ = await _asked(app, wanted)
            except Exception as error:
                tally.count("crashed", True)
                tally.crash(seed, error, repr(wanted).encode())
                continue
            tally.count(f"status {status}", status not in (400, 401, 403, 404, 405, 421))
            if status >= 500 and status != 503:
                tally.crash(seed, f"status {status}: {wanted.path}?{wanted.query!r}", repr(wanted).encode())
    check_accounts(tally, seed, stream)


def boot_of(alerts: bytes) -> str:
    """Return the part of event ids that is the server's run, from what ``/api/alerts`` answers."""
    return str(msgspec.json.decode(alerts)["last_event_id"]).rpartition("-")[0]


async def _asked(app: Any, wanted: mutants.Request) -> tuple[int, bytes]:
    """Call the application as an HTTP server would; the client leaves once a part of the body has come."""
    path = wanted.path
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": wanted.method.upper(),
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": wanted.query,
        "root_path": "",
        "headers": wanted.headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    started, status, brought, body = anyio.Event(), 0, False, bytearray()

    async def receive() -> dict[str, Any]:
        nonlocal brought
        if not brought:
            brought = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await started.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            body.extend(message.get("body", b""))
            started.set()

    with anyio.fail_after(DEADLINE):
        await app(scope, receive, send)
    return status, bytes(body)
