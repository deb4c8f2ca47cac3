"""Where commands take tokens from: a file or the environment, never the command line."""

import os
from pathlib import Path
from typing import Annotated

import typer

from kvstream.errors import ConfigError
from kvstream.transport.tokens import checked_token

VARIABLE = "KVSTREAM_TOKEN"

TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"Holds the token that producers and browsers must know; also ${VARIABLE}.",
        show_default=False,
    ),
]


def token_from(file: Path | None) -> str | None:
    """Return the token of a file, or of the environment where no file is given; None if there is none.

    Raises:
        ConfigError: If the token is empty, not UTF-8, or the file cannot be read.
    """
    if file is None:
        return checked_token(os.environ.get(VARIABLE), f"${VARIABLE}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not valid UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from error
    return checked_token(text.strip(), f"the token in {file}")
