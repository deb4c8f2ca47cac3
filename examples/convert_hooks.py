"""Converts a log of vLLM's block hooks to a kvstream event log, whole or in part.

A hook log has a JSON object a line: {"t_ns": ..., "op": "alloc|access|evict|reset", "block_id": ...}.

    python examples/convert_hooks.py hooks.jsonl.gz chat.kvlog --source vllm-chat --limit 40000
"""

import argparse
import gzip
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import msgspec
import numpy as np

from kvstream import EventFrame, Op
from kvstream.sinks.event_log import EventLogWriter

OPS = {"alloc": Op.ALLOC, "access": Op.ACCESS, "evict": Op.EVICT, "reset": Op.CLEAR}


class Hook(msgspec.Struct):
    """One call of one of vLLM's hooks."""

    t_ns: int
    op: str
    block_id: int


def read_hooks(path: Path) -> Iterator[Hook]:
    """Return the calls in a hook log, gzipped or not."""
    decoder = msgspec.json.Decoder(Hook)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for line in lines:
            yield decoder.decode(line)


def frames(hooks: Iterator[Hook], source: str, frame_events: int = 4096) -> Iterator[EventFrame]:
    """Return the calls as numbered frames of one source."""
    for seq in count():
        calls = list(islice(hooks, frame_events))
        if not calls:
            return
        yield EventFrame(
            np.array([OPS[hook.op] for hook in calls], np.uint8),
            np.array([max(0, hook.block_id) for hook in calls], np.int64),
            np.array([hook.t_ns for hook in calls], np.int64),
            source,
            seq=seq,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert a vLLM hook log to a kvstream event log.")
    parser.add_argument("hooks", type=Path)
    parser.add_argument("log", help="output, such as chat.kvlog or chat.jsonl.gz")
    parser.add_argument("--source", default="vllm")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N calls")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after N calls")
    options = parser.parse_args()
    hooks = islice(read_hooks(options.hooks), options.skip, None)
    with EventLogWriter(options.log) as log:
        for frame in frames(islice(hooks, options.limit), options.source):
            log.write(frame)


if __name__ == "__main__":
    main()
