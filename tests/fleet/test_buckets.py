"""Snapshots in a bucket behind S3's protocol, which may refuse, fail or take its time."""

import threading
import uuid

import pytest

from kvstream.fleet.snapshots import Snapshots, objects_at
from kvstream.state.snapshot import Section
from tests.ports import free_port

pytestmark = pytest.mark.slow  # as the packages of AWS take seconds to load


class Faulty:
    """The application of a server, with a status in place of its own answers while one is set."""

    def __init__(self, app):
        self._app = app
        self.status = None

    def __call__(self, environ, start_response):
        if self.status is None:
            return self._app(environ, start_response)
        start_response(self.status, [("Content-Type", "text/plain")])
        return [b""]


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("s3fs")  # here, as whoever looks for tests would wait for it, too
    moto_server = pytest.importorskip("moto.server")
    from werkzeug.serving import make_server

    faulty = Faulty(moto_server.DomainDispatcherApplication(moto_server.create_backend_app))
    port = free_port()
    serving = make_server("127.0.0.1", port, faulty, threaded=True)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    faulty.url = f"http://127.0.0.1:{port}"
    yield faulty
    serving.shutdown()
    thread.join()


@pytest.fixture
def place(server, monkeypatch):
    """A bucket of its own."""
    import fsspec

    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"kv{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(f"s3://{bucket}")
    yield f"s3://{bucket}/prefix"
    server.status = None


def section(number):
    return Section("source", "a", {"number": number})


def test_snapshots_are_kept_found_and_removed(place):
    kept = Snapshots.at(place, "t.frames", "test")
    assert kept.newest(0, None) is None
    for offset in (1, 2, 3):
        kept.save(0, offset, 0.0, iter([section(offset)]))
    kept.prune(0, 3)
    found = Snapshots.at(place, "t.frames", "test")
    assert [found.newest(0, at_most).offset for at_most in (None, 2)] == [3, 2]
    assert found.newest(0, 3).sections[0].body == {"number": 3}
    assert found.newest(0, 1) is None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("403 Forbidden", PermissionError),
        ("404 Not Found", FileNotFoundError),
        ("500 Internal Server Error", OSError),
    ],
)
def test_a_bucket_that_fails_raises_and_is_never_taken_for_an_empty_one(place, server, status, error):
    kept = Snapshots.at(place, "t.frames", "test")
    kept.save(0, 1, 0.0, iter([section(1)]))
    server.status = status
    with pytest.raises(error):
        kept.save(0, 2, 0.0, iter([section(2)]))
    if error is not FileNotFoundError:  # by which S3 also says that there is no such folder
        with pytest.raises(error):
            kept.newest(0, 1)
    server.status = None
    assert kept.newest(0, None).offset == 1


def test_an_object_takes_the_place_of_one_with_its_name(place):
    objects = objects_at(place)
    objects.write("f", "offset", b"one")
    objects.write("f", "offset", b"two")
    assert objects.read("f", "offset") == b"two"
    assert objects.names("f") == ["offset"]
    objects.remove("f", "offset")
    assert objects.names("f") == []
