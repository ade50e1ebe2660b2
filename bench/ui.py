"""How fast the page follows a slider: python bench/ui.py [--moves 40] [--methods karcher pcb ...]

Opens the real app in a real browser on synthetic families of 24 and 80 layers, moves the first slider of each method,
and prints the server's part of each redraw, from request to answer, and the time from slider to painted heatmap.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from family import family
from playwright.sync_api import Page, sync_playwright

from merging import METHODS
from merging.kinds import kind_of
from merging.method import Method
from merging.params import Param

ROOT = Path(__file__).parents[1]
KNOWN = [name for name, method in METHODS.items() if not method.collects]  # before they are merged
DEFAULT = ["from", "task_arithmetic", "ties", "pcb", "multislerp"]
EXPERTS = 3
# Moves a slider, and waits until its answer is painted; then until the exact drawing that follows is done, too. The
# browser itself notes how long requests took, while the page may be busy. The answer with a plot is the large one.
MOVE = """
async ([slider, plot, value]) => {
  const box = document.querySelector(plot + ' .pv-box'), input = document.querySelector(slider);
  const pause = (time) => new Promise((done) => setTimeout(done, time));
  const first = async (find, patience) => {
    const start = performance.now();
    let found;
    while (!(found = find()) && performance.now() - start < patience) await pause(5);
    return found;
  };
  const paints = [], note = () => requestAnimationFrame(() => paints.push(performance.now()));
  performance.clearResourceTimings();
  box.on('plotly_afterplot', note);
  const began = performance.now();
  input.value = value;
  input.dispatchEvent(new Event('input', {bubbles: true}));
  const answer = await first(() => performance.getEntriesByType('resource').find((one) =>
    one.name.includes('/run/') && one.startTime >= began && one.decodedBodySize > 4000), 20000);
  if (!answer) throw new Error('nothing was answered');
  const painted = await first(() => paints.find((time) => time >= answer.startTime), 2000);
  while (performance.now() - (paints[paints.length - 1] || 0) < 1000) await pause(50);
  box.removeListener('plotly_afterplot', note);
  return [answer.responseEnd - answer.startTime, painted ? painted - began : null];
}
"""


# The heatmap has a column for the last expert, once the models are read.
DRAWN = "(last) => ((document.querySelector('#weights .pv-box').data || [{x: []}])[0].x || []).at(-1) === last"


def choose(page: Page, models: Path, experts: int) -> None:
    """Open so many of the family of that folder in place of the embedded one."""
    page.set_default_timeout(300_000)
    page.locator("#experts .token-remove").last.click()
    _type(page, "#base input", models / "base")
    for number in range(1, experts + 1):
        _type(page, "#experts input", models / f"expert-{number}")
    page.wait_for_function(DRAWN, arg=f"expert-{experts}")
    page.wait_for_timeout(3000)


def _type(page: Page, field: str, path: Path) -> None:
    page.locator(field).fill(str(path))
    page.locator(field).press("Enter")
    page.locator("#title").click()
    page.wait_for_timeout(500)


def slider_of(method: Method) -> tuple[str, Param] | None:
    """What slides first of a method's parameters, or else the weight of its first expert, and its range."""
    for param in method.params.values():
        if param.kind == "number" and not (param.per_expert or param.settled or param.optional):
            return f"#{method.name}-{param.key} input[type=range]", param
    weight = method.params.get("weight")
    return (".weights input[type=range]", weight) if weight else None


def moved(page: Page, method: Method, slider: str, param: Param, moves: int) -> list[tuple[float, float | None]]:
    """Milliseconds of the server's part and from slider to paint, for each move; None where the picture is the same."""
    page.locator("#method-kind").get_by_label(kind_of(method), exact=True).click()
    page.locator("#method").get_by_label(method.title, exact=True).click()
    page.locator(slider).first.wait_for()
    page.wait_for_timeout(5000)
    places = [0.25 + 0.5 * (0.618 * n % 1) for n in range(moves + 3)]  # none is next to the one before
    values = [param.low + place * (param.high - param.low) for place in places]
    return [tuple(page.evaluate(MOVE, [slider, "#weights", value])) for value in values][3:]


def told(times: list[float]) -> str:
    """What half and 95 % of these took at most."""
    if len(times) < 2:
        return "the same picture"
    return f"median {statistics.median(times):.0f} ms, p95 {statistics.quantiles(times, n=20)[-1]:.0f} ms"


def measured(page: Page, layers: int, method: Method, moves: int) -> str:
    """What is to be said of one method."""
    found = slider_of(method)
    if not found:
        return f"{layers} layers, {method.title}: has no slider"
    slider, param = found
    took, painted = zip(*moved(page, method, slider, param, moves), strict=True)
    known = [time for time in painted if time is not None]
    return f"{layers} layers, {method.title}: server {told(list(took))}; to paint {told(known)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--layers", type=int, nargs="+", default=[24, 80], choices=(24, 80))
    parser.add_argument("--methods", nargs="+", default=DEFAULT, choices=KNOWN)
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
                chosen = [METHODS[name] for name in options.methods]
                for experts in sorted({method.taking(EXPERTS) for method in chosen}, reverse=True):
                    page = browser.new_page(viewport={"width": 1280, "height": 900})
                    page.goto(address)
                    page.locator("#weights .nsewdrag").first.wait_for(state="attached", timeout=600_000)
                    choose(page, models, experts)
                    for method in chosen:
                        if method.taking(EXPERTS) == experts:
                            print(measured(page, layers, method, options.moves), flush=True)
                    page.close()
        finally:
            app.terminate()
            app.wait()


if __name__ == "__main__":
    main()
