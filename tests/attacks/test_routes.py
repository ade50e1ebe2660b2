"""Requests that no page of ours makes, to the running app: for files, with files, from other pages, and malformed."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.attacks.conftest import ROOT, App
from tests.attacks.visitor import Visitor

pytestmark = pytest.mark.e2e

JOIN = "/gradio_api/queue/join"
BOUNDARY = (
    '--x\r\nContent-Disposition: form-data; name="files"; filename="../../evil.html"\r\n\r\n<script>\r\n--x--\r\n'
)


def sent(
    app: App, method: str, path: str, body: bytes | None = None, more: dict[str, str] | None = None
) -> tuple[int, str]:
    """The status and the text of an answer to a request that is sent as it stands, dots and all."""
    place = urlsplit(app.url)
    line = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    line.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    headers = {"Host": place.netloc, **({"Content-Length": str(len(body))} if body is not None else {}), **(more or {})}
    for name, value in headers.items():
        line.putheader(name, value)
    line.endheaders(body)
    answer = line.getresponse()
    text = answer.read(1 << 20).decode(errors="replace")
    line.close()
    return answer.status, text


def secrets_of(app: App) -> list[Path]:
    """Files that nobody may have: around the app's folder, in it, its own code and log, and the system's."""
    (app.place / "mine.txt").write_text("nobody may read this")
    return [app.around / "secret.txt", app.place / "mine.txt", app.log, ROOT / "app.py", Path("/etc/passwd")]


def refuses_files(app: App, route: str, files: list[Path]) -> None:
    """A route gives none of these, however their paths are written."""
    for file in files:
        up = "../" * 12 + str(file)[1:]
        ways = [str(file), up, quote(up, safe=""), up.replace("../", "..%2f"), up.replace("../", "%2e%2e/")]
        ways += [up.replace("../", "..%5c"), up.replace("../", "....//"), f"/{file}", f"file://{file}", f"{file}%00.js"]
        for way in ways:
            status, text = sent(app, "GET", f"/{route}{way}")

            assert 400 <= status < 500 or "<!doctype html>" in text[:100].lower(), way
            assert not any(word in text for word in ("nobody may read this", "root:x:", "Mergescope is at", "argparse"))


ROUTES = ("gradio_api/file=", "gradio_api/file/", "static/", "assets/", "svelte/", "pwa_icon/", "")
ROUTES += ("gradio_api/custom_component/1/client/component/", "gradio_api/stream/a/b/1/", "gradio_api/proxy=file://")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route or "root")
def test_no_route_gives_a_file_that_is_not_the_pages(route: str, attacked: App) -> None:
    refuses_files(attacked, route, secrets_of(attacked))


UNUSED = ["upload", "upload_progress?upload_id=a", "process_recording", "component_server", "stream/a/close"]
UNUSED += [
    "run-history/connect",
    "run-history/buckets",
    "vibe-edit/",
    "vibe-code",
    "undo-vibe-edit",
    "deep_link",
    "runs/",
]


def takes_nothing(app: App, path: str) -> None:
    """A route is not there, and nothing is left of what is sent to it."""
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    before = {*(app.around / "home").rglob("*")}

    for method, body in (("POST", BOUNDARY.encode()), ("GET", None)):
        assert sent(app, method, f"/gradio_api/{path}", body, form)[0] == 404
        assert sent(app, method, f"/gradio_api/{path.partition('?')[0]}%0A", body, form)[0] == 404

    made = {*(app.around / "home").rglob("*")} - before
    assert not [file for file in made if "evil" in file.name or file.suffix in (".html", ".mp4")]


@pytest.mark.parametrize("path", UNUSED)
def test_files_and_code_are_not_taken_from_anybody(path: str, attacked: App) -> None:
    takes_nothing(attacked, path)


def test_other_servers_are_not_asked_for_anybody(attacked: App) -> None:
    asked = len(attacked.hub.asked)

    for url in (attacked.hub.url, "http://169.254.169.254/latest/meta-data", "https://huggingface.co/x"):
        for route in ("proxy=", "file=", "file/"):
            assert sent(attacked, "GET", f"/gradio_api/{route}{url}")[0] == 404
            assert sent(attacked, "GET", f"/gradio_api/{route}{url}%0A")[0] == 404

    assert len(attacked.hub.asked) == asked


FOREIGN: dict[str, dict[str, str]] = {
    "another page": {"Origin": "http://evil.example"},
    "no page": {"Origin": "null"},
    "another page here": {"Origin": "http://127.0.0.1:1"},
    "another site": {"Sec-Fetch-Site": "cross-site"},
    "another port": {"Sec-Fetch-Site": "same-site"},
    "another name of this machine": {"Host": "evil.example"},
    "a name that begins like ours": {"Host": "127.0.0.1.evil.example"},
    "no name": {"Host": ""},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=list(FOREIGN))
def test_what_other_pages_send_is_not_done(headers: dict[str, str], attacked: App, visitor: Visitor) -> None:
    body = json.dumps({"fn_index": visitor.on("run", "click")["id"], "data": [], "session_hash": "a"}).encode()

    for kind in ({"Content-Type": "application/json"}, {}, {"Content-Type": "text/plain"}):
        status, _ = sent(attacked, "POST", JOIN, body, {**kind, **headers})

        assert status == 403
    if "Host" in headers:
        assert sent(attacked, "GET", "/config", None, headers)[0] == 403


def test_a_page_of_ours_is_answered_by_every_name_of_this_machine(attacked: App, visitor: Visitor) -> None:
    port = urlsplit(attacked.url).port
    body = json.dumps({"fn_index": visitor.on("stop", "click")["id"], "data": [], "session_hash": "a"}).encode()

    for host in (f"localhost:{port}", f"127.0.0.1:{port}"):
        headers = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}
        assert sent(attacked, "POST", JOIN, body, {**headers, "Sec-Fetch-Site": "same-origin"})[0] == 200
        assert sent(attacked, "POST", JOIN, body, headers)[0] == 200


def test_no_other_page_shows_this_one_in_a_frame(visitor: Visitor) -> None:
    assert visitor.http.get("/").headers["content-security-policy"] == "frame-ancestors 'self'"


def test_a_request_without_end_is_not_read(attacked: App) -> None:
    kind = {"Content-Type": "application/json"}
    before = attacked.memory

    assert sent(attacked, "POST", JOIN, None, {**kind, "Content-Length": str(1 << 40)})[0] == 413
    assert sent(attacked, "POST", JOIN, None, {**kind, "Transfer-Encoding": "chunked"})[0] == 411
    assert sent(attacked, "POST", JOIN, b"", {**kind, "Content-Length": "-1"})[0] in (400, 411)
    assert attacked.memory - before < 64 << 20


MALFORMED: list[Any] = [
    None, [], "x", 1, {}, {"data": []}, {"fn_index": -1, "data": []}, {"fn_index": 10**9, "data": []},
    {"fn_index": "../x", "data": []}, {"fn_index": 19, "data": {}}, {"fn_index": 19, "data": []},
    {"fn_index": 19, "data": [[]] * 10_000}, {"fn_index": 19, "data": ["a", ["b"]], "session_hash": {"a": 1}},
    {"fn_index": 19, "data": ["a", ["b"]], "session_hash": "../../x", "event_data": "x", "trigger_id": "x"},
]  # fmt: skip


def test_a_request_that_is_none_is_answered(attacked: App) -> None:
    kind = {"Content-Type": "application/json"}
    texts = [json.dumps(one) for one in MALFORMED]
    texts += ["", "{", "[" * 100_000, '{"fn_index":' + "9" * 5000 + "}", '{"data":[NaN]}', '"\\ud800"', "\x00"]

    for text in texts:
        status, _ = sent(attacked, "POST", JOIN, text.encode(), kind)

        assert status in (200, 400, 404, 422, 500, 503), text[:50]
