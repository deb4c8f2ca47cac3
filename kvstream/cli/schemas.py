"""``kvstream schemas``: JSON Schemas, the AsyncAPI document and golden wire vectors."""

from pathlib import Path
from typing import Annotated

import typer

from kvstream.errors import KVStreamError
from kvstream.schemas import documents

app = typer.Typer(help="Write or check the schemas of every message.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of the schemas.")]


@app.command()
def write(folder: Folder = Path("schemas")) -> None:
    """Writes every schema document, replacing what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8")
        typer.echo(folder / name)


@app.command()
def check(folder: Folder = Path("schemas")) -> None:
    """Fails if a document differs from what this version writes."""
    stale = [
        name
        for name, text in documents().items()
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text
    ]
    if stale:
        raise KVStreamError(f"out of date: {', '.join(stale)}; run 'kvstream schemas write {folder}'")
    typer.echo("schemas are up to date")
