"""Loops compiled to machine code by numba, if ``KVSTREAM_COMPILED=1`` asks for them.

They stand beside plain code that comes to the same results, for what needs a loop that columns of numpy do
not have. To compile takes some seconds, once on a machine, as the outcome is kept on disk; that is why
nobody gets them unasked.
"""

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar, cast

from kvstream.errors import MissingExtraError

F = TypeVar("F", bound=Callable[..., Any])


def compiles() -> bool:
    """Whether compiled loops are asked for.

    Raises:
        MissingExtraError: If they are, but ``kvstream[fast]`` is not installed.
    """
    if os.environ.get("KVSTREAM_COMPILED", "0") in ("", "0"):
        return False
    if find_spec("numba") is None:
        raise MissingExtraError("KVSTREAM_COMPILED=1", "fast")
    return True


def compiled_loop(module: str, name: str) -> Callable[..., Any] | None:
    """A loop of a module that is loaded only where ``compiles()``; otherwise None."""
    return getattr(import_module(module), name) if compiles() else None


def compiled(loop: F) -> F:
    """Compiles a loop at its first call, as part of the loop that calls it; only where ``compiles()``."""
    from numba import njit

    # Without counts of references, which would cost more than the loops do: whoever calls holds the arrays
    # that are worked on, and none are made.
    options: dict[str, Any] = {"cache": True, "forceinline": True, "_nrt": False}
    return cast("F", njit(**options)(loop))
