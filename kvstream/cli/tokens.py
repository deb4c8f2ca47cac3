"""Where commands take tokens from: a file or the environment, never the command line."""

import os
import re
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


_HIDDEN = r"https?://([^/@]*:[^/@]*@|hooks\.slack\.com/services/)"


def secret_from(file: Path | None, variable: str, what: str) -> str | None:
    """Return a secret of a file, or of a variable of the environment; None if there is none.

    Raises:
        ConfigError: If it is empty, not UTF-8, or the file cannot be read.
    """
    if file is None:
        return checked_token(os.environ.get(variable), f"${variable}")
    return checked_token(_text(file), f"{what} in {file}")


def urls_from(given: list[str] | None, option: str, variable: str, hidden: str = _HIDDEN) -> list[str]:
    """Return URLs of an option or, where none are given, of a variable of the environment.

    Args:
        given: Each a URL, or ``@FILE`` where it holds a secret.
        option: What they are given to.
        variable: The variable.
        hidden: Begins a URL that holds a secret.

    Raises:
        ConfigError: If a file cannot be read, or a secret stands on the command line.
    """
    named = os.environ.get(variable)
    return [url_from(text, option, hidden) for text in given or ()] or ([named] if named else [])


def url_from(text: str, option: str, hidden: str = _HIDDEN) -> str:
    """Return a URL that is given as ``@FILE`` where it holds a secret.

    Raises:
        ConfigError: If the file cannot be read, or a secret stands on the command line.
    """
    if text.startswith("@"):
        if text == "@":
            raise ConfigError(f"{option}: no file is named after @")
        url = _text(Path(text[1:]))
        if not url:
            raise ConfigError(f"{option}: {text[1:]} is empty; write the URL to it")
        return url
    if re.match(hidden, text):
        raise ConfigError(
            f"{option}: this URL holds a secret, which others can see on the command line: "
            f"write it to a file and give {option} @FILE"
        )
    return text


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not valid UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from error


def token_from(file: Path | None) -> str | None:
    """Return the token of a file, or of the environment where no file is given; None if there is none.

    Raises:
        ConfigError: If the token is empty, not UTF-8, or the file cannot be read.
    """
    return secret_from(file, VARIABLE, "the token")
