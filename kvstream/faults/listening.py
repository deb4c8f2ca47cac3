"""Why a server cannot listen at its address, and what to do about it."""

import errno
import os

_REMEDIES = {
    errno.ENOENT: "create its directory, or name another path",
    errno.EACCES: "name a path that this user may write to, or a port above 1023",
    errno.EADDRINUSE: "stop what listens there, or name another path or port",
    errno.EADDRNOTAVAIL: "name an address of this machine, or 0.0.0.0 for all of them",
}


def listen_failure(error: OSError | ValueError) -> str:
    """Return what an error of listening means, with what to do about it where that is known."""
    number = (error.errno or 0) if isinstance(error, OSError) else 0
    # The text of an error of asyncio repeats the address; a name that is not known has a number below 0.
    why = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)
    return f"{why}; {_REMEDIES[number]}" if number in _REMEDIES else why
