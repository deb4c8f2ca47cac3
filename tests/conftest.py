"""Hypothesis profiles, fixtures of more than one test, a browser.

A run tries 25 examples of each property. ``HYPOTHESIS_PROFILE=ci`` tries 300, as CI does beside its slow
tests (``-m hypothesis``); ``thorough`` tries 10,000, as CI does each night.
"""

import os
import sys
from functools import partial

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from kvstream._core.build import warn_if_interpreted

settings.register_profile(
    "default", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("few", settings.get_profile("default"), max_examples=20)
settings.register_profile("ci", settings.get_profile("default"), max_examples=300)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


# Hundreds of processes start here, and none should compile again what another one has: bytecode is kept, even
# where the environment says that it is not to be.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_sessionstart(session):
    """Have an interpreted core say now that it is slow, as it does once: tests look at what is logged."""
    warn_if_interpreted()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Return two workers a core, as tests wait about as much as they compute."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker tests that stand together, as they share a broker, a browser or a build.

    What is left in the end is parted again.
    """
    from xdist.scheduler import WorkStealingScheduling  # here, as xdist may not be there

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser():
    """Opens a page in Chromium: ``async with browser() as (page, complaints)``.

    Chromium is one for all tests, so that each is ``@pytest.mark.asyncio(loop_scope="session")``.
    """
    from tests.browsers import CHROMIUM, open_page, started_chromium  # here, as most tests need none

    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    async with started_chromium() as chromium:
        yield partial(open_page, chromium)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Certificates of a server and a client, and their root."""
    from tests.certificates import OPENSSL, make_certificates  # here, as most tests need none

    if OPENSSL is None:
        pytest.skip("needs the openssl command")
    return make_certificates(tmp_path_factory.mktemp("certificates"))
