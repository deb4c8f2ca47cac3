"""Which lines of some modules a run reaches, without a package for it: for samples, as it is slow."""

import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any


class LineCoverage:
    """Counts the lines of functions that run between entering and leaving.

    What runs at import (module level, class bodies) is left out on both sides.

    Args:
        paths: Files of the modules.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._paths = [path.resolve() for path in paths]
        self._seen: dict[str, set[int]] = defaultdict(set)
        self._wanted = {str(path) for path in self._paths}

    def __enter__(self) -> "LineCoverage":
        self._before = sys.gettrace(), threading.gettrace()  # another measurement goes on afterwards
        threading.settrace(self._call)
        sys.settrace(self._call)
        return self

    def __exit__(self, *exc: object) -> None:
        here, in_threads = self._before
        sys.settrace(here)
        threading.settrace(in_threads)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._wanted:
            return None
        lines = self._seen[frame.f_code.co_filename]

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                lines.add(frame.f_lineno)
            return line

        return line

    def report(self) -> dict[str, tuple[int, int]]:
        """Return (lines reached, lines there are) by file name."""
        found = {}
        for path in self._paths:
            there = _function_lines(path)
            found[str(path)] = (len(self._seen[str(path)] & there), len(there))
        return found


def _function_lines(path: Path) -> set[int]:
    module = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    lines: set[int] = set()
    for code in _inner(module):
        if not code.co_flags & 0x2:  # a class body, not a function
            continue
        numbers = {line for *_, line in code.co_lines() if line is not None}
        lines |= numbers - {code.co_firstlineno}
    return lines


def _inner(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _inner(constant)
