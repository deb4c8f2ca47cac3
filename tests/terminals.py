"""What a terminal shows."""

import os


def shown_until_closed(terminal):
    """All bytes that are written to a terminal until its other side is closed; closes this side."""
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other side has closed
            os.close(terminal)
            return shown
