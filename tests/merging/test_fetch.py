"""Downloading a model of the Hub again, after it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from merging.errors import MergeStopped
from merging.hub.fetch import fetch
from merging.hub.names import HubName
from tests.conftest import write_model
from tests.hub import asking, standing_in


def test_files_that_were_finished_before_a_stop_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "known"))
    tensors = {f"model.layers.{number}.weight": torch.ones(9) for number in range(16)}
    write_model(tmp_path / "root" / "owner" / "model", tensors, shards=16)

    def finished() -> set[str]:
        return {file.name for file in (tmp_path / "cache").glob("*/snapshots/*/*.safetensors")}

    with standing_in(tmp_path / "root") as hub, asking(hub, tmp_path / "cache"):
        with pytest.raises(MergeStopped):
            fetch(HubName("owner/model"), stopped=lambda: bool(finished()))
        before = finished()
        hub.asked.clear()
        fetch(HubName("owner/model"))
        asked = {Path(one.path).name for one in hub.sent() if one.path.endswith(".safetensors")}

    assert before
    assert asked == {f"model-{number:05}-of-00016.safetensors" for number in range(1, 17)} - before
