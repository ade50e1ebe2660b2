"""What Hypothesis may draw: tensors as checkpoints hold them, groups of them, and values within a Param's range."""

import inspect
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from merging.method import Group, Method
from merging.params import Param

SHAPES = st.sampled_from([(), (1,), (2,), (7,), (3, 4), (5, 1), (2, 3, 2)])
# Beside whole numbers and any others: both ends, the smallest that is not denormal, and what rounding is seen by.
SPECIAL = torch.tensor([-0.0, 4.0, -4.0, 2.0**-126, -(2.0**-126), 1 + 2.0**-23, 0.1, -1e-5])
# Bit patterns, so that denormal numbers, both zeros and the largest numbers are as likely as any.
BITS = st.one_of(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000, 0xBF800000]),
)


def filled(shape: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    """Tensors of one shape; many of their entries are small whole numbers, so that ties and zeros are common.

    Only a seed is drawn: to draw every entry takes longer than what is then done with them.
    """
    return st.integers(0, 2**32 - 1).map(lambda seed: numbers(seed, shape))


def numbers(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers from -4 to 4, of which half are whole; all are zero for the seed that a failure is reduced to."""
    random = torch.Generator().manual_seed(seed)
    whole = torch.randint(-2, 3, shape, generator=random).float()
    any_ones = torch.rand(shape, generator=random) * 8 - 4
    special = SPECIAL[torch.randint(len(SPECIAL), shape, generator=random)]
    kind = torch.randint(8, shape, generator=random)
    return torch.where(kind < 4, whole, torch.where(kind < 7, any_ones, special)) if seed else torch.zeros(shape)


def tensors() -> st.SearchStrategy[Tensor]:
    """Finite float32 tensors of up to three dimensions."""
    return SHAPES.flatmap(filled)


@st.composite
def models(draw: st.DrawFn, least: int = 1, most: int = 4) -> list[Group]:
    """One to three tensors of a base model and of its experts."""
    experts = draw(st.integers(least, most))
    shapes = draw(st.lists(SHAPES, min_size=1, max_size=3))
    groups = []
    for number, shape in enumerate(shapes):
        base = draw(filled(shape))
        groups.append(Group(f"w{number}", base, torch.stack([draw(filled(shape)) for _ in range(experts)])))
    return groups


def finite_floats(least: int = 1, most: int = 64) -> st.SearchStrategy[Tensor]:
    """Flat float32 tensors of any finite bit patterns."""

    def read(bits: list[int]) -> Tensor:
        return torch.tensor(bits).to(torch.int64).sub(2**32 * (torch.tensor(bits) >= 2**31)).int().view(torch.float32)

    return st.lists(BITS.filter(lambda bits: bits >> 23 & 0xFF != 0xFF), min_size=least, max_size=most).map(read)


def values(param: Param) -> st.SearchStrategy[Any]:
    """Any value that the parameter allows."""
    if param.kind == "switch":
        return st.booleans()
    if param.kind == "choice":
        return st.sampled_from(param.choices)
    numbers = st.integers(int(param.low), int(param.high)) if param.counts else st.floats(param.low, param.high)
    return st.none() | numbers if param.optional else numbers


@st.composite
def settings(draw: st.DrawFn, method: Method, **fixed: Any) -> dict[str, Any]:
    """Values for every parameter of a method that is not per expert, by argument name."""
    drawn = {p.name: draw(values(p)) for p in method.params.values() if not p.per_expert and p.name not in fixed}
    return drawn | {name: value for name, value in fixed.items() if name in method.params}


def varied(param: Param) -> st.SearchStrategy[Any]:
    """Any value that a recipe may give a parameter that varies: plain, a gradient, or filters."""
    plain = st.one_of(values(param), st.lists(values(param), min_size=1, max_size=3))
    words = st.sampled_from([None, "*", "mlp", "layers.1.", "norm", "nowhere"])
    one = st.fixed_dictionaries({"value": plain}, optional={"filter": words})
    return st.one_of(plain, one, st.lists(one, min_size=1, max_size=3))


@st.composite
def recipe_values(
    draw: st.DrawFn, method: Method, experts: int
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[dict[str, Any], ...]]:
    """Weights, values and each expert's own values of a recipe, by recipe key, for every parameter of a method."""
    scope = draw(values(method.params["scope"])) if "scope" in method.params else None
    whole = set(inspect.signature(method.survey).parameters) if method.survey and scope == "model" else set()
    drawn: dict[str, Any] = {"scope": scope} if scope else {}
    own: list[dict[str, Any]] = [{} for _ in range(experts)]
    weights: list[Any] = [1.0] * experts
    for param in method.params.values():
        any_value = values(param) if param.name in whole else varied(param)
        if param.per_expert:
            weights = [draw(any_value) for _ in range(experts)]
        elif param.name != "scope":
            drawn[param.key] = draw(any_value)
            for mine in own if param.by_expert else []:
                mine |= {param.key: draw(any_value)} if draw(st.booleans()) else {}
    return tuple(weights), drawn, tuple(own) if any(own) else ()
