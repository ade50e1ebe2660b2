"""The steps that methods tell of real entries: where they begin and end, and what the best known ones say between."""

import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import groups, sampled
from merging.collected import beside
from merging.engine import merge
from merging.errors import MergeError, MergeStopped
from merging.lens import Lens, lens
from merging.method import METHODS, Method
from merging.preflight import check
from merging.recipe import Recipe
from merging.tracing import Trace, telling, trace
from tests.adapters import written
from tests.conftest import DATA_FREE, random_tensors, write_model
from tests.merging.test_same_bytes import IDS, SETTINGS, recipe_of, tensors

NAME = "model.layers.0.w.weight"
UP = "model.layers.0.mlp.up_proj.weight"
FRAME = {  # told for every method alike, by how its outcome is made into a merge
    "base",
    "task vectors",
    "models",
    "weighted task vectors",
    "weighted models",
    "what each adds",
    "merged task vector",
    "merged",
}
Models = tuple[Path, tuple[Path, ...]]


@pytest.fixture
def models(tmp_path: Path) -> Models:
    """A base and three experts in bfloat16, whose task vectors have many equal entries."""
    folders = [write_model(tmp_path / f"model-{seed}", tensors(seed)) for seed in range(4)]
    return folders[0], tuple(folders[1:])


def seen(recipe: Recipe, name: str = NAME) -> Lens:
    found = check(recipe)
    assert not found.problems
    assert found.plan
    return lens(found.plan, recipe.settings(), name)


def traced(recipe: Recipe, name: str = NAME, entries: Any = None) -> Trace:
    with closing(seen(recipe, name)) as known:
        return trace(known, entries)


def steps(found: Trace) -> dict[str, torch.Tensor]:
    return {told.label: told.values.float() for told in found.steps}


@pytest.mark.parametrize(("method", "values"), SETTINGS, ids=IDS)
def test_steps_begin_with_the_models_and_end_with_the_merge(
    method: str,
    values: dict[str, Any],
    models: Models,
    tmp_path: Path,
) -> None:
    recipe = replace(recipe_of(method, values, models), out_dtype="float32", seed=5)
    expected = load_file(merge(recipe, tmp_path / "out").out / "model.safetensors")
    base, *experts = (load_file(folder / "model.safetensors") for folder in (recipe.base, *recipe.experts))

    for name, tensor in expected.items():
        with closing(seen(recipe, name)) as known:
            found = trace(known, range(tensor.numel()))
        told = steps(found)

        assert not found.estimated
        assert list(told)[-1] == "merged"
        if known.whole:
            torch.testing.assert_close(told["merged"], tensor.flatten(), rtol=1e-6, atol=1e-7)
        elif method == "pcb":  # whose kernel is some units in the last place from torch
            clear = ((told["score"] - told["threshold"][:, None]).abs() > 1e-5 * told["score"].amax()).all(0)
            torch.testing.assert_close(told["merged"][clear], tensor.flatten()[clear], rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(told["merged"], tensor.flatten())
        apart = torch.stack([expert[name].float().flatten() for expert in experts])
        if METHODS[method].takes_base:
            assert torch.equal(told["task vectors"], apart - base[name].float().flatten())
        else:
            assert torch.equal(told["models"], apart)
        if "merged task vector" in told:
            moved = tensor.flatten() - base[name].float().flatten()
            torch.testing.assert_close(told["merged task vector"], moved, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_tells_steps_of_its_own(method: str, tmp_path: Path) -> None:
    experts = collected(tmp_path, METHODS[method].taking(3))
    recipe = Recipe(method, tmp_path / "base", experts)

    for name in (UP, "model.norm.weight"):
        labels = [told.label for told in traced(recipe, name).steps]

        assert {"task vectors", "models"} & {*labels[:2]}
        assert {*labels} - FRAME, f"{method} tells nothing between the models and the merge: add a trace point"
        assert labels[-1] == "merged"


def collected(folder: Path, count: int) -> tuple[Path, ...]:
    """Experts of a random base, each with random statistics beside it."""
    start = random_tensors(0)
    write_model(folder / "base", start)
    random, folders = torch.Generator().manual_seed(9), []
    for number in range(1, count + 1):
        tensors = {name: start[name] + 0.1 * tensor for name, tensor in random_tensors(number).items()}
        folders.append(write_model(folder / f"expert-{number}", tensors))
        known = {f"fisher.{name}": torch.rand(tensor.shape, generator=random) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            if "mlp" in name:
                rows = torch.randn(20, tensor.shape[1], generator=random)
                known[f"inputs.{name}"] = rows.T @ rows
        save_file(known, beside(folders[-1]))
    return tuple(folders)


def test_the_steps_of_ties(tmp_path: Path) -> None:
    tau = torch.tensor([[4.0, -1.0, 0.5, 3.0], [3.0, 2.0, 0.1, -5.0], [-1.0, 5.0, 0.2, 0.0]])
    found = steps(of_task_vectors("ties", tau, tmp_path, density=0.25, scope="tensor", scaling=0.5))

    assert found["threshold"].tolist() == [3.0, 3.0, 1.0]  # one entry more than a quarter of four is kept
    assert found["trimmed"].tolist() == [[4.0, 0.0, 0.0, 3.0], [3.0, 0.0, 0.0, -5.0], [-1.0, 5.0, 0.0, 0.0]]
    assert found["elected sign"].tolist() == [1.0, 1.0, 1.0, -1.0]
    assert found["agreeing"].tolist() == [[4.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, -5.0], [0.0, 5.0, 0.0, 0.0]]
    assert found["what each adds"].tolist() == [[1.0, 0, 0, 0], [0.75, 0, 0, -2.5], [0, 2.5, 0, 0]]
    assert found["merged task vector"].tolist() == [1.75, 2.5, 0.0, -2.5]
    assert found["merged"].tolist() == [2.75, 3.5, 1.0, -1.5]


def of_task_vectors(method: str, tau: torch.Tensor, folder: Path, **values: Any) -> Trace:
    """The steps of all entries of a tensor of ones that moved so far."""
    folders = [write_model(folder / "base", {"w": torch.ones(tau.shape[1:])})]
    folders += [write_model(folder / f"expert-{i}", {"w": 1 + row}) for i, row in enumerate(tau)]
    keys = {param.name: param.key for param in METHODS[method].params.values()}
    recipe = Recipe(method, folders[0], tuple(folders[1:]), (), {keys[name]: value for name, value in values.items()})
    return traced(recipe, "w", range(tau[0].numel()))


def test_the_steps_of_pcb(tmp_path: Path) -> None:
    tau = torch.randn(3, 50, generator=torch.Generator().manual_seed(2)).mul(64).round() / 64
    found = steps(of_task_vectors("pcb", tau, tmp_path, scope="tensor", ratio=0.2, clamp=0.0, scaling=1.0))

    low, high = tau.abs().amin(1, keepdim=True), tau.abs().amax(1, keepdim=True)
    magnitude = (tau.abs().clamp(low, high) - low) / (high - low)
    agreement = torch.tanh(tau * tau.sum(0))
    score = torch.exp(3 * (magnitude.square() - 1)) * agreement
    torch.testing.assert_close(found["magnitude"], magnitude)
    torch.testing.assert_close(found["agreement"], agreement)
    torch.testing.assert_close(found["score"], score)
    assert torch.equal(found["kept"] > 0, found["score"] > found["threshold"][:, None])
    assert (found["kept"] > 1e-5).sum(1).tolist() == [9, 9, 9]  # the entry at the threshold counts 0 but for rounding
    merged = (found["kept"] * found["clamped"]).sum(0) / found["kept"].sum(0).clamp(min=1e-12)
    torch.testing.assert_close(found["merged task vector"], merged)


def test_the_steps_of_from(tmp_path: Path) -> None:
    tau = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 12.0], [9.0, 0.0]]])
    found = steps(of_task_vectors("from", tau, tmp_path, k=1.0, scaling=1.0))

    assert found["norms"].tolist() == [5.0, 15.0]
    torch.testing.assert_close(found["α"], torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(found["merged task vector"], torch.tensor([0.75, 9.0, 6.75, 1.0]))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft with this transformers
@pytest.mark.parametrize("lora", ["factors", "weights", "product"])
def test_averaged_factors_of_adapters(lora: str, tmp_path: Path) -> None:
    base, adapters = written(tmp_path, {"target_modules": ["q_proj"]}, {"target_modules": ["q_proj"]})
    name = "model.layers.0.self_attn.q_proj.weight"
    recipe = Recipe("from", base, adapters, (), {"lora": lora, "scope": "model"})
    expected = load_file(merge(recipe, tmp_path / "out").out / "model.safetensors")[name].flatten()

    with closing(seen(recipe, name)) as known:
        twice = [trace(known, range(len(expected))) for _ in range(2)]  # nothing is left of the first
    found, again = map(steps, twice)

    assert not twice[0].estimated
    assert list(found) == list(again)
    assert torch.equal(found["merged"], expected)
    assert torch.equal(again["merged"], expected)
    assert ("product of the averaged factors" in found) == (lora != "product")
    assert ("norms of B" in found) == (lora == "factors")


def test_the_entries_that_are_shown(tmp_path: Path) -> None:
    tau = torch.zeros(2, 8, 8)
    tau[0] = torch.arange(64.0).reshape(8, 8) / 64  # the first does not move
    tau[1, 2, 3], tau[1, 0, 1] = -0.25, -0.125
    recipe_folders = [write_model(tmp_path / "base", {"w": torch.ones(8, 8)})]
    recipe_folders += [write_model(tmp_path / f"expert-{i}", {"w": 1 + row}) for i, row in enumerate(tau)]
    found = check(Recipe("ties", recipe_folders[0], tuple(recipe_folders[1:])))
    assert found.plan

    picks = telling(found.plan, "w")

    assert [(pick.place, pick.index) for pick in picks if pick.why == "large"] == [
        (63, (7, 7)), (62, (7, 6)), (61, (7, 5)), (60, (7, 4))
    ]  # fmt: skip
    assert [pick.index for pick in picks if pick.why == "disputed"] == [(2, 3), (0, 1)]
    assert [pick.place for pick in picks if pick.why == "typical"] == [32, 31]
    assert [pick.place for pick in picks if pick.why == "small"] == [2, 3]
    assert [pick.place for pick in picks if pick.why == "unmoved"] == [0]
    assert telling(found.plan, "w") == picks


def scopes(method: Method) -> tuple[str, ...]:
    """What a method may survey."""
    return method.params["scope"].choices if "scope" in method.params else ()


def large(folder: Path, lacking: bool = False) -> Models:
    """A model of more entries than are looked at, and two experts, of which the second moved half as far.

    It may be `lacking` all but the small tensors.
    """
    random = torch.Generator().manual_seed(4)
    shapes: dict[str, tuple[int, ...]] = {NAME: (160, 64), "norm": (40,), "bias": (3,), "scale": (2,)}
    start = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    folders = [write_model(folder / "base", start)]
    for number in (1, 2):
        moved = {name: tensor + torch.randn(tensor.shape, generator=random) / number for name, tensor in start.items()}
        if lacking and number == 2:
            del moved[NAME]
        folders.append(write_model(folder / f"expert-{number}", moved))
    return folders[0], tuple(folders[1:])


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at fewer entries than such a model has."""
    monkeypatch.setattr(sampled, "FEW", 2048)
    monkeypatch.setattr(sampled, "RUN", 32)


def test_norms_of_the_whole_model_are_estimated_from_a_sample(tmp_path: Path, little: None) -> None:
    base, experts = large(tmp_path)
    exact = load_file(base / "model.safetensors")
    norms = [
        sum((tensor - exact[name]).square().sum() for name, tensor in load_file(folder / "model.safetensors").items())
        for folder in experts
    ]

    found = traced(Recipe("metagpt", base, experts))

    assert found.estimated
    torch.testing.assert_close(steps(found)["norms"], torch.stack(norms).sqrt(), rtol=0.05, atol=0)


def test_thresholds_of_the_whole_model_are_estimated_from_a_sample(tmp_path: Path, little: None) -> None:
    base, experts = large(tmp_path)

    found = traced(Recipe("ties", base, experts, (), {"density": 0.3}))

    assert found.estimated
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(0.85))
    torch.testing.assert_close(steps(found)["threshold"], torch.stack([normal, normal / 2]), rtol=0.08, atol=0)
    assert not traced(Recipe("ties", base, experts, (), {"density": 0.3, "scope": "tensor"})).estimated


@pytest.mark.parametrize("method", [name for name in DATA_FREE if "model" in scopes(METHODS[name])])
def test_every_survey_can_be_estimated(method: str, tmp_path: Path, little: None, monkeypatch: Any) -> None:
    monkeypatch.setattr(groups, "FEW", 256)  # ranks are counted, not sorted
    base, experts = large(tmp_path)
    count = METHODS[method].taking(2)

    assert traced(Recipe(method, base, experts[:count], (), {"scope": "model"})).estimated


def test_an_expert_of_few_tensors_is_in_the_sample(tmp_path: Path, little: None) -> None:
    base, experts = large(tmp_path, lacking=True)

    found = traced(Recipe("ties", base, experts), "norm")

    assert found.estimated
    assert len(steps(found)["threshold"]) == 2


@pytest.mark.parametrize(
    ("name", "entries", "words"),
    [
        (NAME, [45], "`model.layers.0.w.weight` has 45 entries, and none at 45. Choose one from 0 on."),
        ("nothing", None, "There is no `nothing`. Choose another tensor."),
    ],
)
def test_what_cannot_be_traced(name: str, entries: Any, words: str, models: Models) -> None:
    with pytest.raises(MergeError) as error:
        traced(recipe_of("ties", {}, models), name, entries)

    assert str(error.value) == words


def test_methods_of_adapters_have_no_entries(models: Models) -> None:
    found = check(recipe_of("ties", {}, models))
    assert found.plan

    with pytest.raises(MergeError, match=r"^KnOTS merges adapters by their factors, not by entries\."):
        lens(found.plan, Recipe("knots", *models).settings(), NAME)


def test_a_whole_tensor_must_fit_the_memory_and_stops_when_asked(models: Models) -> None:
    stop = threading.Event()
    stop.set()
    with closing(seen(recipe_of("iso_c", {}, models))) as known:
        with pytest.raises(MergeError, match=r"`model.layers.0.w.weight` \(9 × 5\) is merged as a whole"):
            trace(known, memory=100)
        with pytest.raises(MergeStopped):
            trace(known, stop=stop)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", {"w": torch.ones(4)})
    bad = write_model(tmp_path / "bad", {"w": torch.tensor([1.0, torch.nan, 2.0, 3.0])})

    for method in ("ties", "task_arithmetic"):
        with pytest.raises(MergeError, match=r"^`w`.* holds? NaN or infinity"):
            traced(Recipe(method, base, (bad,), (), {"scope": "tensor"} if method == "ties" else {}), "w")
