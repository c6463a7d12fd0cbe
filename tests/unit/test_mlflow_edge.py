"""What every request to the MLflow server has to pass (trackbed_mlflow/edge): origins, addresses, sizes."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from trackbed_mlflow.edge import body_limits, middleware, origins, routes, span_limits
from trackbed_mlflow.edge.access_token import App, Receive, Scope, Send

from tests.conftest import PATIENCE
from tests.unit import asgi

LISTED = "http://localhost:8000,http://127.0.0.1:8000,https://lab.example.org:8000"
SEARCH = "/api/2.0/mlflow/experiments/search"
ASSISTANT = "/ajax-api/3.0/mlflow/assistant/config"


@pytest.fixture
def inner() -> asgi.Inner:
    return asgi.Inner()


@pytest.fixture
def app(inner: asgi.Inner) -> App:
    return middleware.guarded(inner, {middleware.ORIGINS: LISTED})


# addresses


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/static-files/static/js/main.js"),
        ("GET", "/health"),
        ("POST", "/graphql"),
        ("POST", "/v1/traces"),
        ("GET", SEARCH),
        ("POST", SEARCH),
        ("OPTIONS", SEARCH),
        ("GET", "/ajax-api/2.0/mlflow/experiments/search"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a b/c.txt"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts"),
        ("PATCH", "/api/2.0/mlflow/logged-models/m-1"),
        ("DELETE", "/api/2.0/mlflow/logged-models/m-1/tags/a"),
        ("GET", "/api/3.0/mlflow/traces/tr-1"),
        ("GET", "/api/3.0/mlflow/mcp-servers/a/b/versions/1"),
        ("POST", "/api/3.0/mlflow/gateway/secrets/create"),
        ("GET", "/ajax-api/2.0/mlflow/gateway-proxy"),
    ],
)
def test_what_is_offered_reaches_mlflow(app: App, inner: asgi.Inner, method: str, path: str) -> None:
    assert asgi.ask(app, path, method).status == 200
    assert inner.asked == [path]


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("PUT", ASSISTANT, "assistant"),
        ("GET", ASSISTANT, "assistant"),
        ("OPTIONS", ASSISTANT, "assistant"),
        ("BREW", ASSISTANT, "assistant"),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message", "assistant"),
        ("GET", "/ajax-api/3.0/mlflow/assistant/sessions/a/stream", "assistant"),
        ("POST", "/ajax-api/3.0/jobs/", "job runner"),
        ("POST", "/ajax-api/3.0/mlflow/scorer/invoke", "invoke up --mlflow-jobs=on"),
        ("POST", "/ajax-api/3.0/mlflow/genai/evaluate/invoke", "invoke up --mlflow-jobs=on"),
        ("POST", "/ajax-api/3.0/mlflow/issues/invoke", "job runner"),
        ("POST", "/api/3.0/mlflow/prompt-optimization/jobs", "job runner"),
        ("PUT", "/ajax-api/3.0/mlflow/scorers/online-config", "invoke up --mlflow-jobs=on"),
        ("PUT", "/api/3.0/mlflow/scorers/online-config", "invoke up --mlflow-jobs=on"),
        ("POST", "/gateway/x/mlflow/invocations", "gateway"),
        ("POST", "/gateway/proxy/x/a/b/c", "gateway"),
        ("POST", "/ajax-api/2.0/mlflow/gateway-proxy", "gateway"),
        ("POST", "/gateway/gemini/v1beta/models/x:generateContent", "gateway"),
        ("POST", "/api/2.0/mlflow/webhooks/1/test", "webhook"),
        ("POST", "/api/3.0/mlflow/workspaces", "workspaces"),
    ],
)
def test_what_is_off_says_so(app: App, inner: asgi.Inner, method: str, path: str, said: str) -> None:
    answer = asgi.ask(app, path, method)
    assert answer.status == 404 and not inner.asked
    error = json.loads(answer.body)
    assert error["error_code"] == "ENDPOINT_NOT_FOUND"
    assert said in error["message"] and "switched off in Trackbed" in error["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/new/route",
        "/gateway",
        "/gateway/",
        "/gateway/x",
        "/openapi.json",
        "/docs",
        "/metrics",
        "",
        "*",
        SEARCH + "/",
        "//localhost:8000" + SEARCH,
        "//evil.example",
        SEARCH.upper(),
        SEARCH + "\n",
        SEARCH + "\0",
        "/x/.." + SEARCH,
        "/." + SEARCH,
        "/mlflow" + SEARCH,
        SEARCH.replace("/", "\\"),
        SEARCH + ";x",
        "/api%2f2.0",
        "/" + ASSISTANT,
        ASSISTANT + "/",
        ASSISTANT.upper(),
        ASSISTANT.replace("/mlflow", "//mlflow"),
        "/x/.." + ASSISTANT,
        ASSISTANT.replace("assistant", "%61ssistant"),
        ASSISTANT + ".",
        "/ajax-api/3.0/mlflow/assistant/new",
        "/api/3.0/mlflow/assistant/config",
        "/ajax-api/3.0/jobs/a/b",
        "/ajax-api/3.0/mlflow/new/thing",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
def test_what_the_table_does_not_name_is_off(app: App, inner: asgi.Inner, method: str, path: str) -> None:
    assert asgi.ask(app, path, method).status == 404
    assert not inner.asked


@pytest.mark.parametrize("part", ["/versions/x", "x", "//", "/search"])
def test_a_path_is_not_longer_than_a_name_can_be(app: App, inner: asgi.Inner, part: str) -> None:
    path = "/api/3.0/mlflow/mcp-servers/" + part * 2**20  # judged, the first would take days
    answer = asgi.ask(app, path[: 2**20])
    assert answer.status == 414 and b"shorter" in answer.body
    assert asgi.ask(app, f"/api/2.0/mlflow-artifacts/artifacts/{'folder/' * 580}").status == 200
    assert len(inner.asked) == 1


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("GET", "//", "/"),
        ("HEAD", "///", "/"),
        ("GET", "/" + SEARCH, SEARCH),
        ("POST", "//" + SEARCH, SEARCH),
        ("OPTIONS", "/" + SEARCH, SEARCH),
        ("POST", SEARCH.replace("/", "//"), SEARCH),
        ("GET", "//model-versions//get-artifact", "/model-versions/get-artifact"),
        # in a name they stay
        ("PUT", "//api/2.0/mlflow-artifacts//artifacts/a//b c", "/api/2.0/mlflow-artifacts/artifacts/a//b%20c"),
        ("PUT", "//api/2.0/mlflow-artifacts/artifacts//a", "/api/2.0/mlflow-artifacts/artifacts//a"),
    ],
)
def test_doubled_slashes_lead_to_the_address_that_is_meant(
    app: App, inner: asgi.Inner, method: str, path: str, meant: str
) -> None:
    answer = asgi.ask(app, path, method, query="a=%2F%2F&b=1", body=b"{}")
    assert answer.status == 308 and not inner.asked
    assert answer.headers["location"] == f"{meant}?a=%2F%2F&b=1" and answer.body == b""


def test_a_query_that_is_not_ascii_is_led_on_as_it_came(app: App) -> None:
    answer = asgi.ask(app, "/" + SEARCH, query="filter=\xe9")
    assert answer.headers["location"] == f"{SEARCH}?filter=\xe9"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/" + SEARCH),
        ("PATCH", "//"),
        ("POST", "//gateway/x/mlflow/invocations"),
        ("GET", "//v1/traces"),
        ("GET", "/" * 8_000 + "x"),
        ("GET", "//x" * 2_500),
    ],
)
def test_doubled_slashes_lead_to_nothing_else(app: App, inner: asgi.Inner, method: str, path: str) -> None:
    assert asgi.ask(app, path, method).status == 404
    assert not inner.asked


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "TRACE", "CONNECT", "get"])
def test_only_the_judged_methods(app: App, inner: asgi.Inner, method: str) -> None:
    assert asgi.ask(app, SEARCH, method).status == 405
    assert not inner.asked


def test_websockets_are_closed(app: App, inner: asgi.Inner) -> None:
    assert asgi.ask(app, SEARCH, kind="websocket").messages == [{"type": "websocket.close", "code": 1008}]
    assert not inner.asked


def test_one_verdict_for_each_route() -> None:
    group = routes.Group("/a", True, "", GET=".")
    with pytest.raises(ValueError, match="judged twice: GET /a"):
        routes.Judge((group, group))
    assert all(group.reason for group in routes.TABLE)


# origins


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("http://127.0.0.1:8000", "localhost:8000"),
        ("http://localhost:9000", "localhost:9000"),  # a tunnel that ends at another port
        ("https://lab.example.org:8000", "lab.example.org:8000"),
        ("https://lab.example.org", "lab.example.org"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("HTTP://LOCALHOST:8000", "localhost:8000"),
    ],
)
def test_own_pages_may(app: App, origin: str, host: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        assert asgi.ask(app, SEARCH, method, origin=origin, host=host).status == 200


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:5173", "localhost:8000"),
        ("http://127.0.0.1:3000", "127.0.0.1:8000"),
        ("http://localhost", "localhost:8000"),
        ("null", "localhost:8000"),
        ("", "localhost:8000"),
        ("file://", "localhost:8000"),
        ("https://evil.example", "localhost:8000"),
        ("http://localhost:8000.evil.example", "localhost:8000"),
        ("http://localhost:8000@evil.example", "localhost:8000"),
        ("http://localhost:8000", "localhost:9000"),  # at a tunnel's end the usual port may be another program
        ("http://evil.example:8000", "localhost:8000"),
        ("http://[::1]:8000", "localhost:8000"),
        ("http://localhost:99999", "localhost:8000"),
        ("http://localhost:8000", ""),
        ("chrome-extension://x", "localhost:8000"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_other_pages_may_not_even_read(app: App, inner: asgi.Inner, origin: str, host: str, method: str) -> None:
    answer = asgi.ask(app, SEARCH, method, origin=origin, host=host)
    assert answer.status == 403 and not inner.asked
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"referer": "http://localhost:8000/"}, 200),
        ({"referer": "http://localhost:5173/x"}, 403),
        ({"referer": "http://evil.example/"}, 403),
    ],
)
def test_without_an_origin_the_browsers_other_words_count(app: App, headers: dict[str, Any], status: int) -> None:
    assert asgi.ask(app, SEARCH, "POST", host="localhost:8000", **headers).status == status
    assert asgi.ask(app, SEARCH, "GET", host="localhost:8000", **headers).status == 200  # a link


def test_plain_http_on_the_way_is_no_page_behind_tls() -> None:
    public = origins.Origins(["https://lab.example.org:8000", "https://localhost:8000"])
    assert public.own("https://lab.example.org:8000", "lab.example.org:8000")
    assert not public.own("http://lab.example.org:8000", "lab.example.org:8000")
    private = origins.Origins(["http://localhost:8000"])
    assert private.own("http://localhost:9000", "localhost:9000")
    assert not private.own("https://localhost:8000", "localhost:8000")
    assert origins.Origins([""]).own("https://any.example", "any.example")


def test_two_origins_are_both_asked_for() -> None:
    listed = origins.Origins(LISTED.split(","))
    headers = [(b"host", b"localhost:8000"), (b"origin", b"http://evil.example"), (b"origin", b"http://localhost:8000")]
    assert listed.refusal("POST", headers) and listed.refusal("POST", headers[::-1])
    assert not listed.refusal("POST", headers[::2])


# sizes

TRACES = body_limits.TRACES


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(body_limits, "LIMIT", 5000)
    monkeypatch.setattr(body_limits, "CHUNK", 512)
    return 5000


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("gzip", lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]) + b"\0\0"),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize("size", [0, 1, 512, 5000, 5001, 3_000_000])
def test_packed_bodies_are_bounded(
    app: App, small: int, encoding: str, pack: Callable[[bytes], bytes], step: int, size: int
) -> None:
    data = bytes(size)
    packed = pack(data)
    parts = [packed[at : at + step] for at in range(0, len(packed), step)]
    answer = asgi.ask(app, TRACES, "POST", body=parts, content_encoding=encoding)
    if size > small:
        assert answer.status == 413 and len(answer.body) < 300 and len(answer.messages) == 2
    else:
        assert (answer.status, answer.body) == (200, data)


def test_mlflow_does_not_unpack_again(app: App, inner: asgi.Inner) -> None:
    scope_headers: list[tuple[bytes, bytes]] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        scope_headers.extend(scope["headers"])
        await inner(scope, receive, send)

    asgi.ask(
        middleware.guarded(look, {}),
        TRACES,
        "POST",
        body=gzip.compress(b"x"),
        content_encoding="gzip",
        content_length="21",
        content_type="a/b",
    )
    assert scope_headers == [(b"content-type", b"a/b")]


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(b"x" * 100)[:-4], 400),
        ("deflate", b"", 400),
        ("gzip", b"", 400),
        ("deflate", b"\xff\xff\xff", 400),
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
        ("zstd", b"x", 415),
        ("identity", b"x", 200),
        ("", b"x", 200),
    ],
)
def test_odd_encodings(app: App, encoding: str, body: bytes, status: int) -> None:
    assert asgi.ask(app, TRACES, "POST", body=body, content_encoding=encoding).status == status


def field(number: int, data: bytes) -> bytes:
    """A field of a protobuf message that holds bytes or another message."""
    length, coded = len(data), b""
    while length > 127:
        coded, length = coded + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + coded + bytes([length]) + data


SPAN = field(1, b"t" * 16) + field(2, b"s" * 8) + field(5, b"name") + b"\x30\x01\x3912345678"


def request(*spans: bytes) -> bytes:
    scope = b"".join(field(2, span) for span in spans)
    return field(1, field(1, field(1, field(1, b"key"))) + field(2, field(1, b"") + scope))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_limits, "SPANS", 200)
    monkeypatch.setattr(span_limits, "FIELDS", 20_000)
    monkeypatch.setattr(span_limits, "OBJECTS", 1000)
    monkeypatch.setattr(span_limits, "SMALL", 100)


NESTED = field(9, field(2, field(5, field(1, b"\x18\x01") * 9000)))  # an attribute, a list of numbers


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (request(*[SPAN] * 200), 200),
        (request(*[SPAN] * 201), 413),
        (request(*[b""] * 1000), 413),
        (request(SPAN + field(9, b"x") * 9000), 200),
        (request(SPAN + field(11, b"") * 21_000), 413),
        (request(SPAN + NESTED), 200),
        (request(*[SPAN + NESTED] * 2), 413),
        (request(SPAN + field(9, field(1, b"doc") + field(2, field(1, b"y" * 50_000)))), 200),
        # what is no protobuf is MLflow's to refuse
        (b"\xff" * 2000, 200),
        (request(SPAN) + b"\x0a\xff\xff\xff\x7f" + b"x" * 2000, 200),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_spans_are_counted(app: App, few: None, body: bytes, status: int, packed: bool) -> None:
    sent = gzip.compress(body, 1) if packed else body
    answer = asgi.ask(
        app,
        TRACES,
        "POST",
        body=sent,
        content_type="application/x-protobuf",
        content_length=str(len(sent)),
        **({"content_encoding": "gzip"} if packed else {}),
    )
    assert answer.status == status
    assert status == 413 or answer.body == body


@pytest.mark.parametrize(
    ("name", "number", "status"),
    [
        ("spanId", 200, 200),
        ("spanId", 201, 413),
        ("span_id", 201, 413),
        ("span\\u0049d", 900, 413),
    ],
)
def test_spans_as_json_are_counted(app: App, few: None, name: str, number: int, status: int) -> None:
    spans = ",".join([f'{{"{name}":"1"}}'] * number)
    sent = f'{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}'.encode()
    assert (
        asgi.ask(
            app,
            TRACES,
            "POST",
            body=sent,
            content_type="application/json; charset=utf-8",
            content_length=str(len(sent)),
        ).status
        == status
    )


@pytest.mark.parametrize(
    ("spans", "status"),
    [
        ("{}," * 900, 200),
        ("{}," * 1001, 413),
        ('{"name":"' + "{" * 5000 + '\\"{"},', 200),
        ('{"attributes":[' + "{}," * 1001 + "0]},", 413),
        ('{"name":"\\\\"},' + "{}," * 1001, 413),
    ],
)
def test_objects_without_the_name_of_a_span_are_counted(app: App, few: None, spans: str, status: int) -> None:
    """10 million empty ones were 29 KB of gzip, and minutes of the worker's time."""
    sent = f'{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}0]}}]}}]}}'
    for body in (sent.encode(), sent.encode("utf-16")) if status == 413 else (sent.encode(),):
        assert (
            asgi.ask(
                app, TRACES, "POST", body=body, content_type="application/json", content_length=str(len(body))
            ).status
            == status
        )


@pytest.mark.parametrize("kind", ["application/x-protobuf; x=json", "application/x-protobuf;charset=json"])
def test_the_kind_of_a_body_is_what_mlflow_takes_it_for(app: App, few: None, kind: str) -> None:
    body = request(*[SPAN] * 201)
    assert asgi.ask(app, TRACES, "POST", body=body, content_type=kind, content_length=str(len(body))).status == 413


def test_a_body_of_two_kinds_is_refused() -> None:
    kinds = [
        (b"content-type", b"application/x-protobuf"),
        (b"content-type", b"application/json"),
        (b"content-length", b"1000"),
    ]
    scope = {"type": "http", "method": "POST", "path": TRACES, "headers": kinds}
    with pytest.raises(body_limits.Refused, match="one Content-Type"):
        body_limits.bounded(scope, None)  # type: ignore[arg-type]


def test_telling_strings_apart_takes_no_longer_for_odd_ones() -> None:
    for body in (b'"' + b'\\"' * 2_000_000 + b"\\", b'"' * 3_000_001, b'"' + b"\\" * 3_000_001, b'"{' * 1_000_000):
        begun = time.monotonic()
        span_limits.json_objects(body, -1)
        assert time.monotonic() - begun < PATIENCE  # the square of that length would be days


def test_plain_bodies_are_bounded_by_what_they_say_and_by_what_comes(app: App, inner: asgi.Inner, small: int) -> None:
    assert asgi.ask(app, SEARCH, "POST", body=b"x", content_length=str(small + 1)).status == 413
    assert not inner.asked
    parts = [b"x" * 1000] * 5
    assert asgi.ask(app, SEARCH, "POST", body=parts, transfer_encoding="chunked").status == 200
    answer = asgi.ask(app, SEARCH, "POST", body=[*parts, b"x"], transfer_encoding="chunked")
    assert answer.status == 413 and b"as artifacts" in answer.body


@pytest.mark.parametrize("part", ["{},", "[],", "[{}],", "1.5,", '"a":1,', '"a,b",'])
@pytest.mark.parametrize("path", [SEARCH, "/api/3.0/mlflow/datasets/d-1/records"])
@pytest.mark.parametrize("chunked", [False, True])
def test_json_of_very_many_values_is_refused(app: App, path: str, part: str, chunked: bool) -> None:
    """32 MiB of them took a worker seconds and a gigabyte, and all its other requests waited."""
    few = part.encode() * (body_limits.MOST_SIGNS // sum(map(part.count, "{[:,")))
    for body, status in (([few[:-100], few[-100:]], 200), ([few, b"{},{}"], 413)):
        length = {"transfer_encoding": "chunked"} if chunked else {"content_length": str(len(b"".join(body)))}
        answer = asgi.ask(app, path, "POST", body=body, **length)
        assert answer.status == status
    assert b"Send less at once" in answer.body


def test_traces_as_json_of_very_many_values_are_refused(app: App) -> None:
    body = b"[]," * body_limits.MOST_SIGNS
    answer = asgi.ask(app, TRACES, "POST", body=body, content_length=str(len(body)), content_type="application/json")
    assert answer.status == 413


def test_a_file_is_no_json(app: App) -> None:
    body = b"," * (body_limits.MOST_SIGNS + 1)
    assert asgi.ask(app, body_limits.FILE, "POST", body=body, content_length=str(len(body))).body == body


def test_artifacts_are_as_long_as_they_are(app: App, small: int) -> None:
    for path in body_limits.STREAMED:
        answer = asgi.ask(
            app, path + "1/big", "PUT", body=b"x" * small * 2, content_length=str(small * 2), content_encoding="gzip"
        )
        assert (answer.status, len(answer.body)) == (200, small * 2)


def test_what_mlflow_makes_of_a_refused_body_is_not_sent(small: int) -> None:
    async def catching(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while True:
                await receive()
        except Exception:
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"parse error"})

    answer = asgi.ask(
        middleware.guarded(catching, {}), SEARCH, "POST", body=b"x" * (small + 1), transfer_encoding="chunked"
    )
    assert answer.status == 413 and b"parse error" not in answer.body


def test_other_errors_pass_as_they_are(app: App) -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("MLflow's own")

    with pytest.raises(RuntimeError, match="MLflow's own"):
        asgi.ask(middleware.guarded(failing, {}), SEARCH, "POST", transfer_encoding="chunked")
