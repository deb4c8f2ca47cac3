"""How large a block is: options of several commands, and what they come to."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kvstream.errors import ConfigError
from kvstream.reports.block_size import block_bytes_of_file

DEFAULT_BLOCK_TOKENS = 16
"""Tokens in a block of most engines, where nobody says."""

ModelConfig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json", help="A model's config.json, to show sizes in GiB.", show_default=False
    ),
]
BlockTokens = Annotated[
    int | None,
    typer.Option(min=1, metavar="TOKENS", help="Tokens in a block; 16 if it is needed.", show_default=False),
]
BlockBytes = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="BYTES", help="Bytes of a block, in place of --model-config.", show_default=False
    ),
]


def block_settings(
    model_config: Path | None, block_tokens: int | None, block_bytes: int | None
) -> dict[str, Any]:
    """Return the settings of ``MetricsConfig`` that say how large a block is; None for what is not known.

    Raises:
        ConfigError: If the size is given twice, or the model's configuration lacks it.
    """
    if model_config is not None and block_bytes is not None:
        raise ConfigError("--model-config and --block-bytes both say how large a block is; give one")
    if model_config is not None:
        block_tokens = block_tokens or DEFAULT_BLOCK_TOKENS
        block_bytes = block_bytes_of_file(model_config, block_tokens)
    return {"block_tokens": block_tokens, "block_bytes": block_bytes}
