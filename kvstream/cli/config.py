"""``kvstream config``: what a file of settings says, whether it is right, and where each setting is from."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kvstream.cli.config_file import check_all
from kvstream.cli.options import TextResults
from kvstream.cli.standard import write_document
from kvstream.config import StreamConfig
from kvstream.settings import SECTIONS, read_settings
from kvstream.text.escape import for_terminal
from kvstream.text.json import encode_json
from kvstream.text.toml import TomlFile

EXAMPLES = """
[bold]Examples[/bold]

  kvstream config show > kvstream.toml              every setting as it is now, to start a file with

  kvstream config check kvstream.toml               all mistakes, with lines

  KVSTREAM_CAPACITY=16Ki kvstream config show --config kvstream.toml

[bold]A file[/bold] has settings in the tables metrics and stream, rules in rules.NAME, and silences in
silences. Options of run and serve on where alerts go are in alerts, other options of commands in run, serve,
analyze, report and top. The command line wins over variables, and variables win over the file. A file is read
only if --config or $KVSTREAM_CONFIG names it, as it can name commands to run.
"""

app = typer.Typer(
    help="Check a kvstream.toml, or show all settings and where each comes from.",
    no_args_is_help=True,
    epilog=EXAMPLES,
)


@app.command("check")
def check_config(
    file: Annotated[Path, typer.Argument(metavar="kvstream.toml", help="A file of settings.")],
) -> None:
    """Check a file of settings, and list all mistakes by line."""
    counted = check_all(file)
    parts = [f"{count} {what}{'s' * (count != 1)}" for what, count in counted.items() if count]
    print(for_terminal(f"{file}: {', '.join(parts) or 'empty'}"))


@app.command("show")
def show_config(
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="kvstream.toml",
            envvar="KVSTREAM_CONFIG",
            help="A file of settings; without one, the defaults.",
            show_default=False,
        ),
    ] = None,
    results: TextResults,
) -> None:
    """Print every setting as TOML, and where it comes from: the file, a variable, or the default."""
    settings = read_settings(None if config is None else TomlFile.read(config))
    stream = settings.build(StreamConfig)
    configs: dict[str, Any] = {"metrics": stream.metrics, "stream": stream}
    if results.as_json():
        write_document(encode_json(configs["stream"]).decode() + "\n")
        return
    lines = []
    for section, built in configs.items():
        lines.append(f"[{section}]")
        names = [name for name in SECTIONS[section].__struct_fields__ if name != "metrics"]
        lines += [_line(name, getattr(built, name), settings.where(name)) for name in names]
        lines.append("")
    write_document("\n".join(lines))


def _line(name: str, value: Any, where: str) -> str:
    """Return a setting as TOML, with where it is from."""
    if value is None:
        return f"# {name} = …  # unknown"
    return f"{name} = {encode_json(value).decode()}" + (f"  # {where}" if where else "")
