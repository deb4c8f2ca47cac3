"""Ctrl-C while the command line loads its packages: nothing has begun, so that the process ends at once.

Raised in the middle of an import, a KeyboardInterrupt would be printed with a traceback, or come out of a
package as another error.
"""

import os
import sys


def is_loading_command() -> bool:
    """Return whether this process is the command ``kvstream`` or ``python -m kvstream``."""
    if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module
        return sys.orig_argv[-len(sys.argv)] in ("kvstream", "-mkvstream")
    return os.path.basename(sys.argv[0] if sys.argv else "") == "kvstream"


def exit_at_interrupt() -> None:
    """Have SIGINT end the process with exit code 130 and no word, where it would raise KeyboardInterrupt."""
    import signal  # here, as only the command needs it, and it is slow to load

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_at_interrupt() -> None:
    """Have SIGINT raise KeyboardInterrupt again."""
    import signal

    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, _: object) -> None:
    os._exit(128 + number)
