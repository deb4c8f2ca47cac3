"""A broker for each test of a fleet."""

import pytest

from tests.fleet.brokers import BROKERS, REAL, Broker


@pytest.fixture(scope="session", params=["real"] if REAL else list(BROKERS))
def broker(request):
    """Librdkafka's mock cluster and Tansu, or the broker of ``KVSTREAM_TEST_KAFKA``."""
    if REAL:
        yield Broker(REAL, makes_topics=True, speaks_kip_848=True)
    else:
        with BROKERS[request.param]() as made:
            yield made
