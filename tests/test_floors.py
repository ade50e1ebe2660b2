"""The core runs without a screen, and what is light stays light. Told by a fresh interpreter."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import merging

ROOT = Path(__file__).parent.parent
MODULES = [info.name for info in pkgutil.walk_packages(merging.__path__, "merging.")]


def loaded_after(*modules: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after importing these modules."""
    code = f"import sys, {', '.join(modules)}; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_part_of_the_core_loads_the_screen_or_transformers() -> None:
    loaded = loaded_after(*MODULES)

    assert "merging.engine" in MODULES
    assert loaded & {"gradio", "plotly", "transformers", "peft", "ui", "app"} == set()


def test_importing_merging_does_not_load_torch() -> None:
    loaded = loaded_after("merging")

    assert "merging" in loaded
    assert "torch" not in loaded


def test_no_part_of_the_core_loads_torch_before_it_is_used() -> None:
    assert "torch" not in loaded_after(*MODULES)
