"""``kvstream schemas``: JSON Schemas, the AsyncAPI and OpenAPI documents and golden wire vectors."""

from pathlib import Path
from typing import Annotated

import typer

from kvstream.errors import KVStreamError
from kvstream.schemas import documents
from kvstream.sinks.output_file import whole_file
from kvstream.text.escape import for_terminal

app = typer.Typer(help="Write or check the schemas of every message.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of the schemas.")]


@app.command()
def write(folder: Folder = Path("schemas")) -> None:
    """Write every schema document, replacing what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        with whole_file(folder / name, force=True) as path, open(path, "w", encoding="utf-8") as file:
            file.write(text)
        print(for_terminal(str(folder / name)))


@app.command()
def check(folder: Folder = Path("schemas")) -> None:
    """Fail if a document differs from what this version writes."""
    stale = [
        name
        for name, text in documents().items()
        if not (folder / name).exists() or (folder / name).read_bytes() != text.encode()
    ]
    if stale:
        raise KVStreamError(f"out of date: {', '.join(stale)}; run 'kvstream schemas write {folder}'")
    print("schemas are up to date")
