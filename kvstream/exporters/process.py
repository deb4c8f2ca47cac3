"""What this process takes: CPU and memory."""

import resource
import sys
import time
from pathlib import Path

_STATM = Path("/proc/self/statm")


def cpu_seconds() -> float:
    """Return the CPU time of all threads of this process, user and system."""
    return time.process_time()


def resident_bytes() -> int:
    """Return the memory that this process holds now; where the system does not say, the most it ever held."""
    try:
        pages = int(_STATM.read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()
