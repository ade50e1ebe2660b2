"""PCB-Merging, by hand, and at the edges where the released code divides nothing by nothing."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from tests.strategies import models

PCB = METHODS["pcb"]
VARIANTS = list(PCB.params["variant"].choices)


def tau(*rows: list[float], name: str = "w") -> Group:
    """Experts of a base model of zeros, so that the experts are the task vectors and the result is the step."""
    return Group(name, torch.zeros(len(rows[0])), torch.tensor(rows))


def merged(*groups: Group, **values: object) -> Tensor:
    """All tensors of the result, laid end to end."""
    return torch.cat([tensor.flatten() for _, tensor in merge_groups(PCB, list(groups), **values)])


def assert_near(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-7)


ALONE = tau([0.1, -0.2, 0.3, 0.4])
PAIR = tau([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.1, -0.2])


def test_two_experts_by_hand() -> None:
    # The largest magnitude is clamped to the second largest, 0.3: c is (.1 .2 .3 .3) and (.3 .3 .1 -.2).
    # N is (0 .5 1 1) and (1 1 0 .5); with the sums (.5 .5 .4 .2), exp(2 N^2) tanh(tau * sum) is
    # (.04996 .16432 .88246 .58987) and (1.45842 1.10012 .03998 -.06591).
    # At ratio 1 only the smallest score drops out, so S is (0 .13738 1 .64854) and (1 .76495 .06947 0).
    assert_near(merged(PAIR, ratio=1.0), [0.3, 0.2847751613, 0.2870088503, 0.3])


def test_at_half_the_ratio_only_the_best_of_each_is_left() -> None:
    assert_near(merged(PAIR, ratio=0.5), [0.3, 0.0, 0.3, 0.0])


def test_one_expert_keeps_its_largest_entries_clamped() -> None:
    assert_near(merged(ALONE, ratio=0.5), [0.0, 0.0, 0.0, 0.3])
    assert_near(merged(ALONE, ratio=0.75), [0.0, 0.0, 0.3, 0.3])


def test_at_ratio_one_all_but_the_smallest_score_stay() -> None:
    assert_near(merged(ALONE, ratio=1.0), [0.0, -0.2, 0.3, 0.3])


def test_the_best_entry_stays_at_the_smallest_ratio() -> None:
    assert_near(merged(ALONE, ratio=0.01), [0.0, 0.0, 0.0, 0.3])


def test_a_lone_survivor_keeps_its_full_strength() -> None:
    # The first entry is the second expert's alone, at ratio 0.5, and the third is the first's.
    assert_near(merged(PAIR, ratio=0.5, scaling=2.0), [0.6, 0.0, 0.6, 0.0])
    assert_near(merged(PAIR, ratio=0.5, weight=[1.0, 3.0]), [0.9, 0.0, 0.3, 0.0])


def test_where_none_survives_the_base_model_stays() -> None:
    group = Group("w", torch.tensor([1.1, 2.2, 3.3, 4.4]), torch.tensor([[1.2, 2.0, 3.6, 4.8]]))

    found = merged(group, ratio=0.5)

    assert torch.equal(found[:3], group.base[:3])


def test_the_clamp_share_cuts_both_ends() -> None:
    # Of twenty, the lower bound is the third smallest, and the upper one is the eighteenth.
    group = tau([0.01 * number for number in range(1, 21)])

    found = merged(group, ratio=1.0, clamp=0.1)

    torch.testing.assert_close(found.max(), torch.tensor(0.18))
    torch.testing.assert_close(found[found > 0].min(), torch.tensor(0.03))


def test_without_a_clamp_share_each_variant_has_its_own() -> None:
    group = tau([0.001 * number for number in range(1, 1001)])

    highest = {variant: merged(group, ratio=0.5, variant=variant).max().item() for variant in VARIANTS}

    # Of a thousand at 1e-4: place 998 counted from 0. At 1e-2: place 989.
    assert highest == pytest.approx({"release": 0.999, "nlp": 0.99, "vision": 0.99, "pairwise": 0.99})


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_expert_that_did_not_move_takes_no_part(variant: str) -> None:
    still = tau([0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0], [0.4, 0.3, 0.1, -0.2])

    with_it = merged(still, ratio=1.0, variant=variant, weight=[1.0, 2.0, 1.0])

    assert torch.equal(with_it, merged(PAIR, ratio=1.0, variant=variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_moves_where_no_expert_did(variant: str) -> None:
    group = Group("w", torch.tensor([1.0, -2.0, 0.0]), torch.tensor([[1.0, -2.0, 0.0]] * 2))

    assert torch.equal(merged(group, variant=variant), group.base)


@pytest.mark.parametrize("variant", VARIANTS)
def test_magnitudes_that_are_all_equal_count_fully(variant: str) -> None:
    assert_near(merged(tau([0.5, -0.5, 0.5, -0.5]), variant=variant), [0.5, -0.5, 0.5, -0.5])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_single_entry_is_merged_whole(variant: str) -> None:
    assert_near(merged(tau([0.5]), variant=variant), [0.5])
    assert_near(merged(tau([0.5], [0.3]), variant=variant), [0.4])


def test_entries_that_share_the_best_score_count_fully_and_the_others_not() -> None:
    assert_near(merged(tau([0.1, 0.4, 0.4, 0.4]), ratio=0.5), [0.0, 0.4, 0.4, 0.4])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_hundred_experts_do_not_overflow(variant: str) -> None:
    generator = torch.Generator().manual_seed(0)
    group = Group("w", torch.zeros(50), 0.1 * torch.randn(100, 50, generator=generator))

    found = merged(group, ratio=0.5, variant=variant)

    assert found.isfinite().all()
    assert found.abs().max() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_opposite_experts_give_finite_numbers(variant: str) -> None:
    assert merged(tau([0.1, 0.2, -0.3], [-0.1, -0.2, 0.3]), ratio=1.0, variant=variant).isfinite().all()


def test_an_entry_against_the_others_loses_to_a_smaller_one_with_them() -> None:
    # Alone, the first expert's third entry scores highest; here two others pull it the other way.
    disputed = tau([0.1, 0.2, 0.3, 0.05], [0.1, 0.2, -0.4, 0.05], [0.1, 0.2, -0.4, 0.05])

    assert merged(disputed, ratio=0.25)[2] < 0


def test_the_competition_is_over_the_whole_model_or_within_each_tensor() -> None:
    large, small = tau([1.0, 2.0, 3.0, 4.0], name="large"), tau([0.1, 0.2, 0.3, 0.4], name="small")

    assert merged(large, small, ratio=0.3)[4:].tolist() == [0.0] * 4
    assert_near(merged(large, small, ratio=0.5, scope="tensor"), [0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.3])


def test_an_expert_may_be_still_in_one_tensor_only() -> None:
    a, b = tau([0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0], name="a"), tau([0.1, 0.3], [0.3, 0.1], name="b")

    found = merged(a, b, ratio=0.5, scope="tensor")

    assert torch.equal(found[:4], merged(tau([0.1, 0.2, 0.3, 0.4]), ratio=0.5, scope="tensor"))


@given(groups=models(), power=st.integers(-6, 6))
def test_the_pairwise_variant_does_not_mind_the_scale(groups: list[Group], power: int) -> None:
    from_zero = [Group(g.name, torch.zeros_like(g.base), g.experts) for g in groups]
    scaled = [Group(g.name, g.base, g.experts * 2.0**power) for g in from_zero]

    found, expected = merged(*scaled, variant="pairwise"), merged(*from_zero, variant="pairwise")

    torch.testing.assert_close(found, expected * 2.0**power)


@given(groups=models(), variant=st.sampled_from(VARIANTS), ratio=st.floats(0.01, 1), scaling=st.floats(0, 3))
def test_no_entry_moves_further_than_the_furthest_expert(
    groups: list[Group], variant: str, ratio: float, scaling: float
) -> None:
    from_zero = [Group(g.name, torch.zeros_like(g.base), g.experts) for g in groups]
    furthest = torch.cat([g.experts.flatten() for g in from_zero]).abs().max()

    found = merged(*from_zero, variant=variant, ratio=ratio, scaling=scaling)

    assert found.abs().max() <= scaling * furthest * (1 + 1e-5)


def test_the_variants_are_the_four_of_the_authors_code() -> None:
    from merging.methods.pcb import CLAMP, Variant

    assert list(CLAMP) == VARIANTS == list(get_args(get_args(Variant)[0]))
