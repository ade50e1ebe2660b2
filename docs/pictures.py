"""Takes the README's pictures from the running app: python docs/pictures.py"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "pictures"


STEPS = {
    "models": ["#step-models"],
    "see": ["#step-see", "#step-weights"],
    "merge": ["#step-merge"],
    "sample": ["#step-sample"],
}


def journey(page: Page) -> None:
    """Go through all four steps, so that the pictures show each of them at work."""
    page.locator("#weights .nsewdrag").first.wait_for(state="attached", timeout=120_000)
    page.locator("#norms .pv-box").focus()
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.locator("#tensor-histogram .nsewdrag").wait_for(state="attached")
    page.locator("#output textarea, #output input").fill("merges/everyone")
    page.locator("#run").click()
    expect(page.locator("#merge-status")).to_contain_text("Merged.", timeout=120_000)
    page.locator("#sample-length input[type=number]").fill("90")
    page.locator("#sample-run").click()
    expect(page.locator("#answers [aria-busy=false] article")).to_have_count(5, timeout=240_000)
    page.mouse.move(0, 0)
    page.locator("#norms .pv-box").blur()
    page.wait_for_timeout(1000)


def picture(page: Page, parts: list[str], file: Path) -> None:
    """Photograph the rectangle that holds these parts of the page."""
    boxes = [box for part in parts if (box := page.locator(part).bounding_box())]
    left, top = min(box["x"] for box in boxes), min(box["y"] for box in boxes)
    right, bottom = max(box["x"] + box["width"] for box in boxes), max(box["y"] + box["height"] for box in boxes)
    clip = {"x": left - 8, "y": top - 8, "width": right - left + 16, "height": bottom - top + 16}
    page.screenshot(path=file, full_page=True, clip=clip)  # type: ignore[arg-type]


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for theme in ("light", "dark"):
        with tempfile.TemporaryDirectory(prefix="mergescope-") as place, sync_playwright() as playwright:
            app = subprocess.Popen([sys.executable, ROOT / "app.py"], cwd=place, stdout=subprocess.PIPE, text=True)
            assert app.stdout
            address = next(found[0] for line in app.stdout if (found := re.search(r"http://[\d.:]+", line)))
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            )
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"{address}?__theme={theme}")
            journey(page)
            page.evaluate("scrollTo(0, 0)")
            for step, parts in STEPS.items():
                picture(page, parts, OUT / f"{step}-{theme}.png")
            browser.close()
            app.terminate()
            app.wait()


if __name__ == "__main__":
    main()
