"""KnOTS against its definition, whose updates, decompositions and bases are formed in full, in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file
from torch import Tensor

from merging import Recipe, merge
from merging.adapter_method import Module
from merging.changes import changes
from merging.checkpoint import open_checkpoint
from merging.memory import merge_groups
from merging.method import METHODS, Group
from merging.methods.knots import aligned
from merging.preflight import check
from tests.adapters import written

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
KINDS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "v_proj", "up_proj"], "r": 2},
    {"target_modules": ["q_proj", "down_proj", "embed_tokens"], "r": 3, "use_rslora": True},
    {"target_modules": ["q_proj", "v_proj", "embed_tokens"], "lora_alpha": 2, "r": 2},
]


def modules_of(base: Path, adapters: tuple[Path, ...]) -> list[Module]:
    found = changes([open_checkpoint(path) for path in adapters], open_checkpoint(base))
    return [Module(name, found.updates(name)) for name in found.work.merged]


def updates_of(module: Module) -> list[Tensor]:
    """What each adapter adds, formed in float64; zero where it leaves the matrix as it is."""
    made = [s * p.up.double() @ p.down.double() for s, p in zip(module.scalings, module.parts(), strict=True)]
    found = [torch.zeros(module.shape, dtype=torch.float64) for _ in module.updates]
    for number, update in zip(module.which, made, strict=True):
        found[number] = update
    return found


def decomposed(module: Module) -> tuple[Tensor, Tensor]:
    """U and the parts S V_i^T of the updates side by side, by one SVD of all of it."""
    tau = updates_of(module)
    left, sizes, right = torch.linalg.svd(torch.cat(tau, dim=1), full_matrices=False)
    count = int((sizes > 1e-5).sum())
    parts = torch.stack((sizes[:count, None] * right[:count]).split(module.shape[1], dim=1))
    for number, update in enumerate(module.updates):
        if not update:  # its part would be rounding, of which every entry would have a vote
            assert parts[number].abs().max() < 1e-12
            parts[number] = 0
    return left[:, :count], parts


def test_the_common_basis_is_that_of_the_updates_side_by_side(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, *KINDS)

    for module in modules_of(base, adapters):
        basis, parts = aligned(module)
        left, expected = decomposed(module)

        count, ranks = left.shape[1], sum(module.ranks)
        assert basis.shape == (module.shape[0], ranks)
        signs = (basis[:, :count] * left).sum(0).sign()
        torch.testing.assert_close(basis[:, :count] * signs, left, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(signs[:, None] * parts[:, :count], expected, rtol=1e-6, atol=1e-7)
        assert not basis[:, count:].any()
        for part, update in zip(parts, updates_of(module), strict=True):
            torch.testing.assert_close(basis @ part, update, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"density": 0.3, "lambda": 0.5},
        {"density": 0.2, "scope": "tensor", "merge": "sum"},
        {"density": 0.5, "sign": "normmass"},
        {"merger": "dare_ties", "density": 0.4, "merge": "sum"},
        {"merger": "dare_linear", "density": 0.6, "scope": "tensor"},
        {"merger": "task_arithmetic", "lambda": 2.0},
    ],
    ids=str,
)
def test_the_merge_is_that_of_ties_or_another_in_the_common_basis(tmp_path: Path, values: dict[str, Any]) -> None:
    base, adapters = written(tmp_path, *KINDS)
    weights = (1.0, 0.5, 2.0)

    out = merge(Recipe("knots", base, adapters, weights, values), tmp_path / "out").out

    given = {"density": 1.0, "lambda": 0.5, **values}  # the authors' for language models
    given["scaling"] = given.pop("lambda")
    merger = METHODS[given.pop("merger", "ties")]
    given = {name: value for name, value in given.items() if name in merger.params}
    modules = modules_of(base, adapters)
    parts = {module.name: decomposed(module) for module in modules}
    groups = [Group(name, torch.zeros(part.shape[1:]), part.float()) for name, (_, part) in parts.items()]
    aside = dict(merge_groups(merger, groups, weight=torch.tensor(weights), **given))
    found = load_file(out / "adapter_model.safetensors")
    for module in modules:
        update = next(update for update in module.updates if update)
        delta = found[update.up] @ found[update.down]
        expected = parts[module.name][0] @ aside[module.name].double()
        torch.testing.assert_close(delta.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("values", [{}, {"scope": "tensor", "merge": "sum"}], ids=str)
@pytest.mark.parametrize("merger", ["ties", "dare_ties", "dare_linear"])
def test_each_adapter_may_have_a_density_of_its_own(tmp_path: Path, merger: str, values: dict[str, Any]) -> None:
    base, adapters = written(tmp_path, *KINDS)
    shares = [0.2, 0.9, 0.5]
    own = tuple({"density": share} for share in shares)
    told = {"merger": merger, "lambda": 1.0, **values}

    found = added(Recipe("knots", base, adapters, values=told | {"density": 0.5}, own=own), tmp_path / "own")
    alike = added(Recipe("knots", base, adapters, values=told | {"density": 0.5}), tmp_path / "alike")

    given = {name: value for name, value in {**values, "scaling": 1.0}.items() if name in METHODS[merger].params}
    parts = {module.name: decomposed(module) for module in modules_of(base, adapters)}
    groups = [Group(name, torch.zeros(part.shape[1:]), part.float()) for name, (_, part) in parts.items()]
    expected = dict(merge_groups(METHODS[merger], groups, density=shares, **given))
    for name, delta in found.items():
        torch.testing.assert_close(delta, parts[name][0] @ expected[name].double(), rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(delta, alike[name], rtol=1e-2, atol=1e-3) for name, delta in found.items())


@pytest.mark.parametrize("merger", ["dare_ties", "dare_linear"])
def test_what_dare_drops_follows_from_the_seed(tmp_path: Path, merger: str) -> None:
    base, adapters = written(tmp_path, *KINDS)
    values = {"merger": merger, "density": 0.5, "lambda": 1.0}

    def made(name: str, seed: int) -> bytes:
        out = merge(Recipe("knots", base, adapters, values=values, seed=seed), tmp_path / name).out
        return (out / "adapter_model.safetensors").read_bytes()

    usual, other, again = made("usual", 0), made("other", 7), made("again", 7)

    assert other == again
    assert load(other).keys() == load(usual).keys()
    different = [name for name, tensor in load(other).items() if not torch.equal(tensor, load(usual)[name])]
    assert len(different) > len(load(usual)) / 4
    parts = {module.name: decomposed(module) for module in modules_of(base, adapters)}
    groups = [Group(name, torch.zeros(part.shape[1:]), part.float()) for name, (_, part) in parts.items()]
    expected = dict(merge_groups(METHODS[merger], groups, seed=7, density=0.5, scaling=1.0))
    for name, delta in deltas(base, adapters, load(other)).items():
        torch.testing.assert_close(delta, parts[name][0] @ expected[name].double(), rtol=1e-4, atol=1e-5)


def added(recipe: Recipe, out: Path) -> dict[str, Tensor]:
    """What a merged adapter adds to each matrix, by a recipe."""
    assert recipe.base
    merge(recipe, out)
    return deltas(recipe.base, recipe.experts, load_file(out / "adapter_model.safetensors"))


def deltas(base: Path, adapters: tuple[Path, ...], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the factors of a merged adapter add to each matrix."""
    found = {}
    for module in modules_of(base, adapters):
        update = next(update for update in module.updates if update)
        found[module.name] = (tensors[update.up] @ tensors[update.down]).double()
    return found


def test_a_sum_is_the_same_in_any_basis(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, *KINDS)
    values, weights = {"merger": "task_arithmetic", "lambda": 0.7}, (1.0, -0.5, 2.0)

    turned = merge(Recipe("knots", base, adapters, weights, values), tmp_path / "out").out
    plain = Recipe("task_arithmetic", base, adapters, weights, {"lambda": 0.7}, result="adapter")
    added = merge(plain, tmp_path / "added").out

    found, expected = (load_file(out / "adapter_model.safetensors") for out in (turned, added))
    for module in modules_of(base, adapters):
        update = next(update for update in module.updates if update)
        ours, theirs = (known[update.up] @ known[update.down] for known in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_rule_that_the_merger_does_not_know_is_refused(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, *KINDS)

    [problem] = check(Recipe("knots", base, adapters, values={"merger": "dare_ties", "merge": "max"})).problems

    assert problem == "`merge: max` is none of DARE-TIES's rules. Choose `mean` or `sum`, or another `merger`."


def test_one_adapter_stays_what_it_is(tmp_path: Path) -> None:
    base, adapters = written(tmp_path, KINDS[1])

    out = merge(Recipe("knots", base, adapters, values={"lambda": 1.0}), tmp_path / "out").out

    found = load_file(out / "adapter_model.safetensors")
    for module in modules_of(base, adapters):
        [update], [expected] = module.updates, updates_of(module)
        assert update
        torch.testing.assert_close((found[update.up] @ found[update.down]).double(), expected, rtol=1e-4, atol=1e-5)


def test_adapters_that_add_nothing_merge_into_nothing(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base, adapters = written(tmp_path, KINDS[0], KINDS[2])
    for path in adapters:
        tensors = load_file(path / "adapter_model.safetensors")
        zeros = {
            name: torch.zeros_like(t) if "lora_B" in name or "embedding_B" in name else t for name, t in tensors.items()
        }
        save_file(zeros, path / "adapter_model.safetensors", {"format": "pt"})

    for method in ("knots", "from", "task_arithmetic"):
        out = merge(Recipe(method, base, adapters, result="adapter", rank=2), tmp_path / method).out
        found = load_file(out / "adapter_model.safetensors")
        for module in modules_of(base, adapters):
            update = next(update for update in module.updates if update)
            assert not (found[update.up] @ found[update.down]).any()
