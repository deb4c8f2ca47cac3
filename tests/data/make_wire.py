"""Makes excerpts of full captures: ``python -m tests.data.make_wire FOLDER``.

``*.wire.gz`` here have all batches, without token ids; that of ``kvstream bench`` has a few with them.
"""

import gzip
import sys
from pathlib import Path

import msgspec

from kvstream.sources.wire_capture import wire_message_parser

BENCH = Path(__file__).parents[2] / "kvstream" / "bench" / "kv_events.wire.gz"
BENCH_MESSAGES = slice(1_000, 1_100)  # of each capture, when its cache is full


def stripped(payload: bytes) -> bytes:
    ts, events, rank = msgspec.msgpack.decode(payload)
    for event in events:
        if event["type"] == "BlockStored":
            event["token_ids"], event["extra_keys"] = [], None
    return msgspec.msgpack.encode([ts, events, rank])


def write(path: Path, messages: list) -> None:
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        for message in messages:
            file.write(msgspec.msgpack.encode(message))


def main(folder: Path) -> None:
    excerpt = []
    for name in ("chat", "scan"):
        data = gzip.decompress((folder / f"vllm-0.32-{name}" / "wire.msgpack.gz").read_bytes())
        messages = list(wire_message_parser(name).feed(data))
        excerpt += messages[BENCH_MESSAGES]
        messages = [msgspec.structs.replace(each, payload=stripped(each.payload)) for each in messages]
        write(Path(__file__).parent / f"{name}.wire.gz", messages)
    write(BENCH, excerpt)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
