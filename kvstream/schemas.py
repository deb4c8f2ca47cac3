"""The documents in ``schemas/``: JSON Schema, AsyncAPI, OpenAPI, wire vectors, metrics and settings."""

import inspect
import json
import math
import re
import zlib
from typing import Any

import msgspec
import numpy as np

from kvstream.alerts.rule import Page, Rule
from kvstream.alerts.silences import Silence
from kvstream.alerts.types import AlertLevel, CacheAlert, MetricType, fingerprint
from kvstream.blocks.apply_result import KVCacheEvictionEvent
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.engine.inputs import InputStatistics
from kvstream.events.codec import WireFrame, encode_frame, encode_lines
from kvstream.events.counters import DROP_REASONS
from kvstream.events.frame import EventFrame
from kvstream.events.log import MAGIC
from kvstream.events.types import (
    EVENT_TYPES,
    REASONS,
    BlockAccessed,
    BlockAllocated,
    BlockEvicted,
    BlockRemoved,
    BlockResident,
    BlockStored,
    CacheCleared,
    Labels,
    Malformed,
    PrefixStored,
)
from kvstream.exporters.metric_families import FAMILIES
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.reports.markdown import markdown_table
from kvstream.reports.overview import State
from kvstream.reports.report import Report
from kvstream.reports.verdict import CacheAnalysis
from kvstream.settings import VARIABLES
from kvstream.state.inspection import SavedSnapshot
from kvstream.web import openapi

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_OUTPUTS: tuple[type[msgspec.Struct], ...] = (
    CacheAlert,
    CacheMetricsSummary,
    KVCacheEvictionEvent,
    Malformed,
    InputStatistics,
    CacheAnalysis,
    Report,
    State,
    SavedSnapshot,
)
_TABLES: dict[str, type[msgspec.Struct]] = {
    "`[metrics]`": MetricsConfig,
    "`[stream]`": StreamConfig,
    "`[rules.NAME]`": Rule,
    "`page` of a rule": Page,
    "`[[silences]]`": Silence,
}
_NOT_IN_TABLES = (("`[stream]`", "metrics"), ("`[rules.NAME]`", "name"))  # names of tables themselves


def documents() -> dict[str, str]:
    """Return every document's text by file name."""
    schemas = {f"{_file_name(kind)}.schema.json": _schema(kind) for kind in (*EVENT_TYPES, *_OUTPUTS)}
    schemas["event_frame.schema.json"] = _frame_schema()
    schemas["asyncapi.json"] = _asyncapi()
    schemas["openapi.json"] = openapi.document()
    schemas["wire_vectors.json"] = {"vectors": wire_vectors()}
    texts = {
        name: json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False) + "\n"
        for name, value in schemas.items()
    }
    return {**texts, "metrics.md": _metrics(), "settings.md": _settings()}


def wire_vectors() -> list[dict[str, Any]]:
    """Return bytes as hex beside what they mean, for implementations in other languages."""
    events: list[Any] = [
        BlockAllocated(17, 1_000, "engine-0", "gpu", key=-2),
        BlockAccessed(17, 2_500, "engine-0"),
        BlockEvicted(17, 9_000, "engine-0", reason="preempted"),
        CacheCleared(9_500, "engine-0"),
        BlockStored(-3, 9_700, "engine-0"),
        PrefixStored(-3, 9_800, "engine-0"),
        BlockRemoved(-3, 9_900, "engine-0"),
        BlockResident(-4, 9_950, "engine-0"),
    ]
    plain = EventFrame(
        np.array([0, 1, 2], np.uint8),
        np.array([17, 17, 17]),
        np.array([1_000, 2_500, 9_000]),
        "engine-0",
    )
    full = EventFrame(
        np.array([0, 1, 2, 3], np.uint8),
        np.array([17, 17, 17, 0]),
        np.array([1_000, 2_500, 9_000, 9_500]),
        "engine-0",
        "cpu",
        np.array([-2, 0, 0, 0]),
        np.array([0, 0, 4, 0], np.uint8),
        1_700_000_000_000_000_000,
        42,
    )
    vectors: list[dict[str, Any]] = [
        {"name": "events as JSON lines", "hex": encode_lines(events).hex(), "events": _plain(events)}
    ]
    labelled = msgspec.structs.replace(
        plain, labels=(Labels(tenant="acme"), Labels(lora="sql")), label_of=np.array([2, 0, 0], np.uint16)
    )
    for name, frame in (
        ("frame without keys, reasons or number", plain),
        ("frame with every column but labels", full),
        ("frame with labels", labelled),
        ("frame with the tokens of a block", msgspec.structs.replace(plain, block_tokens=16)),
    ):
        vectors.append(
            {
                "name": name,
                "hex": encode_frame(frame).hex(),
                "source": frame.source,
                "tier": frame.tier,
                "epoch": frame.epoch,
                "seq": frame.seq,
                "events": _plain(frame.to_events()),
            }
        )
    payload = encode_frame(plain)
    record = len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little") + payload
    vectors.append(
        {"name": ".kvlog of one frame", "hex": (MAGIC + record).hex(), "events": _plain(plain.to_events())}
    )
    return vectors


def _metrics() -> str:
    """Return every metric, drop reason and eviction reason as Markdown."""
    metrics = [
        (f"`{family.sample_name}`", family.kind, ", ".join(family.labels), family.help) for family in FAMILIES
    ]
    drops = [
        (f"`{name}`", "intended" if reason.is_intended else "a loss", reason.help)
        for name, reason in DROP_REASONS.items()
    ]
    parts = (
        "# Metrics",
        markdown_table(("metric", "kind", "labels", "meaning"), metrics),
        "`reason` of `kvstream_evictions_total` is one of "
        + ", ".join(f"`{name}`" for name in REASONS)
        + ".",
        "`reason` of `kvstream_events_dropped_total` is one of these; losses raise an alert:",
        markdown_table(("reason", "kind", "what happened to the events"), drops),
    )
    return "\n\n".join(parts) + "\n"


def _settings() -> str:
    """Return every setting, by the docstring of its class, and every other variable as Markdown."""
    parts = []
    for heading, kind in _TABLES.items():
        meanings = _attributes(kind)
        rows = [
            (f"`{field.name}`", _default(field), meanings[field.name])
            for field in msgspec.structs.fields(kind)
            if (heading, field.name) not in _NOT_IN_TABLES
        ]
        parts += [f"## {heading}", markdown_table(("setting", "default", "meaning"), rows)]
        if kind is Rule:
            parts.append("`metric` is one of " + ", ".join(f"`{metric}`" for metric in MetricType) + ".")
    variables = [(f"`{name}`", meaning) for name, meaning in VARIABLES.items()]
    parts += ["## Other variables", markdown_table(("variable", "meaning"), variables)]
    return "\n\n".join(parts) + "\n"


def _attributes(kind: type) -> dict[str, str]:
    """Return the meaning of each attribute by name, from the docstring of its class."""
    text = inspect.getdoc(kind) or ""
    entries = re.findall(r"^    (\w+): (.+(?:\n     .+)*)", text.partition("Attributes:\n")[2], re.M)
    return {name: re.sub(r"\s+", " ", meaning.replace("``", "`")) for name, meaning in entries}


def _default(field: msgspec.structs.FieldInfo) -> str:
    """Return the default of a field as TOML has it."""
    if field.required:
        return "needed"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    text = {None: "none", -math.inf: "-inf"}.get(value) if not isinstance(value, dict) else None
    return f"`{text or json.dumps(msgspec.to_builtins(value))}`"


def _plain(events: list[Any]) -> list[Any]:
    return [msgspec.to_builtins(event) for event in events]


def _file_name(kind: type[msgspec.Struct]) -> str:
    tag = kind.__struct_config__.tag
    return str(tag)


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    schema = {"$schema": _DIALECT, **msgspec.json.schema(kind)}
    openapi.clean_descriptions(schema.get("$defs", {}))
    return schema


def _frame_schema() -> dict[str, Any]:
    schema = _schema(WireFrame)
    schema["description"] = (
        "The msgpack array of an EventFrame. Columns are msgpack bin (shown as base64 strings here): ops and "
        "reasons uint8, blocks, ts and keys little-endian int64, label_of little-endian uint16, a row an "
        "event; labels is a msgpack list of maps. block_tokens is an integer, 0 where it is unknown. "
        "Without labels and block_tokens the array ends after reasons; with block_tokens alone, labels and "
        "label_of are nil."
    )
    return schema


def _asyncapi() -> dict[str, Any]:
    messages = {
        _file_name(kind): {
            "name": _file_name(kind),
            "title": kind.__name__,
            "contentType": "application/json",
            "payload": {"$ref": f"./{_file_name(kind)}.schema.json"},
            "examples": [{"payload": example}] if (example := _examples().get(kind)) else [],
        }
        for kind in (*EVENT_TYPES, *_OUTPUTS)
    }
    messages["event_frame"] = {
        "name": "event_frame",
        "title": "EventFrame",
        "contentType": "application/msgpack",
        "payload": {"$ref": "./event_frame.schema.json"},
        "examples": [],
    }
    inputs = [_file_name(kind) for kind in EVENT_TYPES]
    outputs = [_file_name(kind) for kind in _OUTPUTS]
    channels = {
        "events": (inputs, "Block events as JSON lines, one event a line."),
        "frames": (["event_frame"], "Block events in columns, one msgpack message a frame."),
        "results": (outputs, "What kvstream run prints with --json, one message a line."),
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "kvstream",
            "version": "1",
            "description": "Events of KV-cache blocks, and the alerts and summaries made of them.",
            "license": {"name": "Apache-2.0"},
        },
        "channels": {
            name: {
                "address": name,
                "description": text,
                "messages": {m: {"$ref": f"#/components/messages/{m}"} for m in members},
            }
            for name, (members, text) in channels.items()
        },
        "operations": {
            "receiveEvents": _operation("receive", "events"),
            "receiveFrames": _operation("receive", "frames"),
            "sendResults": _operation("send", "results"),
        },
        "components": {"messages": messages},
    }


def _operation(action: str, channel: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}


def _examples() -> dict[type[msgspec.Struct], Any]:
    alert = CacheAlert(
        level=AlertLevel.CRITICAL,
        state="firing",
        rule="hit_ratio_drop",
        metric=MetricType.HIT_RATIO,
        message="hit ratio fell to 0.06 from 0.84: blocks are no longer found again",
        value=0.06,
        threshold=0.64,
        source="vllm-0/dp0",
        tier="gpu",
        timestamp=1767225617.0,
        started_at=1767225615.0,
        fingerprint=fingerprint("hit_ratio_drop", "vllm-0/dp0", "gpu"),
    )
    events = [
        BlockAllocated(17, 1_000),
        BlockAccessed(17, 2_500),
        BlockEvicted(17, 9_000),
        CacheCleared(9_500),
    ]
    return {type(example): msgspec.to_builtins(example) for example in [*events, alert]}
