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


def merge_and_sample(page: Page) -> None:
    """Go through all four steps, so that the picture shows each of them."""
    page.get_by_label("Task arithmetic").click()
    page.locator("#output textarea, #output input").fill("merges/everyone")
    page.locator("#run").click()
    expect(page.locator("#merge-status")).to_contain_text("Merged.", timeout=120_000)
    page.locator("#sample-length input[type=number]").fill("90")
    page.locator("#sample-run").click()
    expect(page.locator("#answers [aria-busy=false] article")).to_have_count(5, timeout=240_000)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        app = subprocess.Popen([sys.executable, ROOT / "app.py"], cwd=place, stdout=subprocess.PIPE, text=True)
        assert app.stdout
        address = next(found[0] for line in app.stdout if (found := re.search(r"http://[\d.:]+", line)))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        for theme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"{address}?__theme={theme}")
            page.locator("#weights .nsewdrag").first.wait_for(state="attached", timeout=120_000)
            if theme == "dark":
                merge_and_sample(page)
            page.locator("#norms .pv-box").focus()
            for key in ("ArrowRight", "ArrowDown", "Enter"):
                page.keyboard.press(key)
            page.locator("#tensor-histogram .nsewdrag").wait_for(state="attached")
            page.mouse.move(0, 0)
            page.wait_for_timeout(1000)
            page.screenshot(path=OUT / f"{theme}.png", full_page=True)
        browser.close()
        app.terminate()
        app.wait()


if __name__ == "__main__":
    main()
