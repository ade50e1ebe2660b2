"""How long the app takes to print its address, and a page to be usable: python bench/startup.py [--runs 5]

Usable means that both heatmaps of the embedded family are drawn in a real browser. One run before is not counted, so
that files are in the page cache.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]


def start(browser: Browser) -> tuple[float, float]:
    """Seconds from the start of the process to its address, and to a usable page."""
    began = time.perf_counter()
    app = subprocess.Popen([sys.executable, ROOT / "app.py"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert app.stdout
        found = next(match for line in app.stdout if (match := re.search(r"http://\S+", line)))
        address = time.perf_counter() - began
        page = browser.new_page()
        page.goto(found[0])
        for plot in ("#norms", "#weights"):
            page.locator(f"{plot} .nsewdrag").first.wait_for(state="attached", timeout=120_000)
        usable = time.perf_counter() - began
        page.close()
        return address, usable
    finally:
        app.terminate()
        app.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        times = [start(browser) for _ in range(runs + 1)][1:]
        browser.close()
    for name, seconds in zip(("address", "usable page"), zip(*times, strict=True), strict=True):
        print(f"{name}: median {statistics.median(seconds):.1f} s, worst {max(seconds):.1f} s of {runs}")


if __name__ == "__main__":
    main()
