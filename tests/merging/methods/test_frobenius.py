"""FroM, by hand, at the edges of its formula, and what it is when it is something else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from merging.methods.frobenius import norm_weights
from tests.strategies import models

FROM = METHODS["from"]
# Task vectors of length 5 and 10.
GROUP = Group("w", torch.tensor([1.0, 1.0]), torch.tensor([[4.0, 5.0], [1.0, 11.0]]))
EXPONENTS = st.sampled_from([-2.0, -1.0, -0.1, 0.0, 0.1, 1.0, 2.0, 8.0])


def steps(*groups: Group, **values: object) -> list[Tensor]:
    """The merged step away from the base, tensor by tensor."""
    found = dict(merge_groups(FROM, list(groups), **values))
    return [found[group.name] - group.base for group in groups]


@pytest.mark.parametrize(
    ("k", "step"),
    [
        (-1.0, [2.0, 6.0]),  # weights 2/3 and 1/3
        (0.0, [1.5, 7.0]),
        (1.0, [1.0, 8.0]),  # 1/3 and 2/3
        (2.0, [0.6, 8.8]),  # 1/5 and 4/5
    ],
)
def test_the_weights_are_powers_of_the_norms(k: float, step: list[float]) -> None:
    torch.testing.assert_close(steps(GROUP, k=k)[0], torch.tensor(step))


def test_scaling_shortens_the_step() -> None:
    torch.testing.assert_close(steps(GROUP, scaling=0.5)[0], torch.tensor([0.5, 4.0]))


def test_norms_are_taken_tensor_by_tensor() -> None:
    other = Group("v", torch.zeros(1), torch.tensor([[3.0], [1.0]]))

    alone, together = steps(other)[0], steps(GROUP, other)[1]

    assert torch.equal(alone, together)
    torch.testing.assert_close(alone, torch.tensor([0.75 * 3 + 0.25 * 1]))


def test_norms_can_be_those_of_the_whole_model() -> None:
    # Norms over both: sqrt(25 + 144) = 13 and sqrt(100 + 0) = 10.
    other = Group("v", torch.zeros(1), torch.tensor([[12.0], [0.0]]))

    found = steps(GROUP, other, scope="model")

    torch.testing.assert_close(found[0], torch.tensor([3 * 13 / 23, (4 * 13 + 10 * 10) / 23]))
    torch.testing.assert_close(found[1], torch.tensor([12 * 13 / 23]))


def test_over_the_whole_model_and_with_squares_the_weights_are_those_of_metagpt() -> None:
    other = Group("v", torch.zeros(1), torch.tensor([[12.0], [0.0]]))

    found = steps(GROUP, other, scope="model", k=2.0)

    torch.testing.assert_close(found[1], torch.tensor([12 * 169 / 269]))


def test_an_expert_that_did_not_move_has_no_weight_for_any_exponent_but_zero() -> None:
    still = Group("w", GROUP.base, torch.stack([GROUP.experts[0], GROUP.base]))

    assert [steps(still, k=k)[0].tolist() for k in (-2.0, -0.1, 0.1, 8.0)] == [[3.0, 4.0]] * 4
    assert steps(still, k=0.0)[0].tolist() == [1.5, 2.0]


@given(k=EXPONENTS)
def test_nothing_moves_where_no_expert_did(k: float) -> None:
    still = Group("w", GROUP.base, torch.stack([GROUP.base] * 3))

    assert torch.equal(dict(merge_groups(FROM, [still], k=k))["w"], GROUP.base)


@given(k=EXPONENTS)
def test_one_expert_keeps_its_whole_step(k: float) -> None:
    assert steps(Group("w", GROUP.base, GROUP.experts[:1]), k=k)[0].tolist() == [3.0, 4.0]


@given(k=EXPONENTS)
def test_with_equal_norms_every_exponent_gives_the_average(k: float) -> None:
    turned = Group("w", torch.zeros(2), torch.tensor([[3.0, 4.0], [-4.0, 3.0], [5.0, 0.0]]))

    torch.testing.assert_close(steps(turned, k=k)[0], torch.tensor([4 / 3, 7 / 3]))


def test_a_large_exponent_lets_the_furthest_win() -> None:
    torch.testing.assert_close(steps(GROUP, k=8.0)[0], torch.tensor([0.0, 10.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(norm_weights(torch.tensor([5.0, 10.0]), 200.0), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("norm", [[1e-150, 1e-150], [1e150, 1e150], [1e300, 1e-300], [5e-324, 1.0]])
@given(k=EXPONENTS)
def test_no_exponent_overflows(norm: list[float], k: float) -> None:
    weights = norm_weights(torch.tensor(norm, dtype=torch.float64), k)

    assert weights.isfinite().all()
    assert weights.sum().item() == pytest.approx(1.0)


@given(groups=models())
def test_at_exponent_zero_it_is_the_average(groups: list[Group]) -> None:
    ours = dict(merge_groups(FROM, groups, k=0.0))

    for name, average in merge_groups(METHODS["linear"], groups):
        torch.testing.assert_close(ours[name], average, rtol=1e-5, atol=1e-5)


@given(groups=models(), k=EXPONENTS, scaling=st.floats(0, 1))
def test_it_never_moves_further_than_the_furthest_expert(groups: list[Group], k: float, scaling: float) -> None:
    for group, step in zip(groups, steps(*groups, k=k, scaling=scaling), strict=True):
        furthest = torch.stack([tau.norm() for tau in group.tau]).max()

        assert step.norm() <= furthest * (1 + 1e-5) + 1e-5
