"""What is read of a model on the Hub before it is downloaded, and how much of it at most."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from merging.errors import MergeError
from merging.hub import preview
from merging.hub.names import HubName
from tests.conftest import write_model
from tests.hub import Hub, asking, standing_in

NAME = HubName("owner/model")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub has a model in three shards, whose headers take some 4 kB each; 1 kB is asked for first."""
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "known"))
    monkeypatch.setattr(preview, "FIRST", 1 << 10)
    tensors = {f"model.layers.{number}.weight": torch.zeros(1) for number in range(150)}
    write_model(tmp_path / "root" / "owner" / "model", tensors, shards=3)
    with standing_in(tmp_path / "root") as found, asking(found, tmp_path / "cache"):
        yield found


def ranges(hub: Hub) -> set[str]:
    return {one.bytes for one in hub.sent() if one.path.endswith(".safetensors")}


def test_headers_are_read_whole(hub: Hub) -> None:
    folder = preview.preview(NAME)

    for file in folder.glob("*.safetensors"):
        whole = (hub.folder / "owner" / "model" / file.name).read_bytes()
        assert file.read_bytes() == whole[: 8 + int.from_bytes(whole[:8], "little")]
    assert len(ranges(hub)) > 1


@pytest.mark.parametrize(("most", "asked"), [(8 << 10, {"bytes=0-1023"}), (2 << 10, set())])
def test_headers_that_are_too_large_together_are_not_read(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, asked: set[str]
) -> None:
    monkeypatch.setattr(preview, "HEADERS", most)

    with pytest.raises(MergeError, match=r"The headers of `owner/model` take more than .* kB\. Choose another"):
        preview.preview(NAME)

    assert ranges(hub) == asked
    assert not list((tmp_path / "known" / "previews").glob("*/*"))


GGUF = "`owner/model` holds GGUF files, which cannot be merged. Name the model they were made from"
TORCH = "`owner/model` has its weights as PyTorch files only, which are not fetched from the Hub. Choose a model with"


@pytest.mark.parametrize(
    ("file", "made_from", "words"),
    [
        ("a.gguf", None, f"{GGUF}."),
        ("a.gguf", "owner/base", f"{GGUF}, by its card `owner/base`."),
        ("a.gguf", ["owner/base"], f"{GGUF}, by its card `owner/base`."),
        ("a.gguf", "a model of mine", f"{GGUF}."),
        ("pytorch_model.bin", "owner/base", f"{TORCH} safetensors, or convert it first."),
        ("a.txt", None, "`owner/model` has no weights in safetensors. Choose another model."),
        ("a.safetensors b.safetensors", None, "`owner/model` has several models (a.safetensors, b.safetensors)."),
    ],
)
def test_a_model_that_cannot_be_merged_is_told_by_its_name_alone(
    hub: Hub, file: str, made_from: object, words: str
) -> None:
    for there in (hub.folder / "owner" / "model").iterdir():
        there.unlink()
    for name in file.split():
        (hub.folder / "owner" / "model" / name).write_bytes(b"x" * 500)
    hub.cards["owner/model"] = {"base_model": made_from} if made_from else {}

    with pytest.raises(MergeError) as caught:
        preview.preview(NAME)

    assert str(caught.value).startswith(words)
