"""Loops compiled to machine code by numba, where ``kvstream[fast]`` is installed.

They do what plain code beside them does, to the same results, and are taken where there is a loop that
columns of numpy cannot do at once. The first use on a machine compiles for some seconds, and keeps the
outcome on disk. ``KVSTREAM_COMPILED=0`` does without.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def compiles() -> bool:
    """Whether loops are compiled here."""
    return os.environ.get("KVSTREAM_COMPILED") != "0" and find_spec("numba") is not None


def compiled(loop: F) -> F:
    """Compiles a loop at its first call, as part of the loop that calls it; only where ``compiles()``."""
    from numba import njit

    # Within one another, as calls are dear: an array is seven arguments.
    return cast("F", njit(cache=True, forceinline=True)(loop))
