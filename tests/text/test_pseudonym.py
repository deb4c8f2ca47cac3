import os
import subprocess
import sys

import pytest

from kvstream.text.pseudonym import pseudonym


def in_another_process(**environment):
    code = "from kvstream.text.pseudonym import pseudonym; print(pseudonym('salt', b'secret'))"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, check=True
    )
    return ran.stdout.decode().strip()


def test_a_pseudonym_is_the_same_for_the_same_and_shows_nothing_of_it():
    assert pseudonym("salt", b"secret") == pseudonym("salt", b"secret")
    others = {pseudonym("salt", b"secret"), pseudonym("session", b"secret"), pseudonym("salt", b"secreT")}
    assert len(others) == 3
    assert {len(other) for other in others} == {16}
    assert "secret" not in "".join(others)


@pytest.mark.slow
def test_the_key_is_random_unless_the_environment_gives_it():
    assert in_another_process(KVSTREAM_LABEL_KEY="k") == in_another_process(KVSTREAM_LABEL_KEY="k")
    named = {in_another_process(KVSTREAM_LABEL_KEY=key) for key in ("k", "other", "")}
    assert len(named) == 3
    assert in_another_process(KVSTREAM_LABEL_KEY="") != in_another_process(KVSTREAM_LABEL_KEY="")
