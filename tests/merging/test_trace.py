"""Trace points: who listens hears a few entries of each step, and nobody else notices."""

from functools import partial
from typing import Any

import pytest
import torch

from merging.method import METHODS, Group, Groups
from merging.trace import Listener, Told, elsewhere, listening, tell
from tests.merging.test_same_bytes import SETTINGS

MATRIX = torch.arange(12.0).reshape(3, 4)


def heard(listener: Listener, label: str) -> tuple[str, list]:
    told: Told = listener.told[label]
    assert told.values.dtype == torch.float64
    return told.per, told.values.tolist()


def test_steps_are_heard_at_the_entries_listened_to() -> None:
    listener = Listener(torch.tensor([1, 6]), experts=2)

    with listening(listener):
        tell("each", torch.stack([MATRIX, -MATRIX]))
        tell("flat", torch.stack([MATRIX, -MATRIX]).flatten(1))
        tell("sign", MATRIX - 5, "entry")
        tell("kept", MATRIX > 3, "entry")
        tell("norms", torch.tensor([3.0, 4.0]), "expert")
        tell("factor", 0.5, "tensor")
        tell("values", torch.tensor([2.0, 1.0]), "direction")

    assert heard(listener, "each") == heard(listener, "flat") == ("expert and entry", [[1.0, 6.0], [-1.0, -6.0]])
    assert heard(listener, "sign") == ("entry", [-4.0, 1.0])
    assert heard(listener, "kept") == ("entry", [0.0, 1.0])
    assert heard(listener, "norms") == ("expert", [3.0, 4.0])
    assert heard(listener, "factor") == ("tensor", 0.5)
    assert heard(listener, "values") == ("direction", [2.0, 1.0])


def test_what_is_told_of_one_expert_after_the_other_is_put_side_by_side() -> None:
    listener = Listener(torch.tensor([5]), experts=3)

    with listening(listener):
        for expert in (0, 2):  # the second has nothing to tell
            tell("truncated", (expert + 1) * MATRIX, "entry", expert)
            tell("rank", expert + 1, "tensor", expert)
            tell("values", torch.ones(expert + 1), "direction", expert)

    assert heard(listener, "truncated") == ("expert and entry", [[5.0], [0.0], [15.0]])
    assert heard(listener, "rank") == ("expert", [1.0, 0.0, 3.0])
    assert heard(listener, "values") == ("expert and direction", [[1.0, 0.0, 0.0], [0.0] * 3, [1.0] * 3])


def test_a_number_and_a_tensor_of_one_axis_have_entries_too() -> None:
    listener = Listener(torch.tensor([0]), experts=2)

    with listening(listener):
        tell("each", torch.tensor([3.0, 4.0]))  # of a tensor without axes
        tell("one", torch.tensor(2.0), "entry")

    assert heard(listener, "each") == ("expert and entry", [[3.0], [4.0]])
    assert heard(listener, "one") == ("entry", [2.0])


def test_what_is_told_may_change_afterwards() -> None:
    values, listener = torch.zeros(1, 2, dtype=torch.float64), Listener(torch.tensor([0, 1]), experts=1)

    with listening(listener):
        tell("each", values)
        values += 1

    assert heard(listener, "each") == ("expert and entry", [[0.0, 0.0]])


def test_nothing_is_made_for_nobody() -> None:
    def made() -> torch.Tensor:
        raise AssertionError("there is no listener")

    tell("each", made)
    with listening(Listener(torch.tensor([0]), experts=1)):
        pass
    tell("each", made)


def test_other_entries_may_be_told_in_the_place_of_those_listened_to() -> None:
    listener = Listener(torch.tensor([1, 6]), experts=2)

    with elsewhere(lambda _: torch.tensor([0]), "") as somebody:
        assert not somebody
    with listening(listener):
        with elsewhere(lambda entries: 11 - entries, " turned") as somebody:
            assert somebody
            tell("entries", MATRIX, "entry")
        tell("entries", MATRIX, "entry")

    assert heard(listener, "entries turned") == ("entry", [10.0, 5.0])
    assert heard(listener, "entries") == ("entry", [1.0, 6.0])


def test_there_may_be_nobody_to_hear_within() -> None:
    listener = Listener(torch.tensor([1]), experts=1)

    with listening(listener):
        with listening(None):
            tell("of another shape", torch.ones(1), "entry")
        tell("heard", MATRIX, "entry")

    assert list(listener.told) == ["heard"]


def test_what_emr_tells() -> None:
    group = Group("w", torch.zeros(4), torch.tensor([[1.0, -2.0, 0.0, 3.0], [2.0, 1.0, 0.0, -4.0]]))

    listener = Listener(torch.arange(4), experts=2)
    with listening(listener):
        METHODS["emr"].outcome(group, None, {"scaling": 1.0}).merged(group)

    assert heard(listener, "elected sign") == ("entry", [1.0, -1.0, -1.0, -1.0])
    assert heard(listener, "merged task vector") == ("entry", [2.0, -2.0, 0.0, -4.0])


class Known:
    """Statistics of each expert in memory: its information, and the inner products of its inputs."""

    def __init__(self, information: torch.Tensor, *products: torch.Tensor) -> None:
        self.known, self.products = information, products

    def information(self, start: int, stop: int) -> torch.Tensor:
        return self.known.flatten(1)[:, start:stop]

    def inputs(self) -> tuple[Any, ...]:
        return tuple(partial(torch.clone, one) for one in self.products)


@pytest.mark.parametrize(("name", "values"), [*SETTINGS, ("fisher", {"normalize": True}), ("regmean", {})])
def test_a_merge_is_the_same_whether_somebody_listens_or_not(name: str, values: dict[str, Any]) -> None:
    method, random = METHODS[name], torch.Generator().manual_seed(3)
    count = method.taking(3)
    rows = torch.randn(1 + count, 6, 5, generator=random)
    group = Group("model.layers.0.w.weight", rows[0], rows[0] + rows[1:] / 8)
    group.collected = Known(torch.rand(count, 6, 5, generator=random), *(row.T @ row for row in rows[1:]))
    group.seed, group.depth = 5, 0.5
    group = group.weighed(torch.tensor([1.0, 0.5, -0.3][:count]))
    group = group if method.whole else group.cut(0, 30)  # laid flat, as entries are handed out
    filled = method.filled(
        {key: values.get(method.params[key].key, param.default) for key, param in method.params.items()}, count
    ) | {"weight": group.weight}

    def merged() -> torch.Tensor:
        survey = method.look(Groups.of([group]), filled)
        return method.outcome(group, survey, filled).merged(group)

    alone, listener = merged(), Listener(torch.arange(30), experts=count)
    with listening(listener):
        found = merged()

    assert torch.equal(found, alone)
    assert not torch.equal(found, group.base)
    assert {*listener.told} - {"merged task vector", "what each adds"}  # something of the method's own was heard
    assert torch.equal(merged(), alone)  # and nothing is left of it
