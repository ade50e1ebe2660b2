"""FroM of real adapters in its three readings: by hand in float64, without a product, and the same wherever shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging import MergeError, Recipe, lora, merge
from merging.adapter import open_expert
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.coefficients import coefficients
from merging.compare import compare
from merging.crew import Crew
from merging.factored import factored, squared_norms
from merging.method import METHODS
from merging.plan import Plan, plan
from merging.preflight import check
from merging.stream import Stream
from merging.vectors import norms, squares
from tests.adapters import written

pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
ATTENTION = {"target_modules": ["q_proj", "v_proj", "up_proj"]}
WIDER = {"target_modules": ["q_proj", "v_proj", "down_proj", "embed_tokens"], "bias": "all"}


def opened(base: Path, experts: tuple[Path, ...]) -> Plan:
    start = open_checkpoint(base)
    return plan(start, [open_expert(path, start) for path in experts])


def taus(work: Plan, name: str) -> list[Tensor]:
    """The task vectors in float64, formed."""
    start = work.base.tensor(name).double()
    return [work.experts[i].tensor(name).double() - start for i in work.merged[name]]


def factors(work: Plan, name: str) -> list[tuple[Tensor, Tensor] | None]:
    """Of each expert, A and B in float64, times the root of the scaling each."""
    found: list[tuple[Tensor, Tensor] | None] = []
    for update in (work.experts[i].made.get(name) for i in work.merged[name]):
        if isinstance(update, lora.Update):
            root = update.scaling**0.5
            found.append(tuple(root * update.factors.tensor(n).double() for n in (update.down, update.up)))  # type: ignore[arg-type]
        else:
            found.append(None)
    return found


def powers(lengths: list[float], k: float) -> list[float]:
    """|x|^k over their sum, where zeros have no weight unless k is 0."""
    raised = [length**k if length or k == 0 else 0.0 for length in lengths]
    return [one / sum(raised) for one in raised] if any(raised) else raised


def by_hand(work: Plan, name: str, reading: str, scope: str, k: float, scaling: float) -> Tensor:
    """The merged tensor as section 2.1 of the specification has it, formed in float64."""
    tau, pairs = taus(work, name), factors(work, name)
    if reading == "factors":
        sizes = [_sizes(work, other) for other in (work.merged if scope == "model" else [name])]
        lengths = [[sum(s[i][side] for s in sizes) ** 0.5 for i in range(len(tau))] for side in (0, 1)]
        if scope == "model":
            lengths = [[(a * a + b * b) ** 0.5 for a, b in zip(*lengths, strict=True)]] * 2
    else:
        names = list(work.merged) if scope == "model" else [name]
        total = [sum(float(taus(work, other)[i].square().sum()) for other in names) ** 0.5 for i in range(len(tau))]
        lengths = [total, total]
    down, up = (powers(side, k) for side in lengths)
    start = work.base.tensor(name).double()
    if reading == "product" or not any(pairs):
        return start + scaling * sum(a * t for a, t in zip(down, tau, strict=True))
    if reading == "weights":
        down = up = [a**0.5 for a in down]
    left = sum(weight * pair[1] for weight, pair in zip(up, pairs, strict=True) if pair)
    right = sum(weight * pair[0] for weight, pair in zip(down, pairs, strict=True) if pair)
    product = left @ right
    return start + scaling * (product if product.shape == start.shape else product.T)


def _sizes(work: Plan, name: str) -> list[tuple[float, float]]:
    """Squared norms of A and B, without the scaling that they share, or of the task vector where there are none."""
    found = []
    for index, tau in zip(work.merged[name], taus(work, name), strict=True):
        update = work.experts[index].made.get(name)
        if isinstance(update, lora.Update):
            found.append(
                tuple(float(update.factors.tensor(n).double().square().sum()) for n in (update.down, update.up))
            )
        else:
            found.append((float(tau.square().sum()), 0.0))
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("reading", ["product", "factors", "weights"])
@pytest.mark.parametrize("k", [1.0, 0.0, -1.0])
def test_the_readings_are_those_of_the_specification(tmp_path: Path, reading: str, scope: str, k: float) -> None:
    base, experts = written(tmp_path, ATTENTION, WIDER, ATTENTION)
    values = {"k": k, "lambda": 0.8, "scope": scope, "lora": reading}

    merge(Recipe("from", base, experts, values=values), tmp_path / "out")

    work, merged = opened(base, experts), load_file(tmp_path / "out" / "model.safetensors")
    assert any(factored(work, name)[0] and not factored(work, name)[1] for name in work.merged if "up_proj" in name)
    for name in work.merged:
        expected = by_hand(work, name, reading, scope, k, 0.8)
        torch.testing.assert_close(merged[name].double(), expected, rtol=2e-5, atol=2e-6)


def test_the_default_weighs_by_the_norm_of_the_product_as_if_it_were_formed(
    tmp_path: Path, small_chunks: Callable[..., None]
) -> None:
    small_chunks(7, 3)
    work = opened(*written(tmp_path, ATTENTION, WIDER))
    stream = Stream(work, Crew())

    for name in work.merged:
        formed = torch.tensor([float(tau.norm()) for tau in taus(work, name)], dtype=torch.float64)
        torch.testing.assert_close(norms(stream.tensor(name, Crew())), formed, rtol=1e-5, atol=1e-9)


def test_no_product_is_formed_for_a_norm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_chunks: Callable[..., None]
) -> None:
    small_chunks(7, 3)
    base, adapters = written(tmp_path, ATTENTION, WIDER)
    full = tmp_path / "full"
    tensors = {name: tensor + 0.01 for name, tensor in load_file(base / "model.safetensors").items()}
    full.mkdir()
    save_file(tensors, full / "model.safetensors")
    work = opened(base, (adapters[0], full, adapters[1]))
    expected = sum(squares_formed(work, name) for name in work.merged)
    monkeypatch.setattr(lora, "product", lambda *_: pytest.fail("a product was formed"))

    found = squares(Stream(work, Crew()).model(list(work.merged)))

    torch.testing.assert_close(found[:, 0], expected, rtol=1e-5, atol=0)
    assert found[1].tolist() == [found[1, 0], found[1, 0], 0]  # the full model has no factors


def squares_formed(work: Plan, name: str) -> Tensor:
    return torch.tensor([float(tau.square().sum()) for tau in taus(work, name)], dtype=torch.float64)


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_beside_full_models_the_product_is_what_counts(tmp_path: Path, scope: str) -> None:
    base, adapters = written(tmp_path, ATTENTION, WIDER)
    moved = {name: tensor + 0.02 for name, tensor in load_file(base / "model.safetensors").items()}
    (tmp_path / "full").mkdir()
    save_file(moved, tmp_path / "full" / "model.safetensors")
    experts = (adapters[0], tmp_path / "full", adapters[1])

    merge(Recipe("from", base, experts, values={"scope": scope}), tmp_path / "out")

    work, merged = opened(base, experts), load_file(tmp_path / "out" / "model.safetensors")
    for name in work.merged:
        expected = by_hand(work, name, "product", scope, 1.0, 1.0)
        torch.testing.assert_close(merged[name].double(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("reading", ["product", "factors", "weights"])
def test_what_is_shown_is_what_the_merge_does(tmp_path: Path, reading: str, scope: str) -> None:
    work = opened(*written(tmp_path, ATTENTION, WIDER))
    comparison = compare(work.base, list(work.experts))
    values = METHODS["from"].checked({"scope": scope, "lora": reading})

    shown = coefficients(METHODS["from"], values, comparison, comparison.probe)

    stream = Stream(work, Crew(), tensorwise=scope == "tensor")
    known = METHODS["from"].filled(values, 2)
    whole = METHODS["from"].look(stream.model(list(work.merged)), known) if scope == "model" else None
    for name, row, lengths in zip(work.merged, shown, comparison.norms, strict=True):
        survey = METHODS["from"].look(stream.tensor(name, Crew()), known) if whole is None else whole
        done = METHODS["from"].outcome(stream.empty(name), survey, known).values  # type: ignore[union-attr]
        torch.testing.assert_close(row.nan_to_num(), done.double(), rtol=1e-9, atol=0)
        torch.testing.assert_close(lengths, norms(stream.tensor(name, Crew())), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("reading", ["product", "factors", "weights"])
def test_chunks_workers_and_kernels_change_no_byte(
    tmp_path: Path, small_chunks: Callable[..., None], monkeypatch: pytest.MonkeyPatch, reading: str, scope: str
) -> None:
    base, experts = written(tmp_path, ATTENTION, WIDER)
    recipe, found = Recipe("from", base, experts, values={"lora": reading, "scope": scope}), []

    for tiles, workers, numba in [(1, 1, True), (3, 4, True), (2, 1, False)]:
        small_chunks(16, tiles)
        monkeypatch.setattr("merging.kernels.usable", lambda numba=numba: numba)
        out = merge(recipe, tmp_path / f"out-{len(found)}", workers=workers).out
        found.append((out / "model.safetensors").read_bytes())

    assert found[0] == found[1] == found[2]


ANOTHER: list[tuple[dict[str, Any], str, str]] = [
    ({"lora_alpha": 2}, "factors", "their scalings differ, 2 in adapter-0 and 0.5 in adapter-1. Set `lora: product`."),
    ({"r": 2}, "weights", "their ranks differ, 4 in adapter-0 and 2 in adapter-1. Set `lora: product`."),
    ({"modules_to_save": ["q_proj"], "target_modules": ["v_proj"]}, "weights", "it was trained in full in adapter-1."),
]


@pytest.mark.parametrize(("settings", "reading", "words"), ANOTHER)
def test_factors_that_cannot_be_averaged_are_told_before_the_merge(
    tmp_path: Path, settings: dict[str, Any], reading: str, words: str
) -> None:
    base, experts = written(tmp_path, ATTENTION, {**ATTENTION, **settings})

    found = check(Recipe("from", base, experts, values={"lora": reading}))

    [problem] = found.problems
    assert problem.startswith(
        f"`lora: {reading}` cannot average the factors of `model.layers.0.self_attn.q_proj.weight`"
    )
    assert words in problem
    assert not check(Recipe("from", base, experts, values={"lora": "product"})).problems


@pytest.mark.parametrize("reading", ["factors", "weights"])
def test_full_models_have_no_factors_to_average(tmp_path: Path, reading: str) -> None:
    base, [adapter] = written(tmp_path, ATTENTION)
    recipe = Recipe("from", base, (adapter, base), values={"lora": reading})
    words = f"`lora: {reading}` averages adapters' factors, and base is no adapter. Set `lora: product`."

    assert check(recipe).problems == (words,)

    work = opened(base, (adapter, base))
    comparison = compare(work.base, list(work.experts))
    values = METHODS["from"].checked({"lora": reading})
    with pytest.raises(MergeError, match="is no adapter"):
        coefficients(METHODS["from"], values, comparison, comparison.probe)


def test_an_embedding_that_the_adapter_brings_along_is_the_bases_only_where_it_is_the_same(tmp_path: Path) -> None:
    base, [adapter] = written(tmp_path, WIDER)
    name = "model.embed_tokens.weight"
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    [copy] = [key for key in tensors if key.endswith("embed_tokens.base_layer.weight")]

    assert factored(opened(base, (adapter,)), name)[0]

    save_file(tensors | {copy: tensors[copy] + 0.5}, file, {"format": "pt"})
    work = opened(base, (adapter,))

    assert factored(work, name) == {}
    formed = float(taus(work, name)[0].norm())
    assert float(norms(Stream(work, Crew()).tensor(name, Crew()))) == pytest.approx(formed, rel=1e-6)
    words = check(Recipe("from", base, (adapter,), values={"lora": "weights"})).problems[0]
    assert f"`{name}`: adapter-0 adds them to another weight than the base's" in words


def test_a_product_that_cancels_is_none(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    row, column = torch.randn(1, 50, generator=generator), torch.randn(40, 1, generator=generator)
    save_file({"A": torch.cat([row, row]), "B": torch.cat([column, -column], 1)}, tmp_path / "f.safetensors")
    save_file({"w": torch.zeros(40, 50)}, tmp_path / "w.safetensors")
    base, pair = (open_checkpoint(tmp_path / f"{name}.safetensors") for name in "wf")

    product, first, second = squared_norms(lora.Update(base, "w", pair, "A", "B", 1.0))

    assert product == 0
    assert first == pytest.approx(2 * float(row.square().sum()))
    assert second == pytest.approx(2 * float(column.square().sum()))


def test_norms_of_large_factors_are_added_up_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = opened(*written(tmp_path, ATTENTION))
    update = factored(work, "model.layers.0.mlp.up_proj.weight")[0]
    assert update
    whole = squared_norms(update)
    taken, read = [0], Checkpoint.read

    def counted(model: Checkpoint, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        values = read(model, name, start, stop)
        taken.append(len(values))
        return values

    monkeypatch.setattr(Checkpoint, "read", counted)
    for module in ("lora", "factored"):
        monkeypatch.setattr(f"merging.{module}.BLOCK", 8)

    assert squared_norms(update) == pytest.approx(whole, rel=1e-14)
    assert max(taken) <= 8
