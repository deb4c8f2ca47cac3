"""Whether the core is compiled, and saying so once where it is not."""

import logging
from functools import cache

from kvstream._core import buckets, columns, kv_events, recorder, reuse, table

logger = logging.getLogger("kvstream")

_MODULES = (buckets, columns, kv_events, recorder, reuse, table)

COMPILED = not any(str(module.__file__).endswith(".py") for module in _MODULES)
"""Whether every module of the core is compiled."""

CORE = "compiled" if COMPILED else "interpreted, some 90 times slower"
"""Whether the core is compiled, as text."""


@cache
def warn_if_interpreted() -> None:
    """Log once in a process that the core is interpreted, if it is."""
    if not COMPILED:
        logger.warning(
            "the core is not compiled: events cost some 90 times more; "
            "install a wheel, or a C compiler and kvstream again"
        )
