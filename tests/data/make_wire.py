"""Makes ``*.wire.gz`` of full captures, without token ids: ``python -m tests.data.make_wire FOLDER``."""

import gzip
import sys
from pathlib import Path

import msgspec

from kvstream.sources.wire_capture import wire_message_parser


def stripped(payload: bytes) -> bytes:
    ts, events, rank = msgspec.msgpack.decode(payload)
    for event in events:
        if event["type"] == "BlockStored":
            event["token_ids"], event["extra_keys"] = [], None
    return msgspec.msgpack.encode([ts, events, rank])


def main(folder: Path) -> None:
    here = Path(__file__).parent
    for name in ("chat", "scan"):
        data = gzip.decompress((folder / f"vllm-0.32-{name}" / "wire.msgpack.gz").read_bytes())
        with gzip.GzipFile(here / f"{name}.wire.gz", "wb", mtime=0) as file:
            for message in wire_message_parser(name).feed(data):
                message = msgspec.structs.replace(message, payload=stripped(message.payload))
                file.write(msgspec.msgpack.encode(message))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
