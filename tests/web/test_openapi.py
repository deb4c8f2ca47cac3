"""The OpenAPI document against the server that it describes."""

import httpx2
import jsonschema
import pytest
from anyio import to_thread
from hypothesis import given, settings

from kvstream import KVStream
from kvstream.web.app import application
from kvstream.web.messages import MarkRequest
from kvstream.web.openapi import CALLS, document
from tests.serving import DEADLINE, send_chat, served


def test_every_path_and_method_under_api_is_described():
    served_calls = {
        (route.path, method.lower())
        for route in application(KVStream()).routes
        if route.path.startswith("/api/")
        for method in route.methods - {"HEAD"}
    }
    assert {(call.path, call.method) for call in CALLS} == served_calls


@pytest.mark.parametrize("name", document()["components"]["schemas"])
def test_components_are_valid_json_schema(name):
    jsonschema.Draft202012Validator.check_schema(document()["components"]["schemas"][name])


def described(call, status):
    """The schema of an answer, with all that it refers to."""
    path = call.path.replace("/", "~1")
    media = "application~1json"
    return {**document(), "$ref": f"#/paths/{path}/{call.method}/responses/{status}/content/{media}/schema"}


async def test_answers_are_as_described():
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        await send_chat(stream, 2_000)
        assert (await client.get("api/openapi.json")).json() == document()
        await client.post("api/marks", json={"text": "deploy"})
        await client.post("api/silences", json={"duration_seconds": 60})
        for call in CALLS:
            if call.method == "get":
                answer = await client.get(call.path)
                assert answer.status_code == 200, call.path
                jsonschema.validate(answer.json(), described(call, 200))
        for status, path, call in (
            (400, "/api/history?windows=0", "/api/history"),
            (404, "/api/blocks?source=nobody", "/api/blocks"),
        ):
            answer = await client.get(path)
            assert answer.status_code == status
            jsonschema.validate(answer.json(), described(next(c for c in CALLS if c.path == call), status))


CAN_BE_ASKED_WRONGLY = [call for call in CALLS if 400 in dict(call.errors)]


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "calls"), [("positive", CALLS), ("negative", CAN_BE_ASKED_WRONGLY)])
async def test_requests_of_any_form_are_answered_as_described(mode, calls):
    import schemathesis  # which takes seconds
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    def try_all(url):
        schema = schemathesis.openapi.from_url(f"{url}api/openapi.json")
        schema.config.base_url = url.rstrip("/")
        for call in calls:
            if call.path == "/api/openapi.json":
                continue  # schemathesis asks for it alone
            cases = schema[call.path][call.method].as_strategy(
                generation_mode=schemathesis.GenerationMode(mode)
            )
            # The document cannot say that marks are of 1970 or later.
            too_strict = [positive_data_acceptance] if call.body is MarkRequest else []
            settings(max_examples=15, deadline=None)(given(cases)(conforming(too_strict)))()

    def conforming(excluded):
        def conforms(case):
            case.call_and_validate(timeout=DEADLINE, excluded_checks=excluded)

        return conforms

    async with served() as (stream, url):
        await send_chat(stream, 2_000)
        await to_thread.run_sync(try_all, url)
