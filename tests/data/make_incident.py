"""``python -m tests.data.make_incident``: writes examples/data/incident.kvlog.gz, twenty simulated minutes.

Two engines serve chats; from the tenth minute to the fifteenth one-off requests flush the cache of one.
"""

from pathlib import Path

from kvstream.sinks.event_log import EventLogWriter
from tests.detection.traffic import Engine, Traffic, constant

MINUTE = 60.0
CAPACITY = 2048
SECONDS = 20 * MINUTE


def scan(t):
    return 4.0 if 10 * MINUTE <= t < 15 * MINUTE else 0.0


def engines():
    for number, scanned in enumerate((constant(0.0), scan)):
        traffic = Traffic(rate=constant(2.0), peak=2.0, scan=scanned, seed=number + 1)
        yield Engine(traffic=traffic, capacity=constant(CAPACITY), source=f"vllm-{number}", numbered=True)


def write(path):
    frames = [frame for engine in engines() for frame in engine.frames(SECONDS)]
    with EventLogWriter(str(path)) as writer:
        for frame in sorted(frames, key=lambda frame: int(frame.ts[0])):
            writer.write(frame)


if __name__ == "__main__":
    write(Path(__file__).parents[2] / "examples" / "data" / "incident.kvlog.gz")
