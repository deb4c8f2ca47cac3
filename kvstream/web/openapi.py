"""The OpenAPI document of the HTTP API: every path under ``/api``, what it takes and what it answers.

Source: https://spec.openapis.org/oas/v3.1.1.html
"""

import inspect
from functools import cache
from typing import Any, NamedTuple

import msgspec

from kvstream.alerts.silences import Silence
from kvstream.metrics.distribution import Distribution
from kvstream.metrics.history import History
from kvstream.metrics.marks import Mark
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.reports.overview import Blocks, Sparklines, State
from kvstream.web.messages import (
    AcknowledgeRequest,
    Alerts,
    Inputs,
    MarkRequest,
    Marks,
    Refusal,
    SilenceRequest,
    Silences,
)

MAX_ALERTS = 1000
"""Alerts that are kept, and answered with at most."""
MAX_WINDOWS = 100_000
"""Windows that are answered with at most."""
MAX_SECONDS = 31_536_000
"""How far back a history may be asked for, seconds."""


class Call(NamedTuple):
    """A method of a path.

    Attributes:
        method: ``get``, ``post`` or ``delete``.
        path: The path, with parameters in braces.
        summary: What it does.
        answer: Type of the answer; None where it has no body.
        status: Status of the answer.
        query: Parameters of the query, each with its schema and meaning.
        body: Type of the request's body.
        errors: Statuses of refusals that say why in JSON, each with when.
    """

    method: str
    path: str
    summary: str
    answer: Any
    status: int = 200
    query: tuple[tuple[str, dict[str, Any], str], ...] = ()
    body: Any = None
    errors: tuple[tuple[int, str], ...] = ()


_SOURCE = ("source", {"type": "string"}, "The source alone; all by default.")
_TIER = ("tier", {"type": "string"}, "The tier alone; all by default.")
_SELECTION = (_SOURCE, _TIER)
_NO_BODY = (
    (400, "The body cannot be used."),
    (413, "The body is longer than 65,536 bytes."),
    (415, "The body is not called JSON."),
)


_SECONDS = (
    "seconds",
    {"type": "integer", "minimum": 1, "maximum": MAX_SECONDS},
    "How far to go back instead; rows are as long as those that are kept for so long.",
)


def _count(name: str, most: int) -> tuple[str, dict[str, Any], str]:
    return name, {"type": "integer", "minimum": 1, "maximum": most, "default": most}, "How many, the newest."


CALLS = (
    Call("get", "/api/openapi.json", "This document.", dict[str, Any]),
    Call(
        "get",
        "/api/summary",
        "Figures of the selected caches, since the beginning and of the last minute.",
        CacheMetricsSummary,
        query=_SELECTION,
    ),
    Call("get", "/api/state", "What the dashboard shows of the selected caches.", State, query=_SELECTION),
    Call(
        "get",
        "/api/history",
        "The last windows of the selected caches.",
        History,
        query=(*_SELECTION, _count("windows", MAX_WINDOWS), _SECONDS),
        errors=((400, "The number of windows or seconds is none."),),
    ),
    Call(
        "get",
        "/api/distributions",
        "Lifetimes, idle times and reuse of the last minute.",
        dict[str, Distribution],
        query=_SELECTION,
    ),
    Call(
        "get",
        "/api/blocks",
        "The blocks of one cache that are live.",
        Blocks,
        query=_SELECTION,
        errors=((404, "The query chooses no cache, or several."),),
    ),
    Call(
        "get", "/api/sparklines", "Recent hit ratios of all caches, a quarter of an hour at most.", Sparklines
    ),
    Call("get", "/api/inputs", "Which inputs are connected, and what came over each.", Inputs),
    Call(
        "get",
        "/api/alerts",
        "The last alerts.",
        Alerts,
        query=(_count("limit", MAX_ALERTS),),
        errors=((400, "The limit is none."),),
    ),
    Call(
        "post",
        "/api/alerts/{fingerprint}/acknowledge",
        "Silence the incident of an alert until it is over.",
        Silence,
        201,
        body=AcknowledgeRequest,
        errors=(*_NO_BODY, (404, "No alert with that fingerprint fires.")),
    ),
    Call("get", "/api/silences", "The silences.", Silences),
    Call("post", "/api/silences", "Begin a silence.", Silence, 201, body=SilenceRequest, errors=_NO_BODY),
    Call(
        "delete",
        "/api/silences/{id}",
        "End a silence.",
        None,
        204,
        errors=((404, "There is no silence with that id."),),
    ),
    Call("get", "/api/marks", "The marks.", Marks, query=(_SOURCE,)),
    Call("post", "/api/marks", "Note a moment.", Mark, 201, body=MarkRequest, errors=_NO_BODY),
    Call(
        "delete",
        "/api/marks/{id}",
        "Remove a mark.",
        None,
        204,
        errors=((404, "There is no mark with that id."),),
    ),
)
"""Every method of every path."""

_OF_ALL = {
    "401": "The request brings neither the token nor the cookie of a browser that brought it.",
    "405": "The path has no such method.",
    "421": "The host that the request names is not served without a token.",
    "500": "The request has failed; the server's log says why.",
}
_OF_CHANGES = {"403": "Another site asked for the change."}


@cache
def document() -> dict[str, Any]:
    """Return the document, in plain values."""
    kinds = {call.answer: None for call in CALLS} | {call.body: None for call in CALLS} | {Refusal: None}
    del kinds[None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    of = dict(zip(kinds, schemas, strict=True))
    clean_descriptions(components)
    components["SilenceRequest"]["oneOf"] = [
        {"required": [one], "properties": {one: {"not": {"type": "null"}}, other: {"type": "null"}}}
        for one, other in (("until", "duration_seconds"), ("duration_seconds", "until"))
    ]
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method] = _operation(call, of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kvstream",
            "version": "1",
            "description": "What a stream knows of KV caches, and what people note on it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": ".."}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def clean_descriptions(schemas: dict[str, Any]) -> None:
    """Take the indentation, which Python before 3.13 leaves, out of the docstrings of schemas by name."""
    for schema in schemas.values():
        schema["description"] = inspect.cleandoc(schema.get("description", ""))


def _operation(call: Call, of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    names = [part[1:-1] for part in call.path.split("/") if part.startswith("{")]
    parameters = [
        *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names),
        *(
            {"name": n, "in": "query", "schema": schema, "description": text}
            for n, schema, text in call.query
        ),
    ]
    answer: dict[str, Any] = {"description": call.summary}
    if call.answer is not None:
        answer["content"] = _json(of[call.answer])
    errors = dict(call.errors)
    refused = _OF_ALL if call.method == "get" else {**_OF_ALL, **_OF_CHANGES}
    return {
        "summary": call.summary,
        **({"parameters": parameters} if parameters else {}),
        **(
            {"requestBody": {"required": True, "content": _json(of[call.body])}}
            if call.body is not None
            else {}
        ),
        "responses": {
            str(call.status): answer,
            **{
                str(status): {"description": why, "content": _json(of[Refusal])}
                for status, why in errors.items()
            },
            **{
                status: {"description": why, "content": {"text/plain": {"schema": {"type": "string"}}}}
                for status, why in refused.items()
            },
        },
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
