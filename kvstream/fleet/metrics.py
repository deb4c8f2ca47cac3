"""The accounts of a process of a fleet for Prometheus, by an HTTP server of their own."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.transport.endpoint import Endpoint

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Sample = tuple[str, str, float | Mapping[tuple[str, ...], float], tuple[str, ...]]
"""Name, help text, value or a value for each set of labels, and the names of the labels.

Names that end in ``_total`` are counters.
"""


def serve_metrics(
    endpoint: Endpoint,
    samples: Callable[[], Iterable[Sample]],
    metrics: "Callable[[], Iterable[Metric]] | None" = None,
) -> Callable[[], None]:
    """Serve metrics from a thread; return what ends that.

    Args:
        endpoint: Where to listen.
        samples: Returns the values now; called in that thread. A scrape may ask for some of them alone
            (``?name[]=…``).
        metrics: Returns further ones as the client library has them.

    Raises:
        ConfigError: If the endpoint cannot be listened at.
        MissingExtraError: If ``kvstream[prometheus]`` is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
        from prometheus_client.registry import Collector
    except ImportError:
        raise MissingExtraError("metrics", "prometheus") from None

    class Samples(Collector):
        def collect(self) -> Iterable[Any]:
            for name, text, value, labels in samples():
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                family = kind(name, text, labels=labels)
                for of_labels, each in value.items() if isinstance(value, Mapping) else [((), value)]:
                    family.add_metric(of_labels, each)
                yield family

    class Metrics(Collector):
        def describe(self) -> Iterable[Metric]:
            return []  # so that registering it asks for nothing

        def collect(self) -> Iterable[Metric]:
            return metrics() if metrics is not None else []

    registry = CollectorRegistry(auto_describe=True)
    registry.register(Samples())
    registry.register(Metrics())
    try:
        server, thread = start_http_server(endpoint.port, endpoint.host, registry)
    except OSError as error:
        raise ConfigError(f"cannot listen at {endpoint}: {error.strerror or error}") from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end
