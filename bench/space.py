"""What a Space takes of its memory and disk with large models: python bench/space.py FAMILY --size 3b

The family is put on a stand-in of the Hub on this machine. The app runs as a Space does; a visitor names the models,
downloads, reads and merges them and samples, and then merges once more while another visitor samples a merge in memory.
Told are the most that the app's process held of memory that nobody can take away from it, and what is on the disk.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cases import ROOT
from family import family
from shapes import SIZES
from tables import machine, table

from tests.attacks.visitor import Visitor
from tests.hub import environment, standing_in

OFTEN = 0.05  # seconds between two looks at the memory


class Watched:
    """The running app, whose memory is looked at often."""

    def __init__(self, number: int, place: Path) -> None:
        self.status, self.place = Path(f"/proc/{number}/status"), place
        self.peak, self.rows = 0, list[dict[str, str]]()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while self.status.exists():
            held = re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", self.status.read_text())
            self.peak = max(self.peak, sum(map(int, held)) << 10)
            time.sleep(OFTEN)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A line of the table: the most that is held within, and what is on the disk after it."""
        self.peak = 0
        yield
        disk = sum(file.lstat().st_blocks << 9 for file in self.place.rglob("*"))
        self.rows.append({"after": name, "memory GB": f"{self.peak / 1e9:.2f}", "disk GB": f"{disk / 1e9:.2f}"})


def visit(url: str, models: list[str]) -> Visitor:
    """A visitor who has chosen these models, and PCB-Merging."""
    visitor = Visitor(url)
    table = visitor.chooses(*models)
    expect("expert-1" in table and "problem" not in table, table)
    visitor["method"] = "pcb"
    return visitor


def expect(holds: bool, told: str) -> None:
    if not holds:
        raise SystemExit(f"The app said: {told}")


def merge(visitor: Visitor, name: str) -> None:
    told = visitor.merges(name)
    expect("Merged." in told, told)


def sample(visitor: Visitor) -> None:
    told = visitor.asks("In the year ", **{"sample-length": 2})
    expect(told.count("<pre>") == 4 and "notice" not in told, told)


def journey(app: Watched, url: str, models: list[str]) -> None:
    with app.stage("headers looked at"):
        first = visit(url, models)
    with app.stage("downloaded"):
        first.does("hub-download", "click")
    with app.stage("read, all statistics"):
        first.chooses(*models, most=3)
    with app.stage("merged, PCB-Merging"):
        merge(first, "one")
    with app.stage("sampled: base, experts, a merge in memory"):
        sample(first)
    with app.stage("merged, while another visitor samples a merge in memory"), ThreadPoolExecutor(2) as pool:
        second = visit(url, models)
        second["pcb-lambda"] = 0.5
        for work in (pool.submit(sample, second), pool.submit(merge, first, "two")):
            work.result()


@contextmanager
def space(place: Path, known: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The app as a Space runs it, and its address."""
    log = place / "log.txt"
    with log.open("wb") as printed:
        told = known | {"SPACE_ID": "someone/mergescope", "MERGESCOPE_CACHE": str(place / "known")}
        app = subprocess.Popen([sys.executable, ROOT / "app.py"], cwd=place, env=told, stdout=printed, stderr=printed)
        try:
            while not (found := re.search(r"http://\S+:\d+", log.read_text())):
                expect(app.poll() is None, log.read_text())
                time.sleep(0.2)
            yield app, found[0].replace("0.0.0.0", "127.0.0.1")
        finally:
            app.terminate()
            app.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path, help="its folder, written when it is not there")
    parser.add_argument("--size", choices=SIZES, help="of a family that is to be written (0.5b)")
    options = parser.parse_args()
    family(options.family, options.size, 2)
    models = [f"bench/{name}" for name in ("base", "expert-1", "expert-2")]
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.family) as work:
        hubs, place = Path(work) / "hub", Path(work) / "space"
        hubs.mkdir()
        place.mkdir()
        (hubs / "bench").symlink_to(options.family.resolve())
        with standing_in(hubs) as hub:
            for model in models:
                hub.commit(model)  # reads all of it, for which nobody would wait
            with space(place, environment(hub, place / "hf")) as (app, url):
                watched = Watched(app.pid, place)
                journey(watched, url, models)
    print(f"{table(watched.rows)}\n\n{machine()}")


if __name__ == "__main__":
    main()
