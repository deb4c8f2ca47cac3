"""Options that several commands share: of a cache, of how traces are read, of how results are shown."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

import typer

from kvstream.cli.config_file import take_options
from kvstream.cli.groups import OptionGroup
from kvstream.cli.values import choice, number
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.errors import ConfigError
from kvstream.reports.block_size import block_bytes_of_file
from kvstream.settings import load_config
from kvstream.sources.options import ReadOptions, SimulatedEngine, TimeUnit, TraceRows
from kvstream.sources.vllm_cache import ServiceTime

DEFAULT_BLOCK_TOKENS = 16
"""Tokens in a block of most engines, where nobody says."""

Capacity = Annotated[
    int | None,
    number(
        "count",
        "--capacity",
        metavar="BLOCKS",
        low=1,
        help="Blocks that each cache has room for, such as 10k or 16Ki. [$KVSTREAM_CAPACITY]",
    ),
]
BlockTokens = Annotated[
    int | None,
    number(
        "count",
        "--block-tokens",
        metavar="TOKENS",
        low=1,
        help="Tokens in a block; 16 if it is needed. [$KVSTREAM_BLOCK_TOKENS]",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Wait for more at the end of a file.")]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="Save the state there, so that the next process continues from it, also after a crash.",
        show_default=False,
    ),
]
KafkaConfig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Settings of the Kafka client (librdkafka's names: security.protocol, sasl.mechanism, …), a "
        "line NAME=VALUE each.",
        show_default=False,
    ),
]
Speed = Annotated[
    float,
    number(
        "number",
        "--speed",
        metavar="N",
        low=0,
        help="Replay at N times recorded time; 0: as fast as possible.",
        show_default=True,
    ),
]
Recordings = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="Recordings: any files that kvstream run reads.")
]


class CacheOptions(OptionGroup, frozen=True):
    """What a cache is like, and the settings of what is measured."""

    panel: ClassVar[str] = "Cache and settings"

    capacity: Capacity = None
    model_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="A model's config.json, to show sizes in GiB.", show_default=False
        ),
    ] = None
    block_tokens: BlockTokens = None
    block_bytes: Annotated[
        int | None,
        number(
            "bytes",
            "--block-bytes",
            metavar="BYTES",
            low=1,
            help="Bytes of a block, such as 2MiB, in place of --model-config. [$KVSTREAM_BLOCK_BYTES]",
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="kvstream.toml",
            envvar="KVSTREAM_CONFIG",
            is_eager=True,
            callback=take_options,
            help="Settings, rules and options of commands in one file; see kvstream config.",
            show_default=False,
        ),
    ] = None

    def stream_config(self) -> StreamConfig:
        """Return the settings of a stream: of the file, of the environment, and of these options.

        Raises:
            ConfigError: If any cannot be used.
        """
        return load_config(StreamConfig, self.config, **self._settings())

    def metrics(self) -> MetricsConfig:
        """Return the settings of what is measured.

        Raises:
            ConfigError: If any cannot be used.
        """
        return load_config(MetricsConfig, self.config, **self._settings())

    def _settings(self) -> dict[str, Any]:
        block_tokens, block_bytes = self.block_tokens, self.block_bytes
        if self.model_config is not None and block_bytes is not None:
            raise ConfigError("--model-config and --block-bytes both say how large a block is; give one")
        if self.model_config is not None:
            block_tokens = block_tokens or DEFAULT_BLOCK_TOKENS
            block_bytes = block_bytes_of_file(self.model_config, block_tokens)
        return {"capacity": self.capacity, "block_tokens": block_tokens, "block_bytes": block_bytes}


class TraceOptions(OptionGroup, frozen=True):
    """How a hash trace, which has requests and no cache, becomes events."""

    panel: ClassVar[str] = "Hash traces"

    time_unit: Annotated[
        TimeUnit | None,
        choice(
            get_args(TimeUnit),
            "--time-unit",
            help="Unit of the times in a hash trace; by default that of its format.",
        ),
    ] = None
    rows: Annotated[
        TraceRows,
        choice(
            get_args(TraceRows),
            "--rows",
            help="What a session's rows hold in a hash trace: whole prompts, or what was added to it.",
            show_default=True,
        ),
    ] = "whole"
    engine: Annotated[
        SimulatedEngine,
        choice(
            get_args(SimulatedEngine),
            "--engine",
            help="Rules by which its cache is simulated; vllm runs each request for its time.",
            show_default=True,
        ),
    ] = "lru"
    prefill_rate: Annotated[
        float,
        number(
            "number",
            "--prefill-rate",
            metavar="TOKENS",
            help="With --engine vllm: prompt tokens a second of a request.",
            show_default=True,
        ),
    ] = ServiceTime().prefill_rate
    decode_rate: Annotated[
        float,
        number(
            "number",
            "--decode-rate",
            metavar="TOKENS",
            help="With --engine vllm: output tokens a second of a request.",
            show_default=True,
        ),
    ] = ServiceTime().decode_rate

    def reading(self, capacity: int | None) -> ReadOptions:
        """Return how inputs are read.

        Raises:
            ConfigError: If a rate cannot be used.
        """
        service = ServiceTime(prefill_rate=self.prefill_rate, decode_rate=self.decode_rate)
        return ReadOptions(
            capacity=capacity,
            time_unit=self.time_unit,
            rows=self.rows,
            engine=self.engine,
            service=service,
        )


_FORMS = partial(choice, ("text", "json"), "--output", help="Text for people or JSON for programs.")


class Results(OptionGroup, frozen=True):
    """In what form results are shown."""

    output: Annotated[str | None, _FORMS(show_default="text on a terminal, JSON where it is piped")] = None
    json: Annotated[bool, typer.Option("--json", help="Short for --output json.")] = False

    @property
    def as_lines(self) -> bool:
        """Return whether results are JSON lines: if asked for, or by default if nobody looks.

        Raises:
            ConfigError: If text and JSON are asked for at once.
        """
        return self.as_json(not sys.stdout.isatty())

    def as_json(self, by_default: bool = False) -> bool:
        """Return whether results are JSON.

        Raises:
            ConfigError: If text and JSON are asked for at once.
        """
        if self.json and self.output == "text":
            raise ConfigError("--json is short for --output json, and --output text was given, too")
        return self.json or (by_default if self.output is None else self.output == "json")


class TextResults(Results, frozen=True):
    """In what form results are shown that are text also where they are piped."""

    output: Annotated[str | None, _FORMS(show_default="text")] = None
