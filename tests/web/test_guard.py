"""Who may come: by token, by cookie, or by the name that is asked for."""

from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from kvstream import KVStream
from kvstream.errors import ConfigError
from kvstream.web import create_app
from kvstream.web.guard import COOKIE, host_of
from tests.waiting import DEADLINE

OWN_NAMES = (
    *(
        "localhost",
        "localhost:9109",
        "LocalHost:80",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:9109",
        "127.1.2.3",
    ),
    *("[::1]", "[::1]:9109"),
)
OTHER_NAMES = (
    *("evil.example", "evil.example:9109", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"),
    *(
        "0.0.0.0",
        "[2001:db8::1]:80",
        "",
        "[::1",
        "[::1]evil",
        "localhost:80:80",
        "localhost@evil.example",
        "é",
    ),
)


@asynccontextmanager
async def client_of(app, base_url="http://localhost"):
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app), base_url=base_url, timeout=DEADLINE
    ) as client:
        yield client


async def status(client, host, path="/api/summary"):
    return (await client.get(path, headers={b"host": host.encode()})).status_code


async def test_without_a_token_only_names_of_this_machine_are_answered():
    async with KVStream() as stream, client_of(create_app(stream)) as client:
        for host in OWN_NAMES:
            assert await status(client, host) == 200, host
        for host in OTHER_NAMES:
            for path in ("/", "/metrics", "/api/summary", "/events", "/static/app.js"):
                assert await status(client, host, path) == 421, host
            assert await status(client, host, "/healthz") == 200
        refused = await client.get("/", headers={"host": "evil.example"})
        assert "allowed_hosts" in refused.text
        assert "token" in refused.text
        assert stream.faults.counts["http", "bad_host"] == 5 * len(OTHER_NAMES) + 1


async def test_hosts_that_are_allowed_are_answered_beside_those_of_this_machine():
    async with (
        KVStream() as stream,
        client_of(create_app(stream, allowed_hosts=["KV.example.org"])) as client,
    ):
        assert await status(client, "kv.example.org:443") == 200
        assert await status(client, "localhost") == 200
        assert await status(client, "evil.example") == 421


async def test_with_a_token_every_host_is_answered_unless_some_are_named():
    bearer = {"authorization": "Bearer s3cret"}
    stream = KVStream()
    any_host, some = (
        create_app(stream, token="s3cret"),
        create_app(stream, token="s3cret", allowed_hosts=["a.example"]),
    )
    async with stream, client_of(any_host) as first, client_of(some) as second:
        assert (await first.get("/api/summary", headers={**bearer, "host": "b.example"})).status_code == 200
        assert (await second.get("/api/summary", headers={**bearer, "host": "a.example"})).status_code == 200
        assert (await second.get("/api/summary", headers={**bearer, "host": "b.example"})).status_code == 421
        assert (await second.get("/api/summary", headers={"host": "a.example"})).status_code == 401


async def test_an_application_that_authenticates_says_so():
    async with KVStream() as stream, client_of(create_app(stream, authenticated=True)) as client:
        assert await status(client, "anything.example") == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"token": ""}, "empty"),
        ({"token": "  "}, "empty"),
        ({"token": "\ud800"}, "could be sent"),
        ({"allowed_hosts": ["*"]}, "authenticated=True"),
        ({"allowed_hosts": [""]}, "no host name"),
        ({"allowed_hosts": ["http://a.example"]}, "no host name"),
        ({"allowed_hosts": "a.example"}, "list"),
        ({"authenticated": True, "token": "s3cret"}, "leave out"),
        ({"authenticated": True, "allowed_hosts": ["a.example"]}, "leave out"),
    ],
)
def test_what_would_let_nobody_or_everybody_in_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        create_app(KVStream(), **options)


@pytest.mark.parametrize("token", ["s3cret", "schlüssel ☃", "a+b &=%/", "\udcff\udc80", "x" * 4000])
async def test_a_token_is_compared_as_bytes(token):
    sent = token.encode("utf-8", "surrogateescape")
    async with KVStream() as stream, client_of(create_app(stream, token=token)) as client:
        answer = await client.get("/api/summary", headers={b"authorization": b"Bearer " + sent})
        assert answer.status_code == 200
        for wrong in (sent + b"x", sent[:-1], b"", b"\xff\xfe", "é".encode(), "²".encode("latin-1")):
            answer = await client.get("/api/summary", headers={b"authorization": b"Bearer " + wrong})
            assert answer.status_code == 401
        welcome = await client.get(f"/?token={quote(sent)}")
        assert welcome.status_code == 303
        assert (await client.get("/api/summary")).status_code == 200, "by the cookie"
        for odd in (b"%ff", b"%", b"%zz", b"a&token=b", b""):
            assert (await client.get(httpx2.URL("/", query=b"token=" + odd))).status_code in (303, 401)
        for cookie in (b"\xff", b";;=;", b"kvstream_session", b'kvstream_session="', b"=" * 5000):
            client.cookies.clear()
            answer = await client.get("/api/summary", headers={b"cookie": cookie})
            assert answer.status_code == 401
        assert ("http", "request_failed") not in stream.faults.counts


async def test_the_cookie_is_not_the_token_and_is_that_of_the_token():
    stream = KVStream()
    one, same, other = (create_app(stream, token=token) for token in ("s3cret", "s3cret", "another"))
    async with stream, client_of(one) as client:
        cookie = (await client.get("/?token=s3cret")).cookies[COOKIE]
        assert "s3cret" not in cookie
        async with client_of(same) as restarted, client_of(other) as changed:
            bearer = {"authorization": f"Bearer {cookie}"}
            assert (await restarted.get("/api/summary", headers=bearer)).status_code == 401
            held = {"cookie": f"other=1; {COOKIE}={cookie}"}
            assert (await restarted.get("/api/summary", headers=held)).status_code == 200
            assert (await changed.get("/api/summary", headers=held)).status_code == 401
        client.cookies.clear()
        client.cookies.set(COOKIE, "s3cret")
        assert (await client.get("/api/summary")).status_code == 401, "the token itself is no cookie"


@pytest.mark.parametrize(
    ("base_url", "headers", "secure"),
    [
        ("http://localhost", {}, False),
        ("https://localhost", {}, True),
        ("http://localhost", {"x-forwarded-proto": "https"}, True),
        ("http://localhost", {"x-forwarded-proto": "HTTPS, http"}, True),
        ("http://localhost", {"x-forwarded-proto": "http"}, False),
    ],
)
async def test_behind_tls_the_cookie_is_secure(base_url, headers, secure):
    async with KVStream() as stream, client_of(create_app(stream, token="s3cret"), base_url) as client:
        given = (await client.get("/?token=s3cret", headers=headers)).headers["set-cookie"]
        assert ("Secure" in given) == secure
        assert "HttpOnly" in given
        assert "SameSite=strict" in given


class StrippingProxy:
    """A proxy that serves an application below a prefix and does not say so."""

    def __init__(self, app, prefix):
        self._app, self._prefix = app, prefix

    async def __call__(self, scope, receive, send):
        assert scope["path"].startswith(f"{self._prefix}/")
        path = scope["path"].removeprefix(self._prefix)
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send)


@pytest.mark.parametrize("kind", ["stripped", "mounted", "at the root"])
async def test_under_any_prefix_the_cookie_reaches_the_page_and_only_the_page(kind):
    stream = KVStream()
    app, prefix = create_app(stream, token="s3cret"), "" if kind == "at the root" else "/kvstream"
    if kind == "stripped":
        app = StrippingProxy(app, prefix)
    elif kind == "mounted":
        app = Starlette(routes=[Mount(prefix, app)])
    async with stream, client_of(app) as client:
        page = await client.get(f"{prefix}/?token=s3cret", follow_redirects=True)
        assert (page.status_code, page.url.path, page.url.query) == (200, f"{prefix}/", b"")
        for path in ("api/summary", "static/app.js", "metrics"):
            assert (await client.get(f"{prefix}/{path}")).status_code == 200, path
        (cookie,) = client.cookies.jar
        assert cookie.path == (prefix or "/")


async def test_a_token_in_a_query_reaches_no_log_of_the_server(caplog):
    seen = []
    stream = KVStream()
    guarded = create_app(stream, token="s3cret")

    async def server(scope, receive, send):
        async def noting_send(message):
            seen.append(scope["query_string"])  # as the access log of a server has it
            await send(message)

        await guarded(scope, receive, noting_send)

    async with stream, client_of(server) as client:
        for given in ("s3cret", "s3crex"):
            answer = await client.get(f"/?token={given}&x=1")
            assert answer.headers["referrer-policy"] == "no-referrer"
        assert (await client.get("/api/summary?token=s3cret")).status_code == 200, "by the cookie"
        client.cookies.clear()
        assert (await client.get("/api/summary?token=s3cret")).status_code == 401, "only the page takes it so"
    assert b"s3cre" not in b"".join(seen)
    assert "s3cre" not in caplog.text


@pytest.mark.parametrize(
    ("header", "host"),
    [(b"a.example:80", "a.example"), (b"[::1]:80", "::1"), (b"::1", "::1"), (b"[::1", ""), (b"\xff", "\xff")],
)
def test_the_host_is_what_stands_before_the_port(header, host):
    assert host_of(header) == host
