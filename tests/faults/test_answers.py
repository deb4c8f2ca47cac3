"""Answers that are no success: tried again or not, and said without more than some of their body."""

import pytest

from kvstream.errors import UndeliveredError
from kvstream.faults.answers import failed_answer


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 599])
def test_what_may_pass_is_tried_again(status):
    error = failed_answer(status, "Later", "7", b"body")
    assert isinstance(error, UndeliveredError)
    assert error.retry_after == (7.0 if status in (429, 503) else None)
    assert str(error) == f"answered {status} Later"


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 422])
def test_a_refusal_is_final_and_shows_the_begin_of_its_body(status):
    error = failed_answer(status, "", "7", b"no \xff" + b"x" * 1_000)
    assert not isinstance(error, UndeliveredError)
    assert str(error).startswith(f"answered {status}: no ")
    assert len(str(error)) < 350
