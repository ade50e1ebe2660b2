"""Files that a stranger made: headers, lists of contents, links and pipes. Told in a sentence, soon."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from merging.checkpoint import open_checkpoint
from merging.engine import merge
from merging.errors import MergeError
from merging.hub.card import front_of
from merging.hub.remote import NAME
from merging.preflight import check
from merging.recipe import Recipe
from tests.conftest import Family, write_model
from ui.judging import judged
from ui.plots import grid

ROOT = Path(__file__).parents[2]
MEMORY = 3 << 30  # bytes that reading one file may take at most, Python and torch included
OPENING = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
try:
    open_checkpoint(sys.argv[1])
except MergeError as error:
    print(error)
"""


def header(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


def told(count: int, last: str) -> bytes:
    """A header of so many tensors without an entry."""
    entry = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return header(b"{" + b",".join(entry % number for number in range(count)) + last.encode() + b"}")


def pickled(content: bytes, more: int = 0) -> Callable[[Path], None]:
    """A PyTorch file whose list of contents is this, with so many records of nothing beside it."""

    def make(file: Path) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", b"3\n")
            archive.writestr("archive/byteorder", sys.byteorder.encode())
            for number in range(more):
                archive.writestr(f"archive/data/{number}", b"")

    return make


def written(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(content) and None


GREEDY: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "ten million tensors": (
        "model.safetensors",
        lambda file: file.write_bytes(header(b"{" + b'"":0,' * 10_000_000 + b'"a":0}')) and None,
        "names more tensors than any model has",
    ),
    "a header of 100 MB": ("model.safetensors", written(header(b"[" + b"[]," * 33_000_000 + b"0]")), "more tensors"),
    "a header of nothing but letters": (
        "model.safetensors",
        written(header(b'{"' + b"a" * (100 << 20) + b'":0}')),
        "is cut short or is no safetensors file",
    ),
    "a header in a header": ("model.safetensors", written(header(b'{"a":' * 1_000_000)), "is damaged"),
    "a number of a million digits": (
        "model.safetensors",
        written(header(b'{"a":' + b"9" * 10**6 + b"}")),
        "is damaged",
    ),
    "a pickle of empty lists": ("model.bin", pickled(b"\x80\x02" + b"]" * (40 << 20)), "too large a list of contents"),
    "a pickle that repeats itself": ("model.bin", pickled(b"\x80\x02" + b"]q\x00" + b"h\x00" * 50_000), "is damaged"),
    "a config of lists": (
        "config.json",
        written(b'{"a":[' + b"[]," * 20_000_000 + b"0]}"),
        "could not be read as JSON (it is too large)",
    ),
}


@pytest.mark.parametrize(("name", "make", "words"), GREEDY.values(), ids=list(GREEDY))
def test_a_file_that_asks_for_all_memory_is_told_before_it_has_it(
    name: str, make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    write_model(folder, {"w": torch.ones(2)})
    if name != "config.json":
        (folder / "model.safetensors").unlink()
    make(folder / name)

    command = [sys.executable, "-c", OPENING, str(folder), str(MEMORY)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert words in done.stdout
    assert done.stdout.count("\n") == 1


LYING: dict[str, Any] = {
    "negative": [-8, 0],
    "backwards": [8, 0],
    "beyond": [0, 2**62],
    "halves": [0.0, 8.0],
    "true": [False, 8],
    "not a number": [float("nan"), 8],
    "one": [8],
    "text": "08",
    "nothing": None,
}


@pytest.mark.parametrize("offsets", LYING.values(), ids=list(LYING))
def test_offsets_that_lie_are_told(offsets: Any, tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": offsets}
    (tmp_path / "model.safetensors").write_bytes(header(json.dumps({"w": entry}).encode(), bytes(8)))

    with pytest.raises(MergeError, match=r"says impossible things of `w`|is cut short: `w` ends beyond it"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("shape", [[2**63], [2**32, 2**32], [2**62, 4], [3037000500, 3037000500], [-1, -2], [1] * 40])
def test_shapes_whose_product_is_beyond_all_numbers_are_told(shape: list[int], tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 if len(shape) == 40 else 8]}
    (tmp_path / "model.safetensors").write_bytes(header(json.dumps({"w": entry}).encode(), bytes(8)))

    with pytest.raises(MergeError, match=r"says impossible things of `w`|40 axes"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["a" * 1001, "model.layers." + "1" * 5000 + ".w"])
def test_a_name_without_end_is_told(name: str, tmp_path: Path) -> None:
    write_model(tmp_path / "m", {name: torch.ones(2)})

    with pytest.raises(MergeError, match="letters, as no model does"):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "x.safetensors.index.json"])
def test_nobody_waits_for_a_pipe(name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", {"w": torch.ones(2)})
    for file in [folder / name] if (folder / name).exists() else [folder / "model.safetensors"]:
        file.unlink()
    os.mkfifo(folder / name)
    os.mkfifo(folder / "notes.gguf")

    signal.alarm(60)
    try:
        found = judged(str(folder), [])
    finally:
        signal.alarm(0)

    problem = found.base.problem
    assert found.base.model or "is a pipe or a device" in problem or "cannot be merged" in problem


@pytest.mark.parametrize("link", ["LICENSE", "tokenizer.json", "chat_template.jinja", "config.json"])
def test_a_link_out_of_a_models_folder_is_not_copied_into_a_result(link: str, family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    secret = tmp_path / "secret"
    secret.write_text('{"model_type": "llama", "token": "hf_of_somebody"}')
    (base / link).unlink(missing_ok=True)
    (base / link).symlink_to(secret)
    recipe = Recipe("from", base, tuple(experts))

    found = check(recipe, tmp_path / "out")

    words = f"{base / link} is a link to a file elsewhere, which is not copied into a result."
    assert any(problem.startswith(words) for problem in found.problems)
    with pytest.raises(MergeError, match="is a link to a file elsewhere"):
        merge(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_links_of_the_hubs_cache_are_followed(family: Family, tmp_path: Path) -> None:
    base, experts = family(2)
    snapshot = tmp_path / "models--some--model" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.move(base, snapshot)
    (tmp_path / "models--some--model/blobs").mkdir()
    for number, file in enumerate(list(snapshot.iterdir())):
        blob = tmp_path / "models--some--model/blobs" / str(number)
        file.rename(blob)
        file.symlink_to(Path("../../blobs") / str(number))

    merge(Recipe("from", snapshot, tuple(experts)), tmp_path / "out")

    assert (tmp_path / "out/tokenizer.json").read_bytes() == (experts[0] / "tokenizer.json").read_bytes()


def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    write_model(tmp_path / "other", {"w": torch.ones(2)})
    folder = write_model(tmp_path / "m", {"w": torch.ones(2)})
    (folder / "model.safetensors").unlink()
    for name in ("../other/model.safetensors", str(tmp_path / "other/model.safetensors"), "..", "a/../b.safetensors"):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))

        with pytest.raises(MergeError, match="which is not a shard in its folder"):
            open_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../x", "a/b/c", "..", ".", "a\\x", "a\0x", "", "a/..", ".hidden"]
)
def test_a_file_of_the_hub_that_leads_elsewhere_is_none(name: str) -> None:
    assert not NAME.fullmatch(name)


def test_layers_that_are_all_different_are_drawn_in_as_many_cells() -> None:
    names = tuple(f"model.layers.{number}.m{number}.weight" for number in range(1000))

    drawn = grid(names)

    assert len(drawn.rows) * len(drawn.modules) + len(drawn.apart) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "---" + "\n" * 200_000,
        "---\n" + "\n---x" * 100_000,
        "---\na: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9)) + "license: !!bool x\n---\n",
        "---\nlicense: " + "1:" * 100_000 + "1\n---\n",
    ],
)
def test_what_stands_at_the_top_of_a_card_is_read_soon_or_not(text: str) -> None:
    assert front_of(text) == {}


def test_weights_that_are_nothing_but_infinity_are_told(tmp_path: Path) -> None:
    from ui.comparing import make_comparison
    from ui.figures.effects import DISTANCE
    from ui.forecast import draw_forecast
    from ui.models_panel import read_models

    data = struct.pack("<2f", float("inf"), float("nan"))
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for name in ("base", "one"):
        (tmp_path / f"{name}.safetensors").write_bytes(header(json.dumps({"w": entry}).encode(), data))
    base, one = tmp_path / "base.safetensors", tmp_path / "one.safetensors"
    _, selection = read_models(str(base), [str(one)])
    list(make_comparison(selection, "someone"))

    caption, *_ = draw_forecast(selection, Recipe("ties", base, (one,)), "weights", DISTANCE, "weights", None, False)

    assert caption
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 < MEMORY
