"""The start page as the MLflow server shows it (trackbed_mlflow/start_page): who sees what, and what it looks at."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from trackbed_mlflow.edge import access_token, identity, middleware, token_file
from trackbed_mlflow.start_page import application, document, link, probes, rendering

from helpers import start_page, urls
from helpers.project import server_secrets
from tests.unit import asgi

TOKEN, MLFLOW_TOKEN = "the-notebooks-token", "mlflows-own-token"
LOCAL = "127.0.0.1:8000"
HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*,[[]::1]:*"
DIGEST = hashlib.sha256(start_page.PURPOSE + TOKEN.encode()).hexdigest()
KNOWN: dict[str, Any] = {
    "project": "lab",
    "engine": "docker",
    "written": 1_000_000,
    "services": [
        {"name": "postgres", "title": "PostgreSQL", "address": None},
        {"name": "mlflow", "title": "MLflow", "address": None},
        {"name": "jupyter", "title": "JupyterLab", "address": None},
    ],
    "notebook_url": "http://127.0.0.1:8888/lab",
    "notebook_digest": DIGEST,
    "console_url": "http://127.0.0.1:9001",
    "console_title": "VersityGW",
    "gpu": "2 AMD GPUs",
    "gpu_kind": "amd",
    "disk": True,
    "client": "export MLFLOW_TRACKING_USERNAME={login}\nread -rsp 'password: '",
    "backups": {"last": None, "note": "", "scheduled": False, "problem": ""},
    "lease": None,
    "workspace": "/srv/work",
}
Serve = Callable[..., access_token.App]


class Elements(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def links(self) -> list[str | None]:
        return [attributes["href"] for attributes in self.named("a")]


@pytest.fixture
def inner() -> asgi.Inner:
    return asgi.Inner()


@pytest.fixture
def serve(tmp_path: Path, inner: asgi.Inner) -> Serve:
    def make(known: object = KNOWN, token: str = "", key: str = "", database: Callable[[], object] = str) -> Any:
        environment = {application.HOSTS: HOSTS, document.FOLDER: str(tmp_path), "TRACKBED_OWN_TMP": str(tmp_path)}
        (tmp_path / document.FILE).write_text(known if isinstance(known, str) else json.dumps(known))
        if token:
            (tmp_path / "token").write_text(token)
            environment[token_file.FILE] = str(tmp_path / "token")
        if key:
            (tmp_path / "key").write_text(key)
            environment[identity.FILE] = str(tmp_path / "key")
        page = application.StartPage(inner, environment, database)
        return middleware.guarded(
            identity.identified(page, (), {}) if not key else identity.Identity(page, environment[identity.FILE]),
            environment,
        )

    return make


def shown(app: access_token.App, **headers: str) -> Elements:
    answer = asgi.ask(app, "/start", "GET", "", b"", "http", **{"host": LOCAL, **headers})
    assert answer.status == 200, answer.body
    return Elements(answer.body.decode())


def test_the_toolkit_and_the_server_agree() -> None:
    assert (start_page.PURPOSE, server_secrets.START_PAGE) == (document.PURPOSE, document.FILE)
    assert server_secrets.FOLDER_VARIABLE == document.FOLDER and urls.START_PAGE == link.PATH
    assert MLFLOW_PAGE_ENDS == urls.TRAINING_PAGE


MLFLOW_PAGE_ENDS = rendering.MLFLOW_PAGE.removeprefix("/")


# who sees it


def test_the_link_opens_mlflow_and_keeps_the_notebooks_token(serve: Serve, inner: asgi.Inner) -> None:
    app = serve(token=MLFLOW_TOKEN)
    answer = asgi.ask(app, "/start", query=f"token={TOKEN}", host=LOCAL)
    assert answer.status == 303 and answer.headers["location"] == "/start" and not inner.asked
    assert answer.headers["cache-control"] == "no-store" and answer.headers["referrer-policy"] == "no-referrer"
    cookies = [value.decode() for name, value in answer.messages[0]["headers"] if name == b"set-cookie"]
    kept, access = cookies
    assert kept == f"trackbed-start-8000={TOKEN}; Path=/start; HttpOnly; SameSite=Strict"
    assert access.startswith("trackbed-mlflow-8000=") and MLFLOW_TOKEN not in access and "Path=/;" in access
    together = "; ".join(cookie.split(";")[0] for cookie in cookies)
    assert f"http://127.0.0.1:8888/lab?token={TOKEN}" in shown(app, cookie=together).links
    assert asgi.ask(app, "/api/2.0/mlflow/experiments/search", cookie=together).status == 200


def test_without_mlflows_token_there_is_no_cookie_for_it(serve: Serve) -> None:
    answer = asgi.ask(serve(), "/start", query=f"token={TOKEN}", host=LOCAL)
    assert answer.status == 303 and "trackbed-mlflow" not in str(answer.messages)


@pytest.mark.parametrize("brought", ["", "x", TOKEN + "x", TOKEN[:-1], MLFLOW_TOKEN + "x", DIGEST, "%00", "\udcff"])
def test_another_token_opens_nothing(serve: Serve, inner: asgi.Inner, brought: str) -> None:
    app = serve(token=MLFLOW_TOKEN)
    query = f"token={brought.encode('utf-8', 'surrogateescape').decode('latin-1')}"
    answer = asgi.ask(app, "/start", query=query, host=LOCAL)
    assert answer.status == 401 and "set-cookie" not in answer.headers and not inner.asked
    for path in application.PATHS:
        assert asgi.ask(app, path, host=LOCAL).status == 401
        assert asgi.ask(app, path, host=LOCAL, cookie=f"trackbed-start-8000={TOKEN}").status == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
def test_the_link_is_followed_and_nothing_else(serve: Serve, method: str) -> None:
    answer = asgi.ask(serve(token=MLFLOW_TOKEN), "/start", method, query=f"token={TOKEN}", host=LOCAL)
    assert answer.status == 401 and "set-cookie" not in answer.headers
    assert asgi.ask(serve(token=MLFLOW_TOKEN), "/other", query=f"token={TOKEN}", host=LOCAL).status == 401


def test_mlflows_own_token_shows_the_page_without_the_notebooks(serve: Serve) -> None:
    app = serve(token=MLFLOW_TOKEN)
    answer = asgi.ask(app, "/start", query=f"token={MLFLOW_TOKEN}", host=LOCAL)
    assert answer.status == 303 and "trackbed-start" not in str(answer.messages)
    page = shown(app, authorization=f"Bearer {MLFLOW_TOKEN}")
    assert "http://127.0.0.1:8888/lab" in page.links and "invoke jupyter-url" in page.text


@pytest.mark.parametrize("cookie", ["", "trackbed-start-8000=wrong", f"trackbed-start-8001={TOKEN}", "a=b;;=;x"])
def test_a_cookie_that_is_not_the_tokens_is_not_repeated(serve: Serve, cookie: str) -> None:
    links = shown(serve(), cookie=cookie).links
    assert "http://127.0.0.1:8888/lab" in links and not any("token" in str(address) for address in links)


def test_a_replaced_token_is_forgotten(serve: Serve, tmp_path: Path) -> None:
    app = serve()
    cookie = f"trackbed-start-8000={TOKEN}"
    assert any("token" in str(address) for address in shown(app, cookie=cookie).links)
    (tmp_path / document.FILE).write_text(json.dumps({**KNOWN, "notebook_digest": "0" * 64}))
    assert not any("token" in str(address) for address in shown(app, cookie=cookie).links)


def test_a_browser_that_another_page_led_here_asks_once_more_with_its_cookie(serve: Serve) -> None:
    def asked(app: access_token.App, **headers: str) -> str:
        answer = asgi.ask(app, "/start", "GET", "", b"", "http", **{"host": LOCAL, **headers})
        return answer.headers.get("refresh", "")

    app = serve()
    assert asked(app, **{"sec-fetch-site": "cross-site"}) == "0; url=/start"  # as from the file of `invoke open`
    for site in ("none", "same-origin"):  # it is not asked for ever
        assert not asked(app, **{"sec-fetch-site": site})
    assert not asked(app)
    assert not asked(app, **{"sec-fetch-site": "cross-site", "cookie": f"trackbed-start-8000={TOKEN}"})
    assert not asked(serve({**KNOWN, "notebook_digest": ""}), **{"sec-fetch-site": "cross-site"})


def test_behind_the_gateway_no_link_has_a_token_and_each_sees_the_own_name(serve: Serve) -> None:
    app = serve(token=MLFLOW_TOKEN, key="gateways-key")
    inside = f"Bearer {MLFLOW_TOKEN}"
    answer = asgi.ask(app, "/start", query=f"token={TOKEN}", host=LOCAL, authorization=inside)
    assert answer.status == 200 and "set-cookie" not in answer.headers
    proof = hmac.new(b"gateways-key", identity.PURPOSE + b"ann", hashlib.sha256).hexdigest()
    page = shown(app, authorization=inside, x_trackbed_login=f"ann {proof}")
    assert "USERNAME=ann" in page.text and "NAME=NAME" not in page.text
    assert "USERNAME=NAME" in shown(app, authorization=inside).text


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost:8000,evil.example", "localhost:8 x", ""],
)
def test_a_foreign_name_is_refused(serve: Serve, inner: asgi.Inner, host: str) -> None:
    for path in application.PATHS:
        assert asgi.ask(serve(), path, host=host).status == 403
        assert asgi.ask(serve(), path).status == 403
    assert not inner.asked


@pytest.mark.parametrize("host", [LOCAL, "localhost", "LOCALHOST:9999", "[::1]:8000"])
def test_every_own_name_is_served(serve: Serve, host: str) -> None:
    assert asgi.ask(serve(), "/start", host=host).status == 200


def test_a_foreign_page_gets_no_answer(serve: Serve) -> None:
    assert asgi.ask(serve(), "/start.json", host=LOCAL, origin="http://127.0.0.1:8888").status == 403


def test_it_is_only_read(serve: Serve, inner: asgi.Inner) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert asgi.ask(serve(), "/start", method, host=LOCAL).status == 405
    head = asgi.ask(serve(), "/start", "HEAD", host=LOCAL)
    assert head.status == 200 and not head.body and int(head.headers["content-length"]) > 1000
    assert not inner.asked
    asgi.ask(serve(), "/health", host=LOCAL)
    assert inner.asked == ["/health"]


def test_people_without_a_shell_there_are_told_no_commands_for_secrets(serve: Serve) -> None:
    text = shown(serve({**KNOWN, "public": True})).text
    assert "invoke jupyter-url" not in text and "invoke credentials" not in text and "the people who run this" in text
    assert "invoke jupyter-url" in shown(serve()).text


# what a browser does with it


def test_nothing_runs_in_it_and_nobody_frames_or_keeps_it(serve: Serve) -> None:
    answer = asgi.ask(serve(), "/start", host=LOCAL)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "frame-ancestors 'none'" in policy
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    page = Elements(answer.body.decode())
    assert not page.named("script") and not page.named("form") and not page.named("img")
    style = re.search(r"<style>(.*?)</style>", answer.body.decode(), re.DOTALL)
    assert style and dict(application.headers(style[1]))[b"content-security-policy"].decode() == policy


def test_whatever_was_written_is_text(serve: Serve) -> None:
    evil = "<script>alert(1)</script>\"'&$project"
    services = [{"name": evil, "title": evil, "address": None}]
    told = {"last": 5, "note": evil, "problem": evil}
    known = {
        **dict.fromkeys(KNOWN, evil),
        "services": services,
        "written": 5,
        "backups": told,
        "lease": told,
        "notebook_url": "javascript:alert(1)",
        "console_url": 'http://a/" onclick="x',
    }
    page = shown(serve(known))
    assert not page.named("script") and not any("onclick" in attributes for _, attributes in page.tags)
    assert page.links == ["#main", "/#/experiments?workflowType=machine_learning", "/start"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"services": []}', "[" * 50_000])
def test_without_the_file_it_says_so(serve: Serve, content: str) -> None:
    page = shown(serve(content))
    assert "invoke up" in page.text and "MLflow" in page.text


def test_it_is_accessible(serve: Serve) -> None:
    page = shown(serve())
    assert page.named("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.tags if tag in ("header", "nav", "main", "footer")] == [
        "header",
        "main",
        "nav",
        "footer",
    ]
    assert page.links[0] == "#main" and page.named("main") == [{"id": "main"}]
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1", "h2", "h2", "h2"]
    names = {attributes.get("id") for _, attributes in page.tags}
    assert all(section["aria-labelledby"] in names for section in page.named("section"))
    assert all(cell.get("scope") in ("row", "col") for cell in page.named("th"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_colours_can_be_told_apart(scheme: str) -> None:
    """A contrast of 4.5 (WCAG 2, AA) between all text and what it stands on."""
    sets = re.findall(r":root \{(.*?)\}", rendering.Page().style, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", sets[scheme == "dark"]))

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for text in ("text", "quiet", "link", "ready", "silent"):
        for ground in ("ground", "panel", *(["code"] if text == "text" else [])):
            low, high = sorted((light(colours[text]), light(colours[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


# what it says


def test_backups_lease_and_age(serve: Serve) -> None:
    look = probes.Look(
        200_000.0, {"jupyter": probes.READY}, probes.Disk(2**30, 2**31), (probes.Gpu("GPU 0", 5, 2**30, 2**32),)
    )
    known = {
        **KNOWN,
        "written": 200_000 - 3 * 3600,
        "backups": {"last": 200_000 - 7200, "note": "to s3://b/p", "problem": "late"},
        "lease": {"end": 200_000 + 3 * 86400, "note": "", "problem": ""},
    }
    text = Elements(rendering.Page().text(rendering.View(known, look, ""), "")).text
    for part in (
        "2 hours ago",
        "to s3://b/p",
        "late",
        "in 3 days",
        "3 hours ago",
        "1.0 GiB free of 2.0 GiB",
        "5 % busy",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("backups", "expected"),
    [
        ({"scheduled": True}, "none yet"),
        ({"scheduled": False}, "none yet no schedule; invoke backup makes one now"),
        (
            {"last": 10_000_000, "note": "to /srv/x.tar", "scheduled": False},
            "1970-04-26 17:46 UTC (just now) to /srv/x.tar no schedule; invoke backup makes one now",
        ),
    ],
)
def test_a_backup_by_hand_is_the_last_one_too(backups: dict[str, Any], expected: str) -> None:
    known = {**KNOWN, "backups": {"last": None, "note": "", "problem": "", **backups}}
    view = rendering.View(known, probes.Look(10_000_001.0, {}, None, ()), "")
    (value,) = (value for name, value in rendering.facts(view) if name == "Last backup")
    assert " ".join(Elements(value).text.split()).replace(" ;", ";") == expected


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-10, "just now"),
        (-60, "1 minute ago"),
        (-7199, "119 minutes ago"),
        (7200, "in 2 hours"),
        (172_799, "in 47 hours"),
        (-172_800, "2 days ago"),
    ],
)
def test_distances(seconds: float, words: str) -> None:
    assert rendering.distance(seconds) == words


def test_programs_get_the_same_without_addresses(serve: Serve) -> None:
    answer = asgi.ask(serve(), "/start.json", host=LOCAL, cookie=f"trackbed-start-8000={TOKEN}")
    data = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/json" and data["project"] == "lab"
    assert [(one["service"], one["state"]) for one in data["services"]] == [
        ("postgres", probes.READY),
        ("mlflow", probes.READY),
        ("jupyter", probes.UNKNOWN),
    ]
    assert (
        TOKEN not in answer.body.decode() and DIGEST not in answer.body.decode() and "8888" not in answer.body.decode()
    )


# what it looks at


@pytest.fixture
def listener() -> Iterator[Callable[[bytes], int]]:
    """Answers each connection with some bytes; gives the port."""
    opened: list[socket.socket] = []

    def listen(answer: bytes) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        opened.append(server)

        def work() -> None:
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                with link:
                    link.recv(1000)
                    link.sendall(answer)

        threading.Thread(target=work, daemon=True).start()
        return int(server.getsockname()[1])

    yield listen
    for server in opened:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def states(known: dict[str, Any], database: Callable[[], object] = str) -> dict[str, str]:
    return dict(asyncio.run(probes.Probes({}, database).look(known)).states)


@pytest.mark.parametrize(
    ("answer", "state"), [(b"HTTP/1.1 302 Found\r\n", "ready"), (b"SSH-2.0-x\r\n", "no answer"), (b"", "no answer")]
)
def test_a_service_that_answers_is_ready(listener: Callable[[bytes], int], answer: bytes, state: str) -> None:
    address = ["127.0.0.1", listener(answer), True]
    assert states({"services": [{"name": "jupyter", "address": address}]}) == {"jupyter": state}


def test_a_port_that_is_closed_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert states({"services": [{"name": "store-sync", "address": ["127.0.0.1", port, False]}]}) == {
        "store-sync": "no answer"
    }


def test_a_database_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "SECONDS", 0.02)
    monkeypatch.setattr(probes, "FRESH_SECONDS", 0.0)
    asked, end = [], threading.Event()

    def hang() -> None:
        asked.append(1)
        end.wait(60)

    async def twice() -> list[str]:
        looking = probes.Probes({}, hang)
        known = {"services": [{"name": "postgres", "address": None}]}
        seen = [(await looking.look(known)).states["postgres"] for _ in range(3)]
        end.set()
        return seen

    assert asyncio.run(twice()) == ["no answer"] * 3 and len(asked) == 1


def test_a_database_that_fails_is_no_answer() -> None:
    def fail() -> None:
        raise RuntimeError("down")

    assert states({"services": [{"name": "postgres", "address": None}]}, fail) == {"postgres": "no answer"}


def test_many_who_ask_are_one_look() -> None:
    asked: list[int] = []

    async def many() -> None:
        looking = probes.Probes({}, lambda: asked.append(1))
        known = {"services": [{"name": "postgres", "address": None}]}
        await asyncio.gather(*(looking.look(known) for _ in range(50)))

    asyncio.run(many())
    assert len(asked) == 1


def test_amd_gpus_are_read_from_the_machine(tmp_path: Path) -> None:
    for name, values in {"card0": None, "card10": (7, 1, 4), "card2": (99, 3, 8), "card2-DP-1": None}.items():
        (tmp_path / name / "device").mkdir(parents=True)
        for file, value in zip(
            ("gpu_busy_percent", "mem_info_vram_used", "mem_info_vram_total"), values or (), strict=False
        ):
            (tmp_path / name / "device" / file).write_text(f"{value}\n")
    assert list(probes.amd(tmp_path)) == [probes.Gpu("GPU 0", 99, 3, 8), probes.Gpu("GPU 1", 7, 1, 4)]


def test_nvidias_lines() -> None:
    printed = "0, NVIDIA H100 80GB HBM3, 12, 1024, 81559\n1, NVIDIA A30, [N/A], [N/A], 24576\nbroken\n"
    assert list(probes.nvidia(printed)) == [
        probes.Gpu("GPU 0: NVIDIA H100 80GB HBM3", 12, 1024 * probes.MIB, 81559 * probes.MIB)
    ]
