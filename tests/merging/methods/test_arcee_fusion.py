"""Arcee Fusion, on numbers that can be followed, and its edges."""

from typing import Any

import torch
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group
from merging.methods.arcee_fusion import importance


def merged(group: Group, **values: Any) -> Tensor:
    return dict(merge_groups(METHODS["arcee_fusion"], [group], **values))["w"]


def drawn(rows: int, row: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A base and one expert whose rows differ more and more."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, row, generator=generator)
    return base, base + torch.linspace(0.1, 2, rows)[:, None] * torch.randn(rows, row, generator=generator)


def test_what_matters_is_the_change_times_the_divergence_of_its_row() -> None:
    base, expert = drawn(6, 5)
    p, q = expert.double().softmax(1), base.double().softmax(1)
    divergence = (p * (p / q).log()).sum(1, keepdim=True)

    found = importance(base.flatten(), expert.flatten()[None], 5)

    torch.testing.assert_close(found[0].double(), ((expert - base).abs() * divergence).flatten(), rtol=1e-3, atol=1e-5)


def test_changes_above_the_quartiles_are_kept(both_paths: str) -> None:
    base, expert = drawn(8, 5)
    matters = importance(base.flatten(), expert.flatten()[None], 5)[0]
    ranked = matters.sort().values
    threshold = ranked[19] + 1.5 * (ranked[29] - ranked[9])  # of 40 entries

    found = merged(Group("w", base, expert[None])).flatten()

    kept = matters >= threshold
    assert 1 <= kept.sum() <= 12
    torch.testing.assert_close(found, torch.where(kept, expert.flatten(), base.flatten()))


def test_a_row_whose_distribution_did_not_change_matters_as_little_as_it_can(both_paths: str) -> None:
    # Adding the same to a whole row leaves its softmax as it was.
    base, expert = drawn(8, 5)
    expert[0] = base[0] + 100

    found = merged(Group("w", base, expert[None]))

    assert torch.equal(found[0], base[0])


def test_the_threshold_is_a_tensors_or_the_models() -> None:
    groups = [Group(name, base, expert[None]) for name, (base, expert) in [("w", drawn(8, 5)), ("v", drawn(3, 4, 1))]]
    matters = {group.name: importance(group.base.flatten(), group.experts.flatten(1), group.row)[0] for group in groups}
    ranked = torch.cat([*matters.values()]).sort().values
    threshold = ranked[25] + 1.5 * (ranked[38] - ranked[12])  # of 52 entries

    found = dict(merge_groups(METHODS["arcee_fusion"], groups, scope="model"))

    for group in groups:
        kept = (matters[group.name] >= threshold).reshape(group.base.shape)
        torch.testing.assert_close(found[group.name], torch.where(kept, group.experts[0], group.base))


def test_rows_are_those_of_the_last_axis() -> None:
    base, expert = drawn(6, 5)
    shaped = Group("w", base.reshape(2, 3, 5), expert.reshape(1, 2, 3, 5))

    assert torch.equal(merged(shaped).reshape(6, 5), merged(Group("w", base, expert[None])))


def test_a_row_means_the_same_in_any_company() -> None:
    """So that chunks of any number of rows give the same bytes."""
    for row in (1, 3, 8, 17, 64, 1000, 4097):
        base, expert = drawn(7, row)
        whole = importance(base.flatten(), expert.flatten()[None], row)[0].reshape(7, row)

        for start, stop in [(0, 1), (2, 3), (1, 4), (3, 7)]:
            part = importance(base[start:stop].flatten(), expert[start:stop].flatten()[None], row)[0]
            assert torch.equal(part, whole[start:stop].flatten())
