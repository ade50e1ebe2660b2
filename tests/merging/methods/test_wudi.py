"""WUDI against its objective: the descent by torch's own derivatives, the closed form by its normal equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from merging.engine import merge_groups
from merging.method import METHODS, Group

NAME = "model.layers.0.mlp.up_proj.weight"


def step(tau: Tensor, name: str = NAME, **values: object) -> Tensor:
    [(_, found)] = merge_groups(METHODS["wudi"], [Group(name, torch.zeros(tau.shape[1:]), tau)], **values)
    return found


def drawn(*shape: int, scale: float = 1e-3) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def loss(theta: Tensor, tau: Tensor) -> Tensor:
    return sum(((theta - one) @ one.T).square().sum() / one.square().sum() for one in tau if one.any())


@pytest.mark.parametrize("shape", [(2, 6, 4), (3, 4, 6), (2, 3, 20), (4, 5, 5)])
def test_it_descends_as_adam_does(shape: tuple[int, ...]) -> None:
    tau = drawn(*shape)
    theta = tau.sum(0).clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=1e-5)
    for _ in range(300):
        adam.zero_grad()
        loss(theta, tau).backward()
        adam.step()

    found = step(tau)

    expected = theta.detach()
    assert float((tau.sum(0) - expected).abs().max()) > 5e-4  # it went somewhere
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 6, 4), (3, 4, 6), (2, 3, 20), (1, 5, 5)])
def test_the_closed_form_is_the_minimum_of_least_norm(shape: tuple[int, ...]) -> None:
    tau = drawn(*shape).double()
    squares = [one.T @ one / one.square().sum() for one in tau]
    expected = sum(one @ own for one, own in zip(tau, squares, strict=True)) @ torch.linalg.pinv(sum(squares))

    found = step(tau.float(), variant="closed_form")

    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)
    assert loss(found.double(), tau) <= loss(step(tau.float()).double(), tau) + 1e-12


def test_one_expert_is_kept_as_it_is() -> None:
    tau = drawn(1, 4, 6)

    torch.testing.assert_close(step(tau, variant="closed_form", scaling=2.0), 2 * tau[0], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(step(tau), tau[0])  # where it begins the loss is 0 already


@pytest.mark.parametrize("variant", ["release", "closed_form"])
def test_an_expert_that_did_not_move_asks_for_nothing(variant: str) -> None:
    tau = drawn(2, 4, 6)

    found = step(torch.cat([tau, torch.zeros(1, 4, 6)]), variant=variant)

    torch.testing.assert_close(found, step(tau, variant=variant))


@pytest.mark.parametrize("variant", ["release", "closed_form"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.weight", (4, 6)),
        ("model.layers.0.input_layernorm.weight", (6,)),
        ("lm_head.weight", (4, 6)),
    ],
)
def test_what_is_no_matrix_of_a_layer_stays_the_bases(name: str, shape: tuple[int, ...], variant: str) -> None:
    assert not step(drawn(2, *shape), name, variant=variant).any()
