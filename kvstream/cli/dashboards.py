"""``kvstream dashboards``: a Grafana dashboard, and recording and alert rules for Prometheus."""

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from kvstream.cli.options import Force
from kvstream.sinks.output_file import refuse_overwriting, whole_file
from kvstream.text.escape import for_terminal

EXAMPLES = """
[bold]Examples[/bold]

  kvstream dashboards export monitoring      kvstream.dashboard.json, kvstream.rules.yml and those of a fleet
"""

app = typer.Typer(
    help="Write the Grafana dashboard and the Prometheus rules.", no_args_is_help=True, epilog=EXAMPLES
)


@app.command()
def export(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder, created if it does not exist.")
    ] = Path(),
    force: Force = False,
) -> None:
    """Write kvstream.dashboard.json for Grafana, and rules for Prometheus, also those of a fleet."""
    sources = sorted(resources.files("kvstream.exporters").joinpath("dashboards").iterdir(), key=str)
    for source in sources:
        refuse_overwriting(folder / source.name, force)
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        with whole_file(folder / source.name, force) as path:
            Path(path).write_bytes(source.read_bytes())
        print(for_terminal(str(folder / source.name)))
