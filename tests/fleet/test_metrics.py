"""What a process of a fleet answers to scrapes, and to whoever connects and asks nothing."""

import socket
import threading

import httpx2
import pytest

from kvstream.errors import ConfigError
from kvstream.fleet import metrics
from kvstream.fleet.metrics import serve_metrics
from kvstream.transport.endpoint import Endpoint
from tests.fleet.workers import wait_until
from tests.ports import free_port
from tests.waiting import DEADLINE


def samples():
    yield "kvstream_worker_records_total", "Records.", 3, ()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_samples_are_shown(host):
    port = free_port()
    end = serve_metrics(Endpoint(host=host, port=port), samples)
    try:
        answer = httpx2.get(f"http://{host}:{port}/metrics", timeout=DEADLINE)
        assert "kvstream_worker_records_total 3.0" in answer.text
        with pytest.raises(ConfigError, match=r"cannot listen at .*: Address already in use; stop what"):
            serve_metrics(Endpoint(host=host, port=port), samples)
    finally:
        end()


def test_whoever_asks_nothing_is_dropped_and_keeps_no_scrape_out(monkeypatch, capfd):
    monkeypatch.setattr(metrics, "_SILENT_SECONDS", 0.05)
    monkeypatch.setattr(metrics, "_MOST_THREADS", threading.active_count() + 8)
    place = ("127.0.0.1", free_port())
    end = serve_metrics(Endpoint(host=place[0], port=place[1]), samples)
    try:
        strangers = [socket.create_connection(place, timeout=DEADLINE) for _ in range(20)]
        assert threading.active_count() <= metrics._MOST_THREADS
        for stranger in strangers:
            with stranger:
                assert stranger.recv(1) == b""

        def answer():  # once the threads of the strangers have ended, if it asks soon enough
            try:
                return httpx2.get(f"http://{place[0]}:{place[1]}/metrics", timeout=DEADLINE)
            except httpx2.TransportError:
                return None

        assert wait_until(answer).status_code == 200
    finally:
        end()
    assert capfd.readouterr().err == ""
