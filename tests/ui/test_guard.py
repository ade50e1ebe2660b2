"""What stands before the app: whose frames may show the page, by which names it is reached, and what counts as use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from ui.guard import Guard


def answered(path: str = "/", host: str = "127.0.0.1:7860") -> tuple[int, dict[str, str]]:
    """The status and the headers of the answer to a request that comes from this machine."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    headers = [(b"host", host.encode())]
    asked = {"type": "http", "method": "GET", "path": path, "headers": headers, "server": ("127.0.0.1", 7860)}
    asyncio.run(Guard(PlainTextResponse("the page"))(asked, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize("path", ["/", "/gradio_api/upload"])
def test_no_other_page_shows_the_app_in_a_frame(path: str) -> None:
    assert answered(path)[1]["content-security-policy"] == "frame-ancestors 'self'"


def test_a_space_is_shown_by_hugging_face_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/mergescope")

    frames = "frame-ancestors 'self' https://huggingface.co"
    assert answered()[1]["content-security-policy"] == frames


def test_a_space_is_reached_by_its_name_also_through_a_proxy_on_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answered(host="someone-mergescope.hf.space")[0] == 403

    monkeypatch.setenv("SPACE_ID", "someone/mergescope")

    assert answered(host="someone-mergescope.hf.space")[0] == 200


@pytest.mark.parametrize("file", ["~/app/merges/x/y/z", "~no.such.user/x", "a\ud800", "/no/where", "x" * 5000])
def test_a_path_that_is_no_file_of_a_merge_is_no_use_of_one(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path / "app")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPACE_ID", "someone/mergescope")

    assert answered(f"/gradio_api/file={file}")[0] == 200  # by the app, to which it is left
