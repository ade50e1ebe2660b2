"""Some of the inputs that `make fuzz` has many of."""

import subprocess
import sys

import pytest

from merging.errors import MergeError
from tests.attacks import fuzz
from tests.attacks.conftest import ROOT


def test_two_thousand_inputs_are_read_or_refused() -> None:
    command = [sys.executable, "-m", "tests.attacks.fuzz", "2000"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    headers, recipes, memory = done.stdout.splitlines()
    assert headers.startswith("Headers: 1,000 inputs")
    assert recipes.startswith("Recipes: 1,000 inputs")
    assert memory.startswith("Memory: ")
    for line in (headers, recipes):
        assert " 0 read" not in line
        assert " 0 refused" not in line


@pytest.mark.parametrize("error", [KeyError, fuzz.Hang, MemoryError, RecursionError])
def test_whatever_is_no_sentence_ends_the_run(error: type[BaseException]) -> None:
    def read(content: object, place: object) -> str:
        raise error

    with pytest.raises(error):
        fuzz.fuzz("Nothing", fuzz.recipe, read, 10, ROOT)


def test_what_is_said_twice_counts_once() -> None:
    one, other = (str(MergeError(f"`{name}` has 3 axes ({name}), in /tmp/{name}.")) for name in "ab")

    assert fuzz.kind(one) == fuzz.kind(other)
