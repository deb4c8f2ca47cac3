"""What the core's modules need of ``cython`` where they are interpreted and Cython is not installed.

Cython's own module of that name does the same, and much more: decorators do nothing, types are names in
annotations, and ``compiled`` is False.
"""

from typing import Any

compiled = False


def _unchanged(decorated: Any) -> Any:
    return decorated


class _NoGil:
    """A decorator, or a context, that does nothing."""

    def __call__(self, decorated: Any) -> Any:
        return decorated

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


cclass = cfunc = inline = final = _unchanged
nogil = _NoGil()


def exceptval(*args: Any, **options: Any) -> Any:
    """Return a decorator that does nothing."""
    return _unchanged


always_allow_keywords = exceptval


def declare(kind: Any, value: Any = None, **options: Any) -> Any:
    """Return the value, whatever its type is to be."""
    return value


def cast(kind: Any, value: Any, **options: Any) -> Any:
    """Return the value, whatever its type is to be."""
    return value


class _Type:
    """A type in an annotation; memoryviews of it are subscripts."""

    def __getitem__(self, _: Any) -> "_Type":
        return self


def __getattr__(name: str) -> _Type:
    """Return a type."""
    if name.startswith("__"):
        raise AttributeError(name)  # what Python itself asks modules for
    return _Type()
