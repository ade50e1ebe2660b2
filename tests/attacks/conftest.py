"""The running app that is attacked: in a process of its own, with a Hub beside it, and what it must not touch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.attacks.visitor import CONFIGS, Visitor
from tests.e2e.conftest import browser_type_launch_args as browser_type_launch_args
from tests.hub import TOKEN, Hub, environment, standing_in

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "zoo"
NOWHERE = "http://127.0.0.1:9"  # where nobody answers: the way to every other machine


@dataclass(frozen=True)
class App:
    """The app under attack: its address, its folder with all around it, what it printed, and its Hub."""

    url: str
    place: Path  # the folder that it runs in
    around: Path  # which holds that folder, and must not change beside it
    log: Path
    hub: Hub
    number: int  # of its process

    @property
    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def memory(self) -> int:
        """Bytes that it holds now."""
        return int(Path(f"/proc/{self.number}/statm").read_text().split()[1]) * 4096

    def beside(self) -> dict[str, int]:
        """The files around its folder, by their sizes: what nobody may change from there."""
        files = (file for file in self.around.rglob("*") if file.is_file() and self.place not in file.parents)
        return {str(file): file.stat().st_size for file in files if not file.is_relative_to(self.around / "home")}

    def answers(self) -> bool:
        """Whether it still does what it is for, for somebody new."""
        table = Visitor(self.url).chooses(ZOO / "base", ZOO / "bible")
        return "bible" in table and "problem" not in table


@contextmanager
def running(around: Path, models: dict[str, str], told: dict[str, str], *options: str) -> Iterator[App]:
    """The app in a folder of its own, beside a Hub with these models of the zoo; it is `told` these variables, too."""
    for folder in ("place", "home", "hub/someone"):
        (around / folder).mkdir(parents=True, exist_ok=True)
    (around / "secret.txt").write_text("nobody may read this")
    for name, model in models.items():
        shutil.copytree(ZOO / model, around / "hub" / name)
    log = around / "home/log.txt"
    with ExitStack() as stack:
        hub = stack.enter_context(standing_in(around / "hub"))
        known = environment(hub, around / "home", token=TOKEN) | {
            **{f"{name}_PROXY": NOWHERE for name in ("HTTP", "HTTPS", "ALL")},
            **{"NO_PROXY": "127.0.0.1,localhost", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1", "RUST_BACKTRACE": "0"},
            **{"GRADIO_TEMP_DIR": str(around / "home/gradio"), "MERGESCOPE_CACHE": str(around / "home/cache")},
            **told,
        }
        printing = stack.enter_context(log.open("wb"))
        command = [sys.executable, ROOT / "app.py", *options]
        process = subprocess.Popen(command, cwd=around / "place", env=known, stdout=printing, stderr=printing)
        try:
            yield App(_address(log, process), around / "place", around, log, hub, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=30)
            CONFIGS.clear()  # the next app may have the same address


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    while process.poll() is None:
        if found := re.search(r"http://(127\.0\.0\.1|localhost):(\d+)", log.read_text()):
            return f"http://127.0.0.1:{found[2]}"
        time.sleep(0.2)
    pytest.fail(f"The app ended before it printed an address:\n{log.read_text()}")


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app as it is started, signed in to a Hub on this machine, with a folder of models to offer."""
    around = tmp_path_factory.mktemp("around")
    (around / "place/models").mkdir(parents=True)
    with running(around, {"some/bible": "bible"}, {}, "--models", "models") as found:
        yield found


@pytest.fixture(scope="module")
def standing(app: App) -> Iterator[App]:
    """The app, which has to answer still when all of these attacks are over."""
    yield app
    assert app.answers()


@pytest.fixture
def attacked(standing: App) -> Iterator[App]:
    """The app, which has to have kept to its folder, and to itself, when the attack is over."""
    before = standing.beside()
    yield standing
    assert standing.beside() == before
    assert TOKEN not in standing.printed


@pytest.fixture
def visitor(attacked: App) -> Visitor:
    return Visitor(attacked.url)


Visiting = Callable[[], Visitor]


@pytest.fixture
def another(attacked: App) -> Visiting:
    """Makes further visitors."""
    return lambda: Visitor(attacked.url)
