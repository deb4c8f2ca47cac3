import json
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest

from kvstream.collector import KVCacheMetricsCollector
from kvstream.events.codec import decode_frame, decode_line
from kvstream.events.frame import EventFrame
from kvstream.events.types import Event
from kvstream.schemas import documents
from kvstream.sources.reader import EventReader

DOCUMENTS = documents()
FOLDER = Path(__file__).parent.parent / "schemas"
VECTORS = json.loads((FOLDER / "wire_vectors.json").read_text())["vectors"]


def schema(name):
    return json.loads((FOLDER / f"{name}.schema.json").read_text())


def test_the_documents_of_now_are_checked_in_and_no_others():
    there, now = {path.name: path.read_text() for path in FOLDER.iterdir()}, documents()
    assert set(there) == set(now)
    assert [name for name in now if there[name] != now[name]] == [], "run: kvstream schemas write"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_golden_bytes_decode_to_what_stands_beside_them(vector):
    reader, data = EventReader("x"), bytes.fromhex(vector["hex"])
    items = [decode_frame(data)] if "seq" in vector else [*reader.feed(data), *reader.finish()]
    events = [e for frame in items for e in frame.to_events()]
    assert events == msgspec.convert(vector["events"], list[Event])


@pytest.mark.parametrize("vector", [v for v in VECTORS if "seq" in v], ids=lambda v: v["name"])
def test_golden_frames_carry_their_place(vector):
    frame = decode_frame(bytes.fromhex(vector["hex"]))
    assert (frame.source, frame.tier, frame.epoch, frame.seq) == (
        vector["source"],
        vector["tier"],
        vector["epoch"],
        vector["seq"],
    )


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.schema.json")), ids=lambda path: path.name)
def test_schemas_are_valid_json_schema(path):
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


def test_real_messages_satisfy_their_schemas():
    collector = KVCacheMetricsCollector()
    collector.on_block_allocated(1)
    collector.on_block_evicted(1)
    summary = msgspec.to_builtins(collector.get_summary())
    jsonschema.validate(summary, schema("summary"))
    (event,) = collector.drain_events()
    jsonschema.validate(msgspec.to_builtins(event), schema("eviction"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**summary, "blocks_live": "many"}, schema("summary"))
    for line, name in [('{"type":"alloc","block":1,"ts":5}', "alloc"), ('{"type":"clear","ts":5}', "clear")]:
        jsonschema.validate(json.loads(line), schema(name))
        decode_line(line)


def test_asyncapi_document_is_whole():
    document = json.loads((FOLDER / "asyncapi.json").read_text())
    assert document["asyncapi"] == "3.0.0"
    messages = document["components"]["messages"]
    for channel in document["channels"].values():
        for name, reference in channel["messages"].items():
            assert reference == {"$ref": f"#/components/messages/{name}"}
            assert name in messages
    for name, message in messages.items():
        assert (FOLDER / message["payload"]["$ref"]).exists()
        for example in message["examples"]:
            jsonschema.validate(example["payload"], schema(name))


def test_frame_of_no_events_is_a_frame():
    from kvstream.events.codec import encode_frame

    empty = np.empty(0, np.int64)
    assert len(decode_frame(encode_frame(EventFrame(empty.astype(np.uint8), empty, empty)))) == 0
