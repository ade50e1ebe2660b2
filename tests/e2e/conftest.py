"""The real app in its own process, and Debian's Chromium to look at it; nothing may leave the machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, expect

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]

expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("There is no Chromium. Install Debian's `chromium`, or name one in the variable CHROMIUM.")
    return {**browser_type_launch_args, "executable_path": chromium, "args": FLAGS}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the app runs in, where its merges go."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "models").mkdir()
    return folder


@pytest.fixture(scope="session")
def app_url(workplace: Path) -> Iterator[str]:
    """The address of the running app, as it prints it; the port it would like best is taken."""
    with ExitStack() as stack:
        with suppress(OSError):  # where another program has the port already, that is as good
            stack.enter_context(socket.create_server(("127.0.0.1", 7860)))
        watch = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        yield from running_app(workplace, watch.getsockname()[1])
        watch.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called: the app asked nothing of any other machine
            watch.accept()


def running_app(workplace: Path, proxy: int) -> Iterator[str]:
    """The app in a process of its own, which is told that everything beyond this machine is behind a proxy."""
    beyond = {f"{name}_PROXY": f"http://127.0.0.1:{proxy}" for name in ("HTTP", "HTTPS", "ALL")}
    here = {"NO_PROXY": "127.0.0.1,localhost"}
    app = subprocess.Popen(
        [sys.executable, ROOT / "app.py", "--models", workplace / "models"],
        cwd=workplace,
        env={**os.environ, **beyond, **here},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert app.stdout is not None
        printed = []
        for line in app.stdout:
            printed.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("The app ended before it printed an address:\n" + "".join(printed))
        yield found[0]
    finally:
        app.terminate()
        app.communicate(timeout=20)


@pytest.fixture
def visit(page: Page, app_url: str) -> Iterator[Page]:
    """A page that has opened the app and drawn both heatmaps; afterwards, that it made no stray request or error."""
    strays, errors = [], []

    def watch(request: Request) -> None:
        if not request.url.startswith((app_url, "data:", "blob:")):
            strays.append(request.url)

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    page.on("request", watch)
    page.on("console", listen)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(app_url)
    drawn(page, "#weights")
    yield page
    assert not strays
    assert not errors


def drawn(page: Page, plot: str) -> None:
    """Wait until the plot is there."""
    expect(page.locator(f"{plot} .nsewdrag").first).to_be_attached(timeout=60_000)


def figure(page: Page, plot: str) -> list[dict[str, Any]]:
    """What the plot on the page shows: its traces' names, numbers and labels."""
    script = "box => (box.data || []).map(t => ({name: t.name, x: t.x, y: t.y, z: t.z, cells: t.customdata}))"
    traces: list[dict[str, Any]] = page.locator(f"{plot} .pv-box").evaluate(script)
    return traces


def choose_models(page: Page, base: Path | str, experts: list[Path]) -> None:
    """Type paths into the two fields, as a person would."""
    page.locator("#experts .token-remove").last.click()
    field = page.locator("#base input")
    field.fill(str(base))
    field.press("Enter")
    for expert in experts:
        field = page.locator("#experts input")
        field.fill(str(expert))
        field.press("Enter")
    field.press("Escape")
