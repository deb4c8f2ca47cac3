"""The accounts of a worker, and of the caches that it judges, for Prometheus."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvstream.fleet.metrics import Sample
from kvstream.fleet.partition import Partition
from kvstream.fleet.worker import COUNTS, Worker

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_ANSWER_SECONDS = 5.0  # that the worker may take to come to the end of a round; a scrape has ten


def samples(worker: Worker) -> Iterator[Sample]:
    """Yield the accounts of a worker as metrics."""
    for name, text in COUNTS.items():
        yield f"kvstream_worker_{name}_total", text, worker.counts[name], ()
    faults: dict[tuple[str, ...], float] = dict(worker.faults.counts.items())
    yield "kvstream_worker_faults_total", "Errors that ended nothing else.", faults, ("part", "reason")
    partitions = worker.statistics()

    def of_each(value: str) -> dict[tuple[str, ...], float]:
        return {(str(each.number),): float(getattr(each, value)) for each in partitions}

    for name, text, value in (
        ("offset", "Place of the next record.", "offset"),
        ("sources", "Sources in a partition.", "sources"),
        ("events_processed", "Events applied to a partition since it began.", "processed"),
    ):
        yield f"kvstream_worker_partition_{name}", text, of_each(value), ("partition",)
    stands: dict[tuple[str, ...], float] = {(str(each.number),): bool(each.problem) for each in partitions}
    yield (
        "kvstream_worker_partition_failing",
        "Whether it cannot be restored or saved.",
        stands,
        ("partition",),
    )


def cache_metrics(worker: Worker) -> "list[Metric]":
    """Return the metrics of the caches that a worker judges; none while it is too busy to say them."""
    return worker.ask(_caches, _ANSWER_SECONDS) or []


def _caches(partitions: list[Partition]) -> "list[Metric]":
    from kvstream.exporters import prometheus  # here, as it needs an extra

    return prometheus.cache_metrics(
        source for partition in partitions for source in partition.monitor.sources.values()
    )
