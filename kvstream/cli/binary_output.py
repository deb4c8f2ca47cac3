"""The format of an output: the option that chooses it; binary ones never go to a terminal."""

import sys
from typing import Annotated, get_args

from kvstream.cli.values import choice
from kvstream.errors import ConfigError
from kvstream.sinks.event_log import BINARY_FORMATS, Format

OutputFormat = Annotated[
    Format | None,
    choice(
        get_args(Format),
        "--format",
        help="By default that of the name's ending; jsonl on standard output.",
    ),
]


def refuse_binary_on_terminal(output: str, form: Format) -> None:
    """Check that no binary format is written to a terminal.

    Args:
        output: Name of the output; ``-`` is standard output.
        form: The format.

    Raises:
        ConfigError: If it is.
    """
    if output == "-" and form in BINARY_FORMATS and sys.stdout.isatty():
        raise ConfigError(f"{form} is binary; name a file, or pipe it")
