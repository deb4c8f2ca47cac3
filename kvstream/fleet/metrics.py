"""The accounts of a process of a fleet for Prometheus, by an HTTP server of their own."""

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.faults.listening import listen_failure
from kvstream.transport.endpoint import Endpoint

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Sample = tuple[str, str, float | Mapping[tuple[str, ...], float], tuple[str, ...]]
"""Name, help text, value or a value for each set of labels, and the names of the labels.

Names that end in ``_total`` are counters.
"""

_SILENT_SECONDS = 10.0  # after which a connection is closed
_MOST_THREADS = 64  # of the process, one of them a connection; more are closed at once


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
        from prometheus_client import CollectorRegistry, make_wsgi_app
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
        from prometheus_client.exposition import ThreadingWSGIServer
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

    # The library's own server waits for ever for what a connection asks, with a thread and a descriptor each:
    # strangers could take those that the process itself needs.
    class Server(ThreadingWSGIServer):
        request_queue_size = _MOST_THREADS

        def verify_request(self, *_: object) -> bool:
            return threading.active_count() < _MOST_THREADS

        def handle_error(self, *_: object) -> None:  # a connection that broke off
            pass

    class Handler(WSGIRequestHandler):
        timeout = _SILENT_SECONDS

        def log_message(self, *_: object) -> None:
            pass

    try:
        [(Server.address_family, *_, place), *_] = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM
        )
        server = make_server(str(place[0]), endpoint.port, make_wsgi_app(registry), Server, Handler)
    except OSError as error:
        raise ConfigError(f"cannot listen at {endpoint}: {listen_failure(error)}") from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end
