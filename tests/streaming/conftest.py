"""What tests of streams share."""

import sys

import pytest


@pytest.fixture
def threads_take_turns_often():
    """Threads change places within calls, where a look at half of a change would show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
