"""Options that name the engines of a node: those to follow, and where producers send."""

from pathlib import Path
from typing import Annotated, ClassVar

import typer

from kvstream.cli.command import Attempts
from kvstream.cli.groups import OptionGroup
from kvstream.errors import ConfigError
from kvstream.sources.engine_input import LiveInput
from kvstream.sources.inputs import live_input
from kvstream.sources.targets import Targets
from kvstream.transport.endpoint import Endpoint


class Engines(OptionGroup, frozen=True):
    """The engines of a node."""

    panel: ClassVar[str] = "Engines"

    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="unix:PATH|tcp://HOST:PORT|tls://HOST:PORT",
            help="Where to take frames of producers; can be given again.",
            show_default=False,
        ),
    ] = None
    from_: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="zmq://HOST:PORT|http://HOST:PORT|FILE",
            help="An engine to follow: where vLLM, SGLang or others publish KV events (?replay=… &dp=RANKS "
            "&topic=… &source=NAME), or the HTTP server of SGLang, or a file that grows; can be given again.",
            show_default=False,
        ),
    ] = None
    targets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="A file of engines to follow, which is watched; JSON in the manner of Prometheus' file_sd, "
            "or TOML.",
            show_default=False,
        ),
    ] = None

    def require(self, purpose: str) -> None:
        """Return if any is named.

        Args:
            purpose: What is to be done with them, a verb.

        Raises:
            ConfigError: If none is.
        """
        if not (self.listen or self.from_ or self.targets):
            raise ConfigError(
                f"nothing to {purpose}: name engines by --from or --targets, or where to --listen"
            )

    def endpoints(self, attempt: Attempts) -> list[Endpoint]:
        """Return where producers send."""
        return [attempt(Endpoint.parse, name) for name in self.listen or ()]

    def followed(self, attempt: Attempts) -> list[LiveInput]:
        """Return what follows the engines that are named."""
        return [attempt(live_input, name) for name in dict.fromkeys(self.from_ or ())]

    def in_targets(self) -> list[LiveInput]:
        """Return what follows the engines of the file, if there is one.

        Raises:
            ConfigError: If it cannot be used.
        """
        return [] if self.targets is None else [Targets.read(self.targets)]
