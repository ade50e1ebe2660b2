"""The steps that methods of adapters tell: where they begin and end, and what is between, against its definition."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import adapter_tracing
from merging.adapter_method import Module
from merging.adapter_tracing import trace_adapters
from merging.changes import Changes, changes
from merging.checkpoint import open_checkpoint
from merging.engine import merge
from merging.errors import MergeError, MergeStopped
from merging.methods import peft
from merging.methods.knots import aligned
from merging.recipe import Recipe
from merging.tracing import Trace
from tests.adapters import loaded, written

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
Q, UP, EMBED = (
    f"model.{name}.weight" for name in ("layers.0.self_attn.q_proj", "layers.1.mlp.up_proj", "embed_tokens")
)
KINDS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "up_proj"], "r": 2},
    {"target_modules": ["q_proj", "embed_tokens"], "r": 2, "lora_alpha": 2},
    {"target_modules": ["q_proj", "embed_tokens"], "r": 2, "modules_to_save": ["lm_head"]},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, ...]]:
    """A base and three adapters of one rank that share only a part of what they change."""
    return written(tmp_path_factory.mktemp("models"), *KINDS)


def opened(recipe: Recipe) -> Changes:
    return changes([open_checkpoint(path) for path in recipe.experts], recipe.base and open_checkpoint(recipe.base))


def traced(recipe: Recipe, name: str = Q, entries: Any = None, **more: Any) -> Trace:
    return trace_adapters(opened(recipe), recipe.settings(), recipe.rank, name, entries, **more)


def steps(found: Trace) -> dict[str, torch.Tensor]:
    return {told.label: told.values.float() for told in found.steps}


def every(recipe: Recipe, name: str) -> dict[str, torch.Tensor]:
    """The steps of all entries of a tensor."""
    return steps(traced(recipe, name, range(opened(recipe).work.base.entries[name].size)))


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("knots", {}),
        ("knots", {"density": 0.4, "scope": "tensor", "merge": "sum"}),
        ("knots", {"merger": "dare_ties", "density": 0.5}),
        ("knots", {"merger": "task_arithmetic", "lambda": 2.0}),
        *(("peft", {"combination_type": kind}) for kind in ("cat", "svd", "linear")),
        *(
            ("peft", {"combination_type": f"{rule}{svd}", "density": 0.5})
            for rule in ("ties", "dare_linear", "dare_ties", "magnitude_prune")
            for svd in ("", "_svd")
        ),
    ],
    ids=str,
)
def test_steps_begin_with_the_updates_and_end_with_the_written_merge(
    method: str, values: dict[str, Any], models: tuple[Path, tuple[Path, ...]], tmp_path: Path
) -> None:
    base, adapters = models
    recipe = Recipe(method, base, adapters, (1.0, 0.5, 2.0), values, result="adapter", seed=3)

    expected = loaded(base, merge(recipe, tmp_path / "out").out)
    start = load_file(base / "model.safetensors")
    apart = [loaded(base, adapter) for adapter in adapters]

    for name in (Q, UP, EMBED):
        found = every(recipe, name)

        assert list(found)[:2] == ["base", "task vectors"]
        assert list(found)[-2:] == ["merged task vector", "merged"]
        assert len(found) > 5
        torch.testing.assert_close(found["base"], start[name].flatten())
        moved = torch.stack([(one[name] - start[name]).flatten() for one in apart])
        torch.testing.assert_close(found["task vectors"], moved, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["merged"], expected[name].flatten(), rtol=1e-4, atol=1e-5)


def test_knots_tells_what_its_merger_does_where_an_entry_has_most_of_its_weight(
    models: tuple[Path, tuple[Path, ...]],
) -> None:
    recipe = Recipe("knots", *models, values={"density": 0.4, "lambda": 1.0, "scope": "tensor"})
    module = Module(Q, opened(recipe).updates(Q))
    basis, parts = aligned(module)

    found = every(recipe, Q)

    rows, columns = module.shape
    at = [
        int((basis[row].abs() * parts[:, :, column].abs().amax(0)).argmax()) * columns + column
        for row in range(rows)
        for column in range(columns)
    ]
    inside = {label.removesuffix(" in the common basis"): told for label, told in found.items() if "common" in label}
    ours = parts.flatten(1).float()[:, at]
    torch.testing.assert_close(inside["aligned updates"], ours)
    kept = torch.where(ours.abs() >= inside["threshold"][:, None], ours, 0.0)
    torch.testing.assert_close(inside["trimmed"], kept)
    sums = kept.sum(0)
    assert torch.equal(inside["elected sign"][sums != 0], sums[sums != 0].sign())
    values = found["singular values of the updates side by side"]
    side = torch.cat(list(module.products()), dim=1)
    torch.testing.assert_close(values[: min(side.shape)], torch.linalg.svdvals(side)[: len(values)], atol=1e-5, rtol=0)


def test_peft_tells_what_is_kept_of_products_or_of_their_factors(models: tuple[Path, tuple[Path, ...]]) -> None:
    apart, products = (
        Recipe("peft", *models, values={"combination_type": kind, "density": 0.5}, rank=8)
        for kind in ("ties", "ties_svd")
    )
    module = Module(Q, opened(apart).updates(Q))
    kept = peft.pruned(module.products(), 0.5)
    parts = module.parts()
    downs, ups = (peft.pruned(torch.stack([getattr(part, side) for part in parts]), 0.5) for side in ("down", "up"))

    of_products, of_factors = every(products, Q), every(apart, Q)

    torch.testing.assert_close(of_products["pruned"], kept.flatten(1))
    torch.testing.assert_close(of_products["elected sign"], torch.where(kept.sum(0) >= 0, 1.0, -1.0).flatten())
    scaled = torch.stack([s * up @ down for s, up, down in zip(module.scalings, ups, downs, strict=True)])
    torch.testing.assert_close(of_factors["pruned"], scaled.flatten(1))
    assert "elected sign" not in of_factors  # signs are those of A and B apart


def test_an_adapter_that_leaves_a_matrix_has_nothing_there(models: tuple[Path, tuple[Path, ...]]) -> None:
    recipe = Recipe("peft", *models, (1.0, 2.0, 3.0), {"combination_type": "cat"})

    found = traced(recipe, EMBED)

    assert found.experts == ("adapter-0", "adapter-1", "adapter-2")
    assert not steps(found)["task vectors"][0].any()
    assert steps(found)["weighted task vectors"][1:].any()
    assert {pick.why for pick in found.picks} >= {"large", "typical", "small"}


def test_the_cut_to_a_rank_is_a_step(models: tuple[Path, tuple[Path, ...]]) -> None:
    whole, cut = (Recipe("peft", *models, values={"combination_type": "cat"}, rank=rank) for rank in (None, 1))

    before, after = every(whole, Q), every(cut, Q)

    assert "before it is cut to a rank" not in before
    torch.testing.assert_close(after["before it is cut to a rank"], before["merged task vector"])
    assert torch.linalg.matrix_rank(after["merged task vector"].reshape(8, 8), atol=1e-5) == 1


@pytest.mark.parametrize("method", ["knots", "peft"])
def test_what_was_trained_in_full_is_added_up(
    method: str, models: tuple[Path, tuple[Path, ...]], tmp_path: Path
) -> None:
    recipe = Recipe(method, *models, rank=4, result="adapter")

    expected = loaded(models[0], merge(recipe, tmp_path / "out").out)

    torch.testing.assert_close(every(recipe, "lm_head.weight")["merged"], expected["lm_head.weight"].flatten())


def test_of_many_matrices_some_stand_for_all(models: tuple[Path, tuple[Path, ...]], monkeypatch: Any) -> None:
    recipe = Recipe("knots", *models, values={"density": 0.5})
    seen: list[str] = []
    monkeypatch.setattr(Module, "parts", lambda module, read=Module.parts: seen.append(module.name) or read(module))

    assert not traced(recipe).estimated
    whole = {*seen}
    seen.clear()
    monkeypatch.setattr(adapter_tracing, "SURVEYED", 200)
    assert traced(recipe).estimated
    assert Q in seen
    assert {*seen} < whole


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("model.norm.weight", {}, "No adapter changes `model.norm.weight`. Choose another tensor."),
        (Q, {"entries": [64]}, f"`{Q}` has 64 entries, and none at 64. Choose one from 0 on."),
        (Q, {"memory": 100}, f"`{Q}` (8 × 8) is merged as a whole, which takes"),
    ],
)
def test_what_cannot_be_traced(
    name: str, more: dict[str, Any], words: str, models: tuple[Path, tuple[Path, ...]]
) -> None:
    with pytest.raises(MergeError) as error:
        traced(Recipe("knots", *models), name, **more)

    assert str(error.value).startswith(words)


@pytest.mark.parametrize("method", ["knots", "peft"])
def test_tracing_stops_when_asked(method: str, models: tuple[Path, tuple[Path, ...]]) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(MergeStopped):
        traced(Recipe(method, *models, rank=4), stop=stop)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, {"target_modules": ["q_proj"]})
    file = adapters[0] / "adapter_model.safetensors"
    tensors = load_file(file)
    next(tensor for name, tensor in tensors.items() if "layers.0" in name)[0, 0] = torch.nan
    save_file(tensors, file, {"format": "pt"})

    with pytest.raises(MergeError, match="holds NaN or infinity"):
        traced(Recipe("knots", base, adapters), entries=[0])
