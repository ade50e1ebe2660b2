"""What every merge method must satisfy, whatever it computes."""

import itertools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, reject
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from merging import groups as groups_module
from merging import output, stream
from merging.engine import merge, merge_groups
from merging.errors import MergeError
from merging.method import METHODS, Group, Method
from merging.params import Param
from merging.recipe import Recipe
from tests.conftest import DATA_FREE, write_model
from tests.strategies import models, settings

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
scaled = [method for method in METHODS.values() if "scaling" in method.params]


def merged(method: Method, groups: list[Group], **values: Any) -> dict[str, Tensor]:
    return dict(merge_groups(method, groups, **values))


def merged_or_refused(method: Method, groups: list[Group], **values: Any) -> dict[str, Tensor]:
    """The merge, of values that were drawn; those which do not go with each other are refused in words."""
    try:
        return merged(method, groups, **values)
    except MergeError as error:
        assert str(error).endswith(".")  # noqa: PT017 - either is a clear answer
        reject()


def suited(method: Method, groups: list[Group]) -> list[Group]:
    """The groups with as many experts as the method takes: without the last ones, or with the first ones again."""
    count = method.taking(len(groups[0].experts))
    return [Group(g.name, g.base, torch.cat([g.experts] * count)[:count]) for g in groups]


def in_whole_numbers(groups: list[Group]) -> list[Group]:
    """The same numbers as small whole ones, whose sums are exact in any order."""
    return [Group(g.name, g.base.round(), g.experts.round()) for g in groups]


@every_method
@given(groups=models(), data=st.data())
def test_merging_a_model_with_itself_gives_it_back(method: Method, groups: list[Group], data: st.DataObject) -> None:
    same = suited(method, [Group(g.name, g.base, torch.stack([g.base] * len(g.experts))) for g in groups])
    values = data.draw(settings(method, normalize=True))

    found = merged_or_refused(method, same, **values)

    for group in same:
        if method.takes_base:
            assert torch.equal(found[group.name], group.base)
        else:
            torch.testing.assert_close(found[group.name], group.base)


COPIES: dict[str, dict[str, Any]] = {
    "linear": {},
    "task_arithmetic": {"scaling": 1.0, "normalize": True},
    "from": {"scaling": 1.0},
    "ties": {"scaling": 1.0, "density": 1.0, "merge": "mean"},
    "magmax": {"scaling": 1.0},
    "dare_linear": {"scaling": 1.0, "density": 1.0, "normalize": True},
    "dare_ties": {"scaling": 1.0, "density": 1.0, "merge": "mean"},
    "della": {"scaling": 1.0, "density": 1.0, "merge": "mean"},
    "della_linear": {"scaling": 1.0, "density": 1.0, "normalize": True},
    "breadcrumbs": {"scaling": 1.0, "density": 1.0, "normalize": True, "rescale": "none"},
    "breadcrumbs_ties": {"scaling": 1.0, "density": 1.0, "merge": "mean", "rescale": "none"},
    "emr": {"scaling": 1.0},
    "ram": {"epsilon": 0.0},
    "sce": {"select_topk": 1.0},
    "metagpt": {"scaling": 1.0},
    "multislerp": {"normalize_weights": True, "eps": 1e-8},
    "karcher": {},
}


@pytest.mark.parametrize("name", list(COPIES))
@given(groups=models(most=1), copies=st.integers(1, 5), data=st.data())
def test_copies_of_one_expert_give_that_expert(
    name: str, groups: list[Group], copies: int, data: st.DataObject
) -> None:
    copied = [Group(g.name, g.base, torch.cat([g.experts] * copies)) for g in groups]
    values = data.draw(settings(METHODS[name], **COPIES[name])) | ({"normalize": True} if name == "linear" else {})

    found = merged(METHODS[name], copied, **values)

    for group in groups:
        torch.testing.assert_close(found[group.name], group.experts[0], rtol=1e-5, atol=1e-5)


@every_method
@given(groups=models(least=2), data=st.data())
def test_the_order_of_the_experts_does_not_matter(method: Method, groups: list[Group], data: st.DataObject) -> None:
    groups = suited(method, in_whole_numbers(groups))
    if method.name == "magmax":  # of equal magnitudes the first expert's is taken
        groups = [told_apart(group) for group in groups]
    order = data.draw(st.permutations(range(len(groups[0].experts))))
    # Shares of norms are rounded, and a draw between them goes to the first expert: only the sum of masses is exact.
    # What is drawn at random is drawn for an expert's place: only where all is kept, no place is another.
    kept = {"density": 1.0} if method.random else {}
    values = data.draw(settings(method, sign="mass", normalize=True, variant="release", **kept))
    weight = torch.tensor(
        data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=len(order), max_size=len(order)))
    )
    turned = [Group(g.name, g.base, g.experts[order]) for g in groups]

    found = merged_or_refused(method, turned, **values, weight=weight[order])

    for name, expected in merged(method, groups, **values, weight=weight).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4)


def told_apart(group: Group) -> Group:
    """The same, but that no two experts have changed an entry by the same amount."""
    tau, count = group.experts - group.base, len(group.experts)
    own = torch.arange(1.0, count + 1).reshape(-1, *(1 for _ in group.base.shape))
    return Group(group.name, group.base, group.base + 8 * tau + own)


def ends(param: Param) -> list[Any]:
    if param.kind == "switch":
        return [False, True]
    if param.kind == "choice":
        return list(param.choices)
    return [param.low, param.high, *([None] if param.optional else [])]


# What else must change for the ends of a range to be allowed.
FITTING: dict[tuple[str, str], dict[str, Any]] = {
    (name, "density"): {"epsilon": 0.005} for name in ("della", "della_linear")
} | {(name, "epsilon"): {"density": 1.0} for name in ("della", "della_linear")}


@every_method
@given(groups=models())
@hypothesis_settings(max_examples=8)
def test_both_ends_of_every_range_give_finite_numbers(method: Method, groups: list[Group]) -> None:
    groups = suited(method, groups)
    experts = len(groups[0].experts)
    for param in method.params.values():
        for value in ends(param):
            values = {param.name: torch.full((experts,), float(value)) if param.per_expert else value}
            values |= FITTING.get((method.name, param.name), {})
            if param.name == "weight" and value == 0:
                continue

            found = merged(method, groups, **values)

            assert all(tensor.isfinite().all() for tensor in found.values())


@every_method
@given(groups=models(), data=st.data())
def test_any_allowed_values_give_finite_numbers_of_the_same_shape(
    method: Method, groups: list[Group], data: st.DataObject
) -> None:
    groups = suited(method, groups)
    values = data.draw(settings(method))

    found = merged_or_refused(method, groups, **values)

    assert {name: tensor.shape for name, tensor in found.items()} == {g.name: g.base.shape for g in groups}
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in found.values())


@every_method
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3,)])
@pytest.mark.parametrize("experts", [1, 2, 5])
def test_a_model_of_zeros_stays_one(method: Method, shape: tuple[int, ...], experts: int) -> None:
    zeros = suited(method, [Group("w", torch.zeros(shape), torch.zeros(experts, *shape))])

    assert torch.equal(merged(method, zeros)["w"], torch.zeros(shape))


@every_method
def test_a_single_number_is_merged(method: Method) -> None:
    single = suited(method, [Group("w", torch.tensor(1.0), torch.tensor([3.0, 3.0]))])
    whole = {"scaling": 1.0, "density": 1.0, "normalize": True, "merge": "mean", "alpha": 0.5}
    whole["t"] = 3.0 if method.name == "nearswap" else 1.0

    found = merged(method, single, **{name: value for name, value in whole.items() if name in method.params})

    # One is a sum whatever is set, the other leaves what is in no layer.
    expected = {"consensus_ta": 5.0, "wudi": 1.0}.get(method.name, 3.0)
    assert found["w"].item() == pytest.approx(expected)


@pytest.mark.parametrize("method", scaled, ids=[method.name for method in scaled])
@given(groups=models())
def test_a_scaling_of_zero_is_the_base_model(method: Method, groups: list[Group]) -> None:
    groups = suited(method, groups)

    found = merged(method, groups, scaling=0.0)

    assert all(torch.equal(found[group.name], group.base) for group in groups)


@every_method
@given(groups=models())
def test_a_method_does_not_write_into_what_it_is_given(method: Method, groups: list[Group]) -> None:
    groups = suited(method, groups)
    before = [(group.base.clone(), group.experts.clone()) for group in groups]

    merged(method, groups)

    for group, (base, experts) in zip(groups, before, strict=True):
        assert torch.equal(group.base, base)
        assert torch.equal(group.experts, experts)


def drawn(seed: int, experts: int) -> list[Group]:
    """Three tensors of a model and its experts, without ties."""
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for name, shape in {"model.layers.0.w": (9, 7), "model.layers.1.w": (9, 7), "model.norm.weight": (9,)}.items():
        base = torch.randn(shape, generator=generator)
        groups.append(Group(name, base, base + 0.1 * torch.randn(experts, *shape, generator=generator)))
    return groups


VALUES: list[tuple[str, dict[str, Any], bool]] = [
    ("linear", {}, True),
    ("task_arithmetic", {}, True),
    ("ties", {}, True),
    ("ties", {"scope": "tensor", "merge": "max"}, True),
    ("ties", {"sign": "normmass", "merge": "sum"}, False),  # norms are summed chunk by chunk
    ("from", {}, False),
    ("from", {"scope": "model", "k": 2.0}, False),
    ("pcb", {}, False),  # exp and tanh may differ in the last bit with the length of a row
    ("pcb", {"scope": "tensor", "variant": "pairwise", "ratio": 0.5}, False),
]
VALUES += [(name, {}, False) for name in DATA_FREE if name not in [known for known, _, _ in VALUES]]


@pytest.mark.parametrize(("name", "values", "exact"), VALUES, ids=[f"{name}-{values}" for name, values, _ in VALUES])
@pytest.mark.parametrize(
    ("experts", "chunk", "both_paths"),
    [(1, 1, "torch"), (2, 10, "numba"), (5, 16, "torch"), (9, 31, "numba")],
    indirect=["both_paths"],
)
def test_merging_in_chunks_from_disk_equals_merging_whole_tensors(
    name: str,
    values: dict[str, Any],
    exact: bool,
    experts: int,
    chunk: int,
    tmp_path: Path,
    small_chunks: Callable[..., None],
    both_paths: str,
) -> None:
    experts = METHODS[name].taking(experts)
    groups = drawn(experts, experts)
    base = write_model(tmp_path / "base", {g.name: g.base for g in groups})
    paths = [
        write_model(tmp_path / f"expert-{number}", {g.name: g.experts[number] for g in groups})
        for number in range(experts)
    ]
    small_chunks(chunk)

    merge(Recipe(name, base, tuple(paths), values=values), tmp_path / "out")

    found = load_file(tmp_path / "out" / "model.safetensors")
    for tensor, expected in merged(METHODS[name], groups, **values).items():
        if exact:
            assert torch.equal(found[tensor], expected)
        else:
            torch.testing.assert_close(found[tensor], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "ties"])
@given(groups=models(most=3), chunk=st.integers(1, 5))
@hypothesis_settings(max_examples=15)
def test_chunks_do_not_matter_for_any_numbers(name: str, groups: list[Group], chunk: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        root = Path(folder)
        base = write_model(root / "base", {g.name: g.base for g in groups})
        paths = [
            write_model(root / f"expert-{number}", {g.name: g.experts[number] for g in groups})
            for number in range(len(groups[0].experts))
        ]
        for module in (groups_module, output, stream):
            patched.setattr(module, "TILE", chunk)

        merge(Recipe(name, base, tuple(paths)), root / "out")

        found = load_file(root / "out" / "model.safetensors")
    assert all(torch.equal(found[tensor], expected) for tensor, expected in merged(METHODS[name], groups).items())


@every_method
def test_tensors_may_come_in_any_order(method: Method) -> None:
    groups = suited(method, drawn(3, 3))
    expected = merged(method, groups)

    for order in itertools.permutations(groups):
        found = merged(method, list(order))

        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7)
