"""``kvstream completion``: completion of commands, options and their values by the shell."""

from importlib import import_module
from typing import Annotated, Any

from kvstream.cli.standard import write_document
from kvstream.cli.values import chosen

EXAMPLES = """
[bold]Examples[/bold]

  kvstream completion bash > ~/.local/share/bash-completion/completions/kvstream

  kvstream completion zsh > "${fpath[1]}/_kvstream"

  kvstream completion fish > ~/.config/fish/completions/kvstream.fish

  source <(kvstream completion bash)               for this shell only
"""
VARIABLE = "_KVSTREAM_COMPLETE"
"""Set by the script where it asks what can stand next."""

_TYPER: Any = import_module("typer.completion")  # none of it is exported by name
_SHELLS = ("bash", "zsh", "fish", "powershell")


def completion_command(
    shell: Annotated[str, chosen(_SHELLS, metavar="SHELL", help=f"One of {', '.join(_SHELLS)}.")],
) -> None:
    """Print the script by which a shell completes commands, options and their values."""
    script = _TYPER.get_completion_script(prog_name="kvstream", complete_var=VARIABLE, shell=shell)
    write_document(script + "\n")


def begin_completion() -> None:
    """Have the command line answer a shell that asks what can stand next."""
    _TYPER.completion_init()
