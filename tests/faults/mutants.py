"""Mutants of what comes from outside: frames, hellos, wire payloads, log files and HTTP requests.

Each is made from something valid by changing its structure, so that many get past the outermost decoding;
a part of them has bytes changed as well. Everything follows from the random generator given.
"""

import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import zstandard

from kvstream.events.log import MAGIC
from tests.strategies import mutated
from tests.text.test_escape import HOSTILE_NAMES

SECOND = 1_000_000_000
START = 1_767_225_600 * SECOND
DATA = Path(__file__).parent.parent / "data"
TOKEN = "fuzz-token"

pack = msgspec.msgpack.Encoder().encode
_names = [name for name in HOSTILE_NAMES.values() if not any("\ud800" <= c <= "\udfff" for c in name)]
_NAMES = ["engine-0", "vllm-1/dp3", "", "n" * 256, "n" * 257, *_names]
_INTEGERS = [
    *(0, 1, -1, 4, 5, 7, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32, 2**53, 2**62),
    *(2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63), START, START - 3600 * SECOND, START // SECOND),
]
_ODD: list[Any] = [
    *(None, True, False, 0.0, -1.5, 1e300, float("inf"), float("nan"), 1.7e9, 1.7e12),
    *(b"", b"\x00" * 32, b"\xff" * 7, [], {}, [[]], {"": {}}, "", "GPU", "0x1f", "1e9"),
]


def odd_value(rng: random.Random) -> Any:
    """Return a value that somebody might not expect."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(_INTEGERS)
    if kind == 1:
        return rng.choice(_NAMES)
    if kind == 2:
        return rng.getrandbits(64) - 2**63
    return deepcopy(rng.choice(_ODD))  # which may be changed later


def altered(rng: random.Random, value: Any) -> Any:
    """Change one place of nested lists, maps and scalars, in place where it can be; return the whole."""
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        action = rng.randrange(8)
        if action == 0:
            del value[key]
        elif action == 1:
            value[rng.choice([*_NAMES[:8], "type", "ts"])] = odd_value(rng)
        elif action == 2:
            value[key] = odd_value(rng)
        else:
            value[key] = altered(rng, value[key])
        return value
    if isinstance(value, list) and value:
        at, action = rng.randrange(len(value)), rng.randrange(12)
        if action == 0:
            del value[at]
        elif action == 1:
            value.insert(at, odd_value(rng))
        elif action == 2:
            value.append(value[at])
        elif action == 3:
            other = rng.randrange(len(value))
            value[at], value[other] = value[other], value[at]
        elif action == 4:
            value[at] = odd_value(rng)
        else:
            value[at] = altered(rng, value[at])
        return value
    if isinstance(value, bool) or value is None:
        return odd_value(rng)
    if isinstance(value, int):
        other = rng.choice([value + 1, value - 1, -value, value << 8, *_INTEGERS])
        return other if -(2**63) <= other < 2**64 else other & (2**64 - 1)
    if isinstance(value, (str, bytes)) and value and rng.randrange(2):
        cut = rng.randrange(len(value) + 1)
        return value[:cut] if rng.randrange(2) else value[cut:] + value
    return odd_value(rng)


def _damaged(rng: random.Random, data: bytes, share: float) -> bytes:
    """Change some bytes of a share of the mutants."""
    return mutated(rng, data) if rng.random() < share else data


# Frames


def _times(rng: random.Random, n: int) -> list[int]:
    pattern = rng.randrange(200)
    at = START + rng.randrange(4_000) * 1_000_000
    if pattern == 0:  # far apart
        return [min(2**63 - 1, at + i * rng.choice([60, 86_400, 10**8]) * SECOND) for i in range(n)]
    if pattern < 4:
        return [rng.choice([0, 1, at, 2**63 - 1, 2**62]) for _ in range(n)]
    if pattern < 8:
        return [max(0, at - i * 1_000_000) for i in range(n)]
    step = rng.choice([0, 1, 1_000, 1_000_000, 20_000_000])
    return [at + i * step for i in range(n)]


def _blocks(rng: random.Random, n: int) -> list[int]:
    pattern = rng.randrange(500)
    if pattern == 0:  # slots far apart
        return [rng.randrange(2**28) for _ in range(n)]
    if pattern < 150:
        return [rng.getrandbits(64) - 2**63 for _ in range(n)]
    if pattern < 200:
        return [rng.choice([0, -1, 2**63 - 1, -(2**63), 2**31, -33]) for _ in range(n)]
    return [rng.randrange(256) for _ in range(n)]


def frame_fields(rng: random.Random) -> list[Any]:
    """Return the fields of a valid frame, or one nearly so, in the order of the wire."""
    n = rng.choice([0, 1, 2, 3, 8, 8, 16, 16, 40])
    ops = bytes(rng.choice(b"\x00\x00\x00\x01\x01\x02\x02\x04\x03") for _ in range(n))
    source = rng.choice(_NAMES) if rng.random() < 0.1 else f"engine-{rng.randrange(6)}"
    tier = rng.choice(_NAMES) if rng.random() < 0.05 else rng.choice(["gpu", "gpu", "cpu"])
    epoch = rng.choice([0, 1, 1, 1, 2]) if rng.random() < 0.95 else rng.choice(_INTEGERS)
    seq = rng.randrange(-1, 40) if rng.random() < 0.95 else rng.choice(_INTEGERS)
    fields: list[Any] = [
        *(1, source, tier, epoch, seq, ops),
        struct.pack(f"<{n}q", *_blocks(rng, n)),
        struct.pack(f"<{n}q", *_times(rng, n)),
        struct.pack(f"<{n}q", *_blocks(rng, n)) if rng.random() < 0.3 else None,
        bytes(rng.randrange(10) for _ in range(n)) if rng.random() < 0.3 else None,
    ]
    if rng.random() < 0.3:
        labels: list[Any] = [{"tenant": rng.choice(_NAMES)}, {"lora": "sql", "model": "m"}]
        if rng.random() < 0.3:
            altered(rng, labels)
        fields += [pack(labels), struct.pack(f"<{n}H", *(rng.randrange(3) for _ in range(n)))]
    return fields


@cache
def _known_frames() -> list[tuple[Any, ...]]:
    """Return frames to begin from: to make each anew would cost more than to decode it."""
    rng = random.Random(0)
    return [tuple(frame_fields(rng)) for _ in range(4_000)]


def frame(rng: random.Random) -> bytes:
    """Return an encoded frame with something wrong in it."""
    fields = list(rng.choice(_known_frames()))
    fields[4] = rng.randrange(-1, 60) if rng.random() < 0.5 else fields[4]
    change = rng.randrange(24)
    if change > 19:  # columns of another frame
        other = rng.choice(_known_frames())
        for column in rng.sample(range(5, 10), rng.randrange(1, 5)):
            fields[column] = other[column]
    if change < 5:  # one column has other bytes, or another length
        column = rng.choice([5, 6, 7, 8, 9, *range(10, len(fields))])
        data = fields[column] or b""
        fields[column] = rng.choice(
            [data[:-1], data + b"\x00", data + data, mutated(rng, data), data[::-1], None]
        )
    elif change < 7:
        fields[rng.randrange(len(fields))] = odd_value(rng)
    elif change == 7:
        altered(rng, fields)
    return _damaged(rng, pack(fields), 0.2)


# Hellos


def hello(rng: random.Random, token: str | None = None) -> bytes:
    """Return the bytes with which a producer's side begins a connection, or somebody else."""
    fields: list[Any] = ["kvstream", 1, token]
    change = rng.randrange(12)
    if change < 2:
        fields[2] = rng.choice([None, "", "wrong", "\u2028", "é" * 40, "x" * 4_000, 7, b"\xff\xfe"])
    elif change == 2:
        fields[rng.randrange(3)] = odd_value(rng)
    elif change == 3:
        altered(rng, fields)
    elif change == 4:
        fields += [odd_value(rng) for _ in range(rng.randrange(1, 20))]
    body = pack(fields)
    if change == 5:
        depth = rng.choice([10, 900, 1_100, 3_900])
        body = b"\x94\xa8kvstream\x01\xc0" + rng.choice([b"\x91", b"\x81\xa0"]) * (depth // 2) + b"\xc0"
    elif change == 6:  # a token that is not UTF-8
        body = b"\x93\xa8kvstream\x01\xa4" + rng.choice(
            [b"\xff\xfe\xfd\xfc", b"\xed\xb0\x80a", b"\x00\x00\x00\x00"]
        )
    body = _damaged(rng, body, 0.2)
    length = (
        len(body) if rng.random() < 0.9 else rng.choice([0, 1, len(body) + 1, 4_096, 4_097, 2**31, 2**32 - 1])
    )
    message = length.to_bytes(4, "big") + body
    after = rng.randrange(6)
    if after == 0:  # goes away in the middle of it
        return message[: rng.randrange(len(message) + 1)]
    if after < 3:
        for _ in range(rng.randrange(1, 3)):
            data = frame(rng)
            message += len(data).to_bytes(4, "big") + data
        return message[: -rng.randrange(1, 9)] if after == 1 else message
    return message


# Wire payloads: batches of KV events


@cache
def captured_batches() -> list[bytes]:
    """Return some batches of the captures, the longer ones cut to their first events."""
    from tests.publisher import captured

    batches = []
    for name in ("chat", "scan"):
        for payload in captured(name)[:400:4]:
            batch = msgspec.msgpack.decode(payload)
            batch[1] = batch[1][:6]
            for event in batch[1]:
                event["block_hashes"] = event["block_hashes"][:6]
            batches.append(batch)
    return [pack(batch) for batch in [*batches, *_SHAPES]]


_STORED = {
    "type": "BlockStored",
    "block_hashes": [1, 2**64 - 5],
    "parent_block_hash": None,
    "token_ids": [5, 6],
    "block_size": 32,
    "lora_id": 7,
    "medium": "CPU",
    "lora_name": "sql",
    "extra_keys": ["k"],
    "group_idx": 2,
}
_ROW = ["BlockStored", [5, -6, b"\x07" * 32], None, [9, 9], 32, None, "GPU", None, ["salt"], 0, "full", None]
_SHAPES: list[Any] = [
    [1.7e9, [_STORED, {"type": "BlockRemoved", "block_hashes": [1]}, {"type": "AllBlocksCleared"}], 0],
    {"ts": 1.7e9, "events": [_STORED, _ROW], "data_parallel_rank": 3},
    [1.7e9, [_ROW, ["BlockRemoved", [5], "DISK", 1], ["AllBlocksCleared"]], 4095],
    [1.7e9, [["BlockStored", [8], None, [1], 16, 3], ["BlockRemoved", [5]]]],
]


def payload(rng: random.Random) -> bytes:
    """Return a batch of KV events with something wrong in it."""
    data = rng.choice(captured_batches())
    if rng.random() < 0.75:
        batch = msgspec.msgpack.decode(data)
        for _ in range(rng.randrange(1, 3)):
            events = batch["events"] if isinstance(batch, dict) else batch[1]
            # Mostly inside an event, so that the batch around it can still be read.
            if events and rng.random() < 0.8:
                at = rng.randrange(len(events))
                events[at] = altered(rng, events[at])
            else:
                batch = altered(rng, batch)
            if not (isinstance(batch, (dict, list)) and _has_events(batch)):
                break
        data = pack(batch)
    return _damaged(rng, data, 0.2)


def _has_events(batch: Any) -> bool:
    events = batch.get("events") if isinstance(batch, dict) else batch[1] if len(batch) > 1 else None
    return isinstance(events, list)


# Files


def _lines_of_events(rng: random.Random) -> list[Any]:
    lines: list[Any] = []
    for i in range(rng.randrange(1, 8)):
        at, block = START + i * 1_000_000, rng.choice([i, rng.getrandbits(64)])
        event: dict[str, Any] = {
            "type": rng.choice(["alloc", "access", "evict", "store"]),
            "block": block,
            "ts": at,
        }
        if event["type"] == "evict":
            event["reason"] = rng.choice(["capacity", "other", "sunspots"])
        elif event["type"] == "alloc" and rng.randrange(2):
            event |= {"key": rng.getrandbits(64), "labels": {"tenant": "a"}}
        if rng.randrange(3) == 0:
            event |= {"source": f"e{rng.randrange(3)}", "tier": "cpu"}
        lines.append(event)
    return lines


def _tensorrt_lines(rng: random.Random) -> list[Any]:
    lines: list[Any] = []
    for i in range(rng.randrange(1, 8)):
        datum: dict[str, Any] = rng.choice(
            [
                {"type": "created", "num_blocks_per_cache_level": [8, 8]},
                {
                    "type": "stored",
                    "parent_hash": None,
                    "blocks": [{"block_hash": i, "cache_level": 0, "tokens": [1]}],
                },
                {"type": "removed", "block_hashes": [i - 1, 2**64 - 1]},
                {"type": "updated", "block_hash": i, "cache_level": {"old_value": 0, "new_value": 1}},
            ]
        )
        lines.append({"event_id": i, "data": json.loads(json.dumps(datum)), "window_size": 4096})
    return lines


def _trace_lines(rng: random.Random) -> list[Any]:
    return [
        {"timestamp": i * 100, "input_length": 9, "output_length": 2, "hash_ids": [0, 1, rng.randrange(40)]}
        for i in range(rng.randrange(1, 8))
    ]


def _turn_lines(rng: random.Random) -> list[Any]:
    """A trace in AIPerf's dialect."""
    return [
        {"session_id": f"s{rng.randrange(3)}", "delay": i * 50, "hash_ids": [0, f"{rng.randrange(40):x}"]}
        for i in range(rng.randrange(1, 8))
    ]


def _lookup_lines(rng: random.Random) -> list[Any]:
    """LMCache's log of lookups."""
    return [
        {"timestamp": START / 1e9 + i, "chunk_size": 256, "chunk_hashes": ["0xab", hex(rng.getrandbits(256))]}
        for i in range(rng.randrange(1, 8))
    ]


def _dynamo_lines(rng: random.Random) -> list[Any]:
    lines: list[Any] = []
    for i in range(rng.randrange(1, 8)):
        datum: Any = rng.choice(
            [
                {"stored": {"parent_hash": None, "blocks": [{"block_hash": i, "tokens_hash": 1}]}},
                {"removed": {"block_hashes": [i - 1, 2**64 - 1]}},
                "cleared",
            ]
        )
        event = {"event_id": i, "dp_rank": rng.randrange(2), "data": json.loads(json.dumps(datum))}
        lines.append({"timestamp": i, "event": {"worker_id": 7, "storage_tier": "device", "event": event}})
    return lines


def _jsonl(make: Callable[[random.Random], list[Any]]) -> Callable[[random.Random], bytes]:
    def lines(rng: random.Random) -> bytes:
        values = make(rng)
        # Not the first line, which tells the kind, more often than that.
        if len(values) > 1 or rng.randrange(4) == 0:
            at = rng.randrange(min(1, len(values) - 1), len(values))
            values[at] = altered(rng, values[at])
        if rng.randrange(4) == 0:  # as polls give them
            values = [values[:1], None, {}, values[1:]]
        texts = []
        for value in values:
            try:
                text = json.dumps(value).encode()
            except TypeError:  # bytes, which JSON does not have
                text = b'{"type":"\xff\xfe"}'
            texts.append(_damaged(rng, text, 0.08))
        return b"\n".join(texts) + rng.choice([b"\n", b"\n", b"", b"\r\n", b"\n\n{", b"\x00"])

    return lines


def _kvlog(rng: random.Random) -> bytes:
    out = [MAGIC]
    for _ in range(rng.randrange(1, 5)):
        data = frame(rng)
        check, length = zlib.crc32(data), len(data)
        damage = rng.randrange(12)
        if damage == 0:
            check ^= 1 << rng.randrange(32)
        elif damage == 1:
            length = rng.choice([0, 11, length - 1, length + 1, 2**26, 2**32 - 1])
        out.append(struct.pack("<II", length, check) + data)
    whole = b"".join(out)
    return whole[: -rng.randrange(1, 30)] if rng.randrange(8) == 0 else whole


def _frames(rng: random.Random) -> bytes:
    return b"".join(frame(rng) for _ in range(rng.randrange(1, 5)))


def _capture(rng: random.Random) -> bytes:
    messages = []
    for i in range(rng.randrange(1, 5)):
        fields: list[Any] = [
            START + i,
            b"kv-events",
            (i * rng.choice([1, 1, 2])).to_bytes(8, "big"),
            payload(rng),
        ]
        if rng.randrange(6) == 0:
            altered(rng, fields)
        message = pack(fields)
        # The receive time is always written with eight bytes, by which a capture is recognised.
        messages.append(message)
    return b"".join(messages)


_FILES: dict[str, Callable[[random.Random], bytes]] = {
    "kvlog": _kvlog,
    "frames": _frames,
    "jsonl": _jsonl(_lines_of_events),
    "tensorrt": _jsonl(_tensorrt_lines),
    "trace": _jsonl(_trace_lines),
    "turns": _jsonl(_turn_lines),
    "lookups": _jsonl(_lookup_lines),
    "dynamo": _jsonl(_dynamo_lines),
    "capture": _capture,
}
_zstd = zstandard.ZstdCompressor(level=1).compress


def file(rng: random.Random) -> tuple[str, bytes]:
    """Return a log file with something wrong in it, and its format."""
    kind = rng.choice(list(_FILES))
    data = _damaged(rng, _FILES[kind](rng), 0.1)
    packing = rng.randrange(6)
    if packing < 2:
        squeezed = gzip.compress(data, 1) if packing == 0 else _zstd(data)
        if rng.randrange(4) == 0:  # several parts, or something behind the last
            squeezed += rng.choice([squeezed, b"\x00", b"garbage", b"\x1f\x8b\x08", b""])
        data = _damaged(rng, squeezed, 0.3)
    return kind, data


# HTTP requests

_PLACES = ["source", "tier"]
PATHS = {
    "/": ["token"],
    "/metrics": [],
    "/api/summary": _PLACES,
    "/api/state": _PLACES,
    "/api/alerts": ["limit"],
    "/api/history": ["windows", *_PLACES],
    "/api/distributions": _PLACES,
    "/api/blocks": _PLACES,
    "/healthz": [],
    "/readyz": [],
    "/static/app.js": [],
    "/static/": [],
    "/events": ["last_event_id", *_PLACES],
}
"""What there is to ask for, and what each question knows."""
_NUMBERS = ["", "1", "0", "-1", "3", "1e9", "²", "٣", "9" * 30, "nan", "%C2%B2", "%D9%A3", "+1", "1_0", "0x1"]
_TEXTS = ["%", "%00", "%ff%fe", "%ed%a0%80", "+", "vllm-0", "gpu", "nobody", "..%2f", "a" * 3_000, "[/red]"]
_EVENT_IDS = [
    *("00000000-1", "00000000-²", "00000000-%C2%B2", "00000000-%D9%A3", "00000000-" + "9" * 400),
    *("00000000--1", "00000000-", "00000000", "-", "-²", "%E2%80%A8", "f" * 8 + "-1", "00000000-1-1"),
]
_HEADERS: dict[bytes, list[bytes]] = {
    b"accept": [
        *(
            b"",
            b"*/*",
            b"text/event-stream",
            b"application/openmetrics-text;q=x",
            b";;;,,,=",
            b"q=" + b"9" * 200,
        ),
        *(b"application/openmetrics-text; version=1.0.0;q=0.9, */*;q=0.1", b"\xff\xfe", b"a/b;q=\xc2\xb2"),
        *(
            b"application/openmetrics-text; version=\xff; escaping=x",
            b"text/plain;version=1.0.0;escaping=;q=nan",
        ),
    ],
    b"last-event-id": [text.encode("latin-1", "replace") for text in _EVENT_IDS]
    + [b"00000000-\xc2\xb2", b"\xff"],
    b"cookie": [
        b"kvstream_token=\xe9; =;;",
        b"=",
        b"kvstream_token=" + b"a" * 3_000,
        b'kvstream_token="\\351"',
    ],
    b"authorization": [b"Bearer ", b"Bearer \xff", b"Basic Og==", b"bearer", b"", b"\xc3\xa9 \xc3\xa9"],
    b"host": [b"localhost", b"evil.example", b"[::1]:1", b"[", b"a" * 3_000, b"", b"127.0.0.1:x", b"\xff"],
    b"origin": [b"null", b"http://evil.example", b"\xff"],
    b"x-forwarded-proto": [b"https", b"\xff", b""],
    b"range": [b"bytes=0-", b"bytes=9-1,-,x", b"bytes=" + b"0-1," * 500, b"lines=1"],
    b"if-range": [b"x", b"\xff"],
}


class Request(NamedTuple):
    """An HTTP request in parts."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]

    def of_run(self, boot: str) -> "Request":
        """Return it with event ids of this run of the server in the place of those of none."""
        mark, own = b"00000000", boot.encode()
        headers = [(name, value.replace(mark, own)) for name, value in self.headers]
        return self._replace(query=self.query.replace(mark, own), headers=headers)


def request(rng: random.Random) -> Request:
    """Return a request with something odd in it."""
    path = rng.choice([*PATHS, "/events", "/metrics", "/api/history"])
    known = PATHS[path]
    if rng.randrange(10) == 0:
        at = rng.randrange(len(path) + 1)
        odd = ["/", "//", "..", "%", "\x00", "é", "?", ";", "a" * 500, "\u2028"]
        path = f"{path[:at]}{rng.choice(odd)}{path[at:]}"
    asked = []
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        name = rng.choice(known) if known and rng.random() < 0.8 else rng.choice(["odd", "token", "source"])
        fitting = {"limit": _NUMBERS, "windows": _NUMBERS, "last_event_id": _EVENT_IDS}.get(name, _TEXTS)
        asked.append(f"{name}={rng.choice(fitting if rng.random() < 0.8 else _NUMBERS + _TEXTS)}")
    headers = {b"host": b"localhost", b"authorization": f"Bearer {TOKEN}".encode()}
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        header = rng.choice(list(_HEADERS))
        if header not in headers or rng.randrange(3) == 0:
            headers[header] = rng.choice(_HEADERS[header])
    method = (
        "GET"
        if rng.random() < 0.9
        else rng.choice(["HEAD", "POST", "OPTIONS", "DELETE", "", "G\xc9T", "get"])
    )
    return Request(method, path, _damaged(rng, "&".join(asked).encode(), 0.1), list(headers.items()))


def request_bytes(rng: random.Random, wanted: Request) -> bytes:
    """Return a request as it is sent, now and then broken in the form itself."""
    target = wanted.path.replace(" ", "%20").encode("utf-8", "replace")
    query = wanted.query.replace(b" ", b"+")
    data = (
        wanted.method.encode("latin-1") + b" " + target + (b"?" + query if query else b"") + b" HTTP/1.1\r\n"
    )
    data += b"".join(name + b": " + value + b"\r\n" for name, value in wanted.headers) + b"\r\n"
    return _damaged(rng, data, 0.1)
