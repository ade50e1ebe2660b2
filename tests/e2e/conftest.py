"""The real app in its own process, and Debian's Chromium to look at it; nothing may leave the machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect
from safetensors.torch import save_file

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


def running_app(workplace: Path, proxy: int, hub: dict[str, str] | None = None) -> Iterator[str]:
    """The app in a process of its own, which is told that everything beyond this machine is behind a proxy.

    It is free to ask the Hub, be it by the variables of a stand-in, as it is where it is run.
    """
    beyond = {f"{name}_PROXY": f"http://127.0.0.1:{proxy}" for name in ("HTTP", "HTTPS", "ALL")}
    told = {**(hub or os.environ), **beyond, "NO_PROXY": "127.0.0.1,localhost", "HF_HUB_OFFLINE": "0"}
    yield from started([sys.executable, ROOT / "app.py", "--models", workplace / "models"], workplace, told)


def started(command: list[str | Path], workplace: Path, told: dict[str, str]) -> Iterator[str]:
    """The address that a program prints, with these variables, while it runs."""
    app = subprocess.Popen(
        command,
        cwd=workplace,
        env=told,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert app.stdout is not None
        printed = []
        for line in app.stdout:
            printed.append(line)
            if found := re.search(r"http://(127\.0\.0\.1|localhost):\d+", line):
                break
        else:
            pytest.fail("The app ended before it printed an address:\n" + "".join(printed))
        yield found[0]
    finally:
        app.terminate()
        app.communicate(timeout=20)


@pytest.fixture
def watched(page: Page, app_url: str) -> Iterator[Page]:
    """A page that makes no stray request and no error."""
    with watching(page, app_url):
        yield page


@contextmanager
def watching(page: Page, app_url: str) -> Iterator[None]:
    """Whatever the page does meanwhile, it asks the app alone, and makes no error."""
    strays, errors = [], []
    page.set_default_timeout(60_000)

    def watch(request: Request) -> None:
        if not request.url.startswith((app_url, "data:", "blob:")):
            strays.append(request.url)

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    page.on("request", watch)
    page.on("console", listen)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield
    assert not strays
    assert not errors


@pytest.fixture
def visit(watched: Page, app_url: str) -> Page:
    """A watched page that has opened the app and drawn both heatmaps."""
    watched.goto(app_url)
    drawn(watched, "#weights")
    return watched


@pytest.fixture
def large(tmp_path: Path) -> list[Path]:
    """A base and two experts of 340 million parameters, so that there is time to stop what is done with them."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for name in ("base", "one", "two"):
        noise = torch.randn(2048, 2048, generator=generator).bfloat16()
        tensors = {f"model.layers.{i}.mlp.up_proj.weight": noise.roll(i) for i in range(80)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
        paths.append(tmp_path / f"{name}.safetensors")
    return paths


def drawn(page: Page, plot: str, patience: int = 60_000) -> None:
    """Wait until the plot is there."""
    expect(page.locator(f"{plot} .nsewdrag").first).to_be_attached(timeout=patience)


def figure(page: Page, plot: str) -> list[dict[str, Any]]:
    """What the plot on the page shows: its traces' names, numbers and labels."""
    script = "box => (box.data || []).map(t => ({name: t.name, x: t.x, y: t.y, z: t.z, cells: t.customdata}))"
    traces: list[dict[str, Any]] = page.locator(f"{plot} .pv-box").evaluate(script)
    return traces


def choose_models(page: Page, base: Path | str, experts: list[Path]) -> None:
    """Type paths into the two fields, as a person would."""
    if page.locator("#experts .token-remove").count():
        page.locator("#experts .token-remove").last.click()
    field = page.locator("#base input")
    field.fill(str(base))
    field.press("Enter")
    add_experts(page, experts)


def add_experts(page: Page, experts: list[Path]) -> None:
    """Type more paths into the field of the experts."""
    for expert in experts:
        field = page.locator("#experts input")
        field.fill(str(expert))
        field.press("Enter")
    page.locator("#experts input").press("Escape")


def expect_experts(page: Page, *names: str) -> None:
    """Wait until these experts have been read and stand side by side in the forecast."""
    page.wait_for_function(
        """(names) => {
          const [trace] = document.querySelector('#weights .pv-box').data || [];
          return trace && trace.x.join() === names;
        }""",
        arg=",".join(names),
    )


def choose_method(page: Page, kind: str, title: str) -> None:
    """Pick a method from those of its kind."""
    page.locator("#method-kind").get_by_label(kind).click()
    page.locator("#method").get_by_label(title, exact=True).click()


def open_tab(page: Page, tabs: str, title: str) -> None:
    """Show one of the views of a section."""
    tab = page.locator(tabs).get_by_role("tab", name=title, exact=True)
    menu = page.locator(tabs).locator(".overflow-menu").first
    if menu.is_visible() and not tab.is_visible():  # the section is too narrow for all
        menu.locator("> button").click()
        menu.get_by_text(title, exact=True).click()
        return
    tab.click()
    expect(tab).to_have_attribute("aria-selected", "true")


def set_number(page: Page, name: str, value: str) -> None:
    """Type a number into the box of a slider, or into a number's."""
    field = page.locator(f"#{name} input[type=number]")
    field.fill(value)
    field.press("Enter")


def pick(page: Page, plot: str, tensor: str, panel: int = 0, column: int = 0) -> None:
    """Click a tensor's cell, exactly: in a panel of the plot, and of an expert's column where columns are experts."""
    page.locator(f"{plot} .pv-box").evaluate(
        """(box, [tensor, panel, column]) => {
          const data = box.data.filter((trace) => trace.customdata.some((cells) => cells.includes(tensor)))[panel];
          const row = data.customdata.findIndex((cells) => cells.includes(tensor));
          const at = Math.max(column, data.customdata[row].indexOf(tensor));
          box.emit('plotly_click', {points: [{customdata: tensor, data, pointIndex: [row, at]}]});
        }""",
        [tensor, panel, column],
    )


def weights_of(page: Page, tensor: str) -> list[float]:
    """The coefficients that the page shows for a tensor."""
    trace = figure(page, "#weights")[0]
    row = [cells[0] for cells in trace["cells"]].index(tensor)
    return list(trace["z"][row])


def expect_weights(page: Page, tensor: str, weights: list[float]) -> None:
    """Wait until the page shows these coefficients for a tensor."""
    page.wait_for_function(
        """([tensor, weights]) => {
          const trace = (document.querySelector('#weights .pv-box').data || [])[0];
          const row = trace ? trace.customdata.findIndex((cells) => cells[0] === tensor) : -1;
          return row >= 0 && weights.length === trace.z[row].length
            && weights.every((weight, column) => Math.abs(weight - trace.z[row][column]) < 1e-3);
        }""",
        arg=[tensor, weights],
    )


def numbers(page: Page, plot: str) -> list[tuple[str, list[list[str]]]]:
    """The tables behind a plot: their captions and cells."""
    details = page.locator(f"{plot} .pv-numbers")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    expect(details.locator("table").first).to_be_visible()
    script = """(div) => [...div.querySelectorAll('table')].map((table) => [
      table.caption ? table.caption.textContent : '',
      [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent))])"""
    found: list[list[Any]] = details.locator("div").evaluate(script)
    return [(title, rows) for title, rows in found]


def saved(page: Page, button: Locator) -> tuple[str, str]:
    """The name and the text of the file that a button downloads."""
    with page.expect_download() as caught:
        button.click()
    return caught.value.suggested_filename, Path(caught.value.path()).read_text(encoding="utf-8")
