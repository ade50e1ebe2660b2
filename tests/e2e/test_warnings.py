"""What looks wrong with the chosen models is said with its reason in step 2, before anything is merged."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from safetensors.torch import load_file, save_file

from tests.e2e.conftest import ROOT, choose_models, expect_experts, figure

pytestmark = pytest.mark.e2e

ZOO = ROOT / "zoo"
UP = "model.layers.2.mlp.up_proj.weight"
Change = Callable[[str, torch.Tensor], torch.Tensor]


def altered(name: str, folder: Path, change: Change = lambda _, tensor: tensor) -> Path:
    """A copy of one of the embedded models, with every tensor changed."""
    shutil.copytree(ZOO / name, folder)
    file = folder / "model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    return folder


def poisoned(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, with one entry of one of them no number."""
    if name == UP:
        tensor[3, 5] = math.nan
    return tensor


def strange(_: str, tensor: torch.Tensor) -> torch.Tensor:
    """Numbers of the same size that have nothing to do with these."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(tensor.shape, generator=generator) * tensor.float().square().mean().sqrt()).to(tensor.dtype)


def test_odd_experts_are_told_with_the_reason_before_anything_is_merged(
    visit: Page, workplace: Path, tmp_path: Path
) -> None:
    again, still = altered("bible", tmp_path / "again"), altered("base", tmp_path / "still")
    stranger = altered("python", tmp_path / "stranger", strange)
    broken = altered("python", tmp_path / "broken", poisoned)
    warnings, output = visit.locator("#see-note .notice.warning"), visit.locator("#output input, #output textarea")
    expect(visit.locator("#see-note")).to_contain_text("Entries that did not move at all")
    expect(warnings).to_have_count(0)

    choose_models(visit, ZOO / "base", [ZOO / "bible", again, still, stranger])
    expect_experts(visit, "bible", "again", "still", "stranger")
    expect(warnings).to_have_text(
        [
            "bible and again are the same: one of them adds nothing but weight.",
            "still equals the base model: it adds nothing.",
            re.compile(r"^stranger is 1\d\d% away from the base: was it fine-tuned from this one\?$"),
        ]
    )
    expect(visit.locator("#see-note .caption")).to_contain_text("bible 1%, again 1%, still 100%, stranger 0%")
    expect(visit.locator("tr.misfit")).to_have_count(0)  # all of them can be merged
    moved = {trace["name"]: trace["z"] for trace in figure(visit, "#norms") if trace["name"]}
    assert {number for row in moved["still"] for number in row if number is not None} == {0}
    assert moved["again"] == moved["bible"]

    choose_models(visit, ZOO / "base", [ZOO / "bible", broken])
    expect_experts(visit, "bible", "broken")
    refused = f"broken: {UP} holds NaN or infinity, so this merge will be refused."
    expect(warnings).to_have_text([refused])
    output.fill("broken")
    visit.locator("#run").click()
    expect(visit.locator("#merge-status .notice.error")).to_contain_text("NaN")
    assert not (workplace / "broken").exists()

    choose_models(visit, broken, [ZOO / "bible"])
    expect_experts(visit, "bible")
    expect(warnings).to_have_text([refused])
    choose_models(visit, ZOO / "base", [ZOO / "bible", ZOO / "python"])
    expect_experts(visit, "bible", "python")
    expect(warnings).to_have_count(0)
