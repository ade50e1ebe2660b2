"""How fast the page follows a slider: python bench/ui.py [--moves 40]

Opens the real app in a real browser on synthetic families of 24 and 80 layers, moves the scaling of each method, and
prints the server's part of each redraw, from request to answer, and the time from the slider to the painted heatmap.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from family import family
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
METHODS = {
    "from": ("Three papers", "FroM"),
    "task_arithmetic": ("One number per tensor", "Task arithmetic"),
    "ties": ("Three papers", "TIES-Merging"),
    "pcb": ("Three papers", "PCB-Merging"),
}  # their kinds and titles
# When each redraw was asked for and answered: the server's part, as the browser sees it.
LISTEN = """
window.asked = [];
const ask = window.fetch;
window.fetch = async (...given) => {
  const began = performance.now(), answer = await ask(...given);
  const url = String(given[0].url || given[0]);
  if (url.includes('/run/')) {
    const whole = await answer.clone().arrayBuffer();
    window.asked.push({began, took: performance.now() - began, bytes: whole.byteLength});
  }
  return answer;
};
"""
# Moves a slider, and waits until its answer is painted; then until the exact drawing that follows is done, too.
MOVE = """
async ([slider, plot, value]) => {
  const box = document.querySelector(plot + ' .pv-box');
  const input = document.querySelector(slider + ' input[type=range]');
  const paints = [], began = performance.now();
  box.on('plotly_afterplot', () => requestAnimationFrame(() => paints.push(performance.now())));
  input.value = value;
  input.dispatchEvent(new Event('input', {bubbles: true}));
  let answer, painted;
  while (!painted) {
    if (performance.now() - began > 20000) throw new Error('nothing was drawn');
    await new Promise((done) => setTimeout(done, 5));
    answer = window.asked.find((one) => one.began >= began);
    painted = answer && paints.find((time) => time >= answer.began + answer.took);
  }
  while (performance.now() - paints[paints.length - 1] < 1000) await new Promise((done) => setTimeout(done, 50));
  return [answer.took, painted - began];
}
"""


# The heatmap has a column for the last expert, once the models are read.
DRAWN = "() => ((document.querySelector('#weights .pv-box').data || [{x: []}])[0].x || []).includes('expert-3')"


def choose(page: Page, models: Path) -> None:
    """Open the family of that folder in place of the embedded one."""
    page.set_default_timeout(300_000)
    page.locator("#experts .token-remove").last.click()
    _type(page, "#base input", models / "base")
    for number in (1, 2, 3):
        _type(page, "#experts input", models / f"expert-{number}")
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(3000)


def _type(page: Page, field: str, path: Path) -> None:
    page.locator(field).fill(str(path))
    page.locator(field).press("Enter")
    page.locator("#title").click()
    page.wait_for_timeout(500)


def moved(page: Page, method: str, moves: int) -> list[tuple[float, float]]:
    """Milliseconds of the server's part and from slider to paint, for each move of the method's scaling."""
    kind, title = METHODS[method]
    page.locator("#method-kind").get_by_label(kind).click()
    page.locator("#method").get_by_label(title, exact=True).click()
    page.locator(f"#{method}-lambda input[type=range]").wait_for()
    page.wait_for_timeout(5000)
    values = [0.3 + 1.4 * (7 * n % moves) / moves for n in range(moves + 3)]
    return [page.evaluate(MOVE, [f"#{method}-lambda", "#weights", value]) for value in values][3:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--layers", type=int, nargs="+", default=[24, 80], choices=(24, 80))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        command = [sys.executable, ROOT / "app.py", "--models", work]
        app = subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, text=True)
        try:
            assert app.stdout
            address = next(found for line in app.stdout if (found := re.search(r"http://\S+", line)))[0]
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            )
            for layers in options.layers:
                models = family(Path(work) / f"{layers}", f"{layers} layers")
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.add_init_script(LISTEN)
                page.goto(address)
                page.locator("#weights .nsewdrag").first.wait_for(state="attached", timeout=600_000)
                choose(page, models)
                for method in options.methods:
                    times = list(zip(*moved(page, method, options.moves), strict=True))
                    told = [f"median {statistics.median(some):.0f} ms, p95 {_p95(some):.0f} ms" for some in times]
                    print(f"{layers} layers, {METHODS[method][1]}: server {told[0]}; to paint {told[1]}", flush=True)
                page.close()
        finally:
            app.terminate()
            app.wait()


def _p95(some: tuple[float, ...]) -> float:
    return statistics.quantiles(some, n=20)[-1]


if __name__ == "__main__":
    main()
