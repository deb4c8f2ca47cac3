"""What Prometheus is shown of a worker and of its caches."""

import pytest

from kvstream.exporters import prometheus
from kvstream.fleet import worker_metrics
from kvstream.fleet.worker_metrics import cache_metrics
from tests.fleet.test_worker import engines, has_committed, round_robin
from tests.fleet.workers import new_worker, saved, wait_until, working, write
from tests.ports import free_port
from tests.waiting import DEADLINE


def of_caches(metrics):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for metric in metrics
        for sample in metric.samples
    }


@pytest.mark.slow  # as a group takes a second to come together
def test_each_cache_is_shown_by_the_worker_that_judges_it(broker, tmp_path, monkeypatch):
    monkeypatch.setattr(worker_metrics, "_ANSWER_SECONDS", DEADLINE)
    url, frames = broker.url(), engines(events=1000)
    write(broker, url, round_robin(frames))
    with working(new_worker(url, tmp_path)) as worker:
        wait_until(has_committed(broker, url, frames))
        found = of_caches(cache_metrics(worker))
    sources = [
        source for part in saved(broker, url, tmp_path).values() for source in part.monitor.sources.values()
    ]
    assert found == of_caches(prometheus.cache_metrics(sources))
    allocations = [value for (name, *_), value in found.items() if name == "kvstream_allocations_total"]
    assert len(allocations) == len(frames)
    assert all(value > 0 for value in allocations)


def test_a_worker_that_comes_to_no_end_of_a_round_is_shown_without_its_caches(tmp_path):
    worker = new_worker(f"kafka://127.0.0.1:{free_port()}/none", tmp_path)  # which nobody runs
    assert worker.ask(len, 0.01) is None
    worker._answer_questions()
    assert worker.ask(len, 0.01) is None
