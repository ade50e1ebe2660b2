"""Models in more files than a process may have open."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from merging.checkpoint import open_checkpoint
from tests.conftest import write_model

resource = pytest.importorskip("resource")

SHARDS = 30
MERGE = """
import resource, sys
from merging import merge
from merging.errors import MergeError
from merging.recipe import Recipe
from pathlib import Path

resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
try:
    merge(Recipe("linear", Path("base"), (Path("one"), Path("two"))), "out", shard_size=int(sys.argv[3]))
except MergeError as error:
    print(error)
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for number, name in enumerate(["base", "one", "two"]):
        write_model(tmp_path / name, {f"w{i}": torch.full((3,), float(number)) for i in range(SHARDS)}, shards=SHARDS)
    return tmp_path


def merged(folder: Path, soft: int, hard: int, shard: int = 1 << 30) -> str:
    """What a process with these limits has to say of the merge."""
    told = subprocess.run(
        [sys.executable, "-c", MERGE, str(soft), str(hard), str(shard)],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return told.stdout.strip()


def test_the_limit_is_raised_where_that_is_allowed(models: Path) -> None:
    assert merged(models, 70, 400) == ""
    assert (open_checkpoint(models / "out").tensor("w7") == 1.5).all()


def test_more_files_than_a_process_may_have_open_are_a_problem(models: Path) -> None:
    assert merged(models, 70, 150) == (
        "The merge has 91 files open, and this process may have only 150. "
        "Allow it 191 (`ulimit -Hn 191`), or use fewer and larger shards."
    )
    assert not (models / "out").exists()


def test_the_result_s_own_files_count(models: Path) -> None:
    assert merged(models, 70, 195) == ""
    (models / "out").rename(models / "other")
    assert merged(models, 70, 195, shard=1) == (
        "The merge has 120 files open, and this process may have only 195. "
        "Allow it 220 (`ulimit -Hn 220`), or use fewer and larger shards."
    )
    assert not (models / "out").exists()
