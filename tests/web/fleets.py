"""Streams of many caches, for pages that show them."""

import time

import anyio
import msgspec

from kvstream import Labels
from kvstream.sources.synthetic import generate

BLOCKS = 512
START = 1_767_225_600_000_000_000  # that of the synthetic streams, ns


def recordings(seconds, workload="chat", seeds=4, blocks=BLOCKS, rate=60.0, until=None):
    """Frames of a few engines that end now, as lists."""
    start_ns = round((time.time() if until is None else until) - seconds) * 10**9
    size = {"blocks": blocks, "rate": rate, "start_ns": start_ns, "frame_events": 128}
    return [list(generate(workload, round(rate * seconds), seed=seed, **size)) for seed in range(seeds)]


def renamed(frames, source, tier="gpu", labels=None):
    """The same frames of another engine; allocations carry labels if any are given."""
    for frame in frames:
        named = msgspec.structs.replace(frame, source=source, tier=tier)
        if labels is not None:
            named = msgspec.structs.replace(
                named, labels=(labels,), label_of=(named.ops == 0).astype("uint16")
            )
        yield named


async def send_fleet(stream, caches, seconds=900, bad=0, then=0, **options):
    """Put as many caches into a stream; the first ``bad`` of them are hit by a scan half way.

    Returns:
        The frames of ``then`` seconds more of each cache, to be sent by ``go_on``.
    """
    now = time.time()
    steady = recordings(seconds + then, until=now + then, **options)
    troubled = recordings(seconds + then, "scan", until=now + then, **options) if bad else []
    later = []
    for number in range(caches):
        source = f"eu-west-1/llama-{number:03}"
        frames = troubled[number % len(troubled)] if number < bad else steady[number % len(steady)]
        labels = Labels(tenant="nightly-batch" if number < bad else "chat")
        for frame in renamed(frames, source, labels=labels):
            if int(frame.ts[-1]) > now * 1e9:
                later.append(frame)
            else:
                await stream.send(frame)
    await stream.flush()
    return sorted(later, key=lambda frame: int(frame.ts[-1]))


async def go_on(stream, frames):
    """Send frames as their time comes; then return."""
    for frame in frames:
        await anyio.sleep(max(0.0, int(frame.ts[-1]) / 1e9 - time.time()))
        await stream.send(frame)


async def fall_silent(stream, seconds):
    """Let it be some seconds since the last frame of every source."""
    stream._times.arrivals.postpone(-seconds)


async def stay_fresh(stream):
    """Let no source be silent for an hour, however slow the machine is."""
    await fall_silent(stream, -3600)


async def send_drop(stream, source="vllm-0", found_seconds=900, lost_seconds=400):
    """Put in a cache in which nothing is found any more, for long enough to be critical."""
    producer = stream.producer(source)
    for second in range(found_seconds):
        producer.allocated_nowait(range(10), ts=START + second * 10**9)
        producer.accessed_nowait(list(range(10)) * 3, ts=START + second * 10**9 + 10**6)
        producer.evicted_nowait(range(10), ts=START + second * 10**9 + 2 * 10**6)
    for second in range(found_seconds, found_seconds + lost_seconds):
        producer.allocated_nowait(range(40), ts=START + second * 10**9)
        producer.evicted_nowait(range(40), ts=START + second * 10**9 + 2 * 10**6)
    await stream.flush()


async def send_hits(stream, source="vllm-0", seconds=20, blocks=100, start=START):
    """Put in a cache without evictions, of which nothing bad can be said."""
    producer = stream.producer(source)
    for second in range(seconds):
        if second == 0:
            producer.allocated_nowait(range(blocks), ts=start)
        producer.accessed_nowait(list(range(blocks)), ts=start + second * 10**9 + 10**6)
    await stream.flush()
