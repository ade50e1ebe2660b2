"""What is known of many tensors at once is what the method makes of each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from merging import METHODS, MergeError, Recipe
from merging.checkpoint import open_checkpoint
from merging.compare import compare
from merging.gram import Gram
from merging.groups import Group, Groups
from merging.known import _stacked as stacked
from merging.method import Method, TaskCoefficients
from merging.predictor import Predictor
from tests.conftest import write_model

TENSORWISE = [
    method for method in METHODS.values() if not method.entrywise and method.survey and "scope" in method.params
]
NAMES = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(8)]
STILL, ONE, NEAR = NAMES[1], NAMES[3], NAMES[5]  # where no expert moved, one alone, and all of them hardly apart


@pytest.fixture
def models(tmp_path: Path) -> list[dict[str, torch.Tensor]]:
    source = torch.Generator().manual_seed(3)
    base = {name: torch.randn(4, 6, generator=source) for name in NAMES} | {"model.norm.weight": torch.zeros(6)}
    models = [base]
    for number in (1, 2, 3):
        expert = {name: tensor + number * torch.randn(tensor.shape, generator=source) for name, tensor in base.items()}
        expert[STILL] = base[STILL]
        if number > 1:
            expert[ONE] = base[ONE]
        expert[NEAR] = base[NEAR] + 1e-4 * torch.randn(4, 6, generator=source)
        models.append(expert)
    return models


def written(models: list[dict[str, torch.Tensor]], folder: Path) -> list[Path]:
    return [write_model(folder / str(number), model) for number, model in enumerate(models)]


def predictor(paths: list[Path]) -> Predictor:
    return Predictor(compare(open_checkpoint(paths[0]), [open_checkpoint(path) for path in paths[1:]]))


def values_of(method: Method) -> dict[str, Any]:
    return {"scope": "tensor"} | ({"k": 1.5} if "k" in method.params else {})


def recipe(method: Method, paths: list[Path]) -> Recipe:
    count = method.taking(3)
    weights = (1.0, 0.7, 1.3)[:count] if "weight" in method.params else (1.0,) * count
    return Recipe(method.name, paths[0], tuple(paths[1 : 1 + count]), weights, values_of(method))


@pytest.mark.parametrize("method", TENSORWISE, ids=lambda method: method.name)
def test_all_tensors_at_once_get_what_each_gets_by_itself(
    models: list[dict[str, torch.Tensor]], tmp_path: Path, method: Method
) -> None:
    paths = written(models, tmp_path)
    some = recipe(method, paths)
    settings = some.settings()

    found = predictor(paths[: 1 + len(some.experts)]).predict(settings)

    values = method.filled(settings.fixed, len(some.experts))
    for row, name in enumerate(found.names):
        base, *experts = (model[name] for model in models[: 1 + len(some.experts)])
        group = Group(name, base, torch.stack(experts), matrix=base.ndim == 2)
        group.based = settings.with_base
        outcome = method.outcome(group, method.look(Groups.of([group]), values), values)
        torch.testing.assert_close(found.weights[row].float(), outcome.values.float(), rtol=1e-6, atol=1e-9)
        of_base = outcome.base if isinstance(outcome, TaskCoefficients) else outcome.values.double().sum()
        step = (of_base - 1) * base + torch.einsum("e...,e->...", torch.stack(experts) - base, outcome.values.float())
        assert float(found.norms[row]) == pytest.approx(float(step.norm()), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", TENSORWISE, ids=lambda method: method.name)
def test_a_method_is_asked_once_for_tensors_that_differ_in_numbers_alone(
    models: list[dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    paths = written(models, tmp_path)
    some, asked = recipe(method, paths), list[str]()
    known, outcome = predictor(paths[: 1 + len(some.experts)]), Method.outcome
    monkeypatch.setattr(Method, "outcome", lambda self, *told: asked.append(self.name) or outcome(self, *told))

    known.predict(some.settings())

    assert len(asked) <= 2  # matrices and others


class Told(NamedTuple):
    lengths: Gram
    shares: tuple[torch.Tensor, torch.Tensor]


def test_surveys_of_several_tensors_are_one_in_all_their_parts() -> None:
    surveys = [Told(Gram(torch.eye(2) * n), (torch.tensor([n]), torch.tensor([0.5, n]))) for n in (1.0, 2.0, 3.0)]

    lengths, (some, others) = found = stacked(surveys)

    assert isinstance(found, Told)
    assert lengths.products[:, 0, 0].tolist() == [1, 2, 3]
    assert some.tolist() == [[1], [2], [3]]
    assert others.tolist() == [[0.5, 1], [0.5, 2], [0.5, 3]]


@pytest.mark.parametrize("survey", [0.5, {"norms": torch.ones(2)}, (torch.ones(2), 0.5)])
def test_a_survey_that_cannot_be_one_of_several_tensors_is_refused(survey: Any) -> None:
    with pytest.raises(TypeError, match="no tensor, Gram or tuple of these"):
        stacked([survey, survey])


def test_a_refusal_names_the_tensor_that_it_is_about(models: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    for expert, share in zip(models[1:], (2.0, -1.0, -1.0), strict=True):
        expert[NAMES[4]] = models[0][NAMES[4]] + share * torch.ones(4, 6)
    paths = written(models, tmp_path)
    some = Recipe("multislerp", paths[0], tuple(paths[1:]), (2.0, 1.0, 1.0), {"eps": 1e-3})

    with pytest.raises(MergeError, match=f"^The experts cancel out in `{NAMES[4]}`"):
        predictor(paths).predict(some.settings())


def test_torch_wakes_no_other_threads_for_a_few_numbers(
    models: list[dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, seen, outcome = torch.get_num_threads(), list[int](), Method.outcome
    known, some = (
        predictor(written(models, tmp_path)),
        recipe(METHODS["karcher"], [tmp_path / str(n) for n in range(4)]),
    )
    monkeypatch.setattr(
        Method, "outcome", lambda self, *told: seen.append(torch.get_num_threads()) or outcome(self, *told)
    )
    torch.set_num_threads(2)
    try:
        known.predict(some.settings())
        assert {*seen} == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(own)
