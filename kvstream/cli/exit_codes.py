"""Exit codes of every command."""

EXIT_ERROR = 1
"""A bad configuration, an input that cannot be read, an output that cannot be written."""
EXIT_USAGE = 2
"""The command line itself is wrong."""
EXIT_ALERT = 3
"""Done, and an alert of ``--fail-on`` fired."""
EXIT_UNDELIVERED = 4
"""Done, but not everything was delivered."""
EXIT_SIGNAL = 128
"""Plus the number of the signal that stopped the command."""

_BEFORE = "\n[bold]Exit codes[/bold]: 0 done, 1 error, 2 usage, "
_AFTER = "4 done but not everything\nwas delivered, 129, 130 or 143 stopped by a signal.\n"

EXIT_CODES = f"{_BEFORE}3 an alert of --fail-on fired, {_AFTER}"
"""For the help of commands that have ``--fail-on``."""
EXIT_CODES_WITHOUT_ALERT = f"{_BEFORE}{_AFTER}"
"""For the help of other commands that run until they are stopped."""
