"""The agent of a node: what its engines send, into the topic of a fleet."""

from collections.abc import Iterator, Sequence

from kvstream.fleet.frame_log import FrameLog
from kvstream.fleet.metrics import Sample
from kvstream.sources.engine_input import LiveInput


def samples(log: FrameLog, inputs: Sequence[LiveInput]) -> Iterator[Sample]:
    """Yield the accounts of an agent as metrics."""
    counted = log.statistics()
    dropped: dict[tuple[str, ...], float] = {(reason,): n for reason, n in counted.dropped.items()}
    faults: dict[tuple[str, ...], float] = dict(log.faults.counts.items())
    connected: dict[tuple[str, ...], float] = {
        (seen.input,): seen.state == "connected" for each in inputs for seen in each.statistics()
    }
    name = "kvstream_agent"
    yield f"{name}_events_offered_total", "Events that engines sent.", counted.offered, ()
    yield f"{name}_events_written_total", "Events that the broker acknowledged.", counted.written, ()
    yield f"{name}_events_dropped_total", "Events dropped, by reason.", dropped, ("reason",)
    yield f"{name}_events_waiting", "Events that the broker has not acknowledged.", counted.waiting, ()
    yield f"{name}_frames_written_total", "Frames that the broker acknowledged.", counted.frames, ()
    yield f"{name}_written_bytes_total", "Bytes in them, before compression.", counted.written_bytes, ()
    yield f"{name}_malformed_total", "Pieces of input that could not be decoded.", counted.malformed, ()
    yield f"{name}_faults_total", "Errors that ended what they concern.", faults, ("part", "reason")
    yield f"{name}_input_connected", "Whether an input is connected.", connected, ("input",)
