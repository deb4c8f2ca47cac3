"""Alerts to deliver, and a server to deliver them to."""

from contextlib import contextmanager

from kvstream.alerts.types import AlertLevel, CacheAlert, MetricType
from tests.ports import posted_to


def alert(state="firing", **changes):
    fields = {
        "level": AlertLevel.CRITICAL,
        "state": state,
        "rule": "hit_ratio_drop",
        "metric": MetricType.HIT_RATIO,
        "message": "hit ratio fell to 0.06 from 0.84 <&>",
        "value": 0.06,
        "threshold": 0.64,
        "source": "vllm-0",
        "tier": "gpu",
        "timestamp": 1_700_000_010.0,
        "started_at": 1_700_000_000.0,
        "fingerprint": "0123456789abcdef",
    }
    return CacheAlert(**{**fields, **changes})


@contextmanager
def endpoint(*answers):
    """An HTTP server that gives these answers, the last for ever; its URL and what it was sent.

    An answer is a status, or a status and headers.
    """
    received = []

    def take(path, headers, body):
        received.append((path, headers, body))
        return answers[min(len(received), len(answers)) - 1]

    with posted_to(take) as url:
        yield url, received
