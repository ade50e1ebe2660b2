"""Draws are those of the published generator, and depend on nothing but seed, expert, tensor and entry."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merging.draws import Generator, philox

# The known answers that come with the authors' own code, Random123: counter, key, words.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def drawn(start: int = 0, size: int = 5000, *, fused: bool = False, **other: object) -> torch.Tensor:
    """What is drawn for two experts, or for others."""
    told = {"seed": 7, "experts": (0, 2), "name": "w", **other}
    return Generator(**told, start=start, size=size, fused=fused).uniforms().clone()  # type: ignore[arg-type]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_generator_gives_the_known_answers(counter: list[int], key: list[int], words: list[int]) -> None:
    found = philox(np.array(counter, np.uint64)[:, None], np.array(key))

    assert found[:, 0].tolist() == words


@given(start=st.integers(0, 2**40), size=st.integers(1, 5000))
def test_the_kernel_draws_the_same(start: int, size: int) -> None:
    assert torch.equal(drawn(start, size, fused=True), drawn(start, size))


@pytest.mark.parametrize("fused", [True, False])
@given(start=st.integers(0, 4999), size=st.integers(1, 3000))
def test_an_entry_is_drawn_for_the_same_wherever_a_run_begins(fused: bool, start: int, size: int) -> None:
    size = min(size, 5000 - start)

    assert torch.equal(drawn(start, size, fused=fused), drawn(fused=fused)[:, start : start + size])


def test_an_expert_is_drawn_for_by_its_number_whoever_is_beside_it() -> None:
    assert torch.equal(drawn(experts=(2,))[0], drawn(experts=(0, 2))[1])
    assert torch.equal(drawn(experts=(2, 5, 0))[2], drawn(experts=(0, 2))[0])


@pytest.mark.parametrize("other", [{"seed": 8}, {"experts": (1, 3)}, {"name": "v"}, {"start": 1 << 34}])
def test_what_is_drawn_for_others_has_nothing_to_do_with_it(other: dict[str, object]) -> None:
    one, two = drawn(), drawn(**other)  # type: ignore[arg-type]

    assert abs(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1]) < 0.05  # five standard errors


def test_experts_are_drawn_for_apart() -> None:
    assert abs(torch.corrcoef(drawn())[0, 1]) < 0.07


def test_names_and_numbers_are_not_run_together() -> None:
    assert not torch.equal(drawn(seed=1, experts=(1,), name="2"), drawn(seed=1, experts=(12,), name=""))


def test_draws_are_even_from_0_to_below_1() -> None:
    values = drawn(0, 200_000, fused=True)

    assert values.min() >= 0
    assert values.max() < 1
    counts = values.histc(100, 0, 1)
    assert ((counts - 4000).abs() < 5 * 4000**0.5).all()
    assert ((values * 2**24) % 1 == 0).all()
