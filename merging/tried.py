"""Methods that decide entry by entry, tried on a sample of each tensor's entries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from merging.counts import Counts, counts_of
from merging.crew import breathe
from merging.groups import FEW, Group, Groups, of_some
from merging.lazy import torch
from merging.mapped import Drawn, Mapped
from merging.method import Blend, Method, accepted
from merging.samples import Sample, Stack

if TYPE_CHECKING:
    from torch import Tensor

CACHED = 1 << 17  # entries that a setting is tried on at a time; twice as fast as all of them at once
MAPPED = 1 << 14  # entries of a tensor up to which it is surveyed together with others
SEVERAL = 8  # kinds of surveys up to which that is quicker than one tensor after the other
Values = dict[str, Any]  # by argument name, of the experts that have a tensor


def tried(method: Method, values: Sequence[Values], overall: Values, seed: int, sample: Sample, experts: int) -> Counts:
    """What the method makes of the sample's entries; `values` are each tensor's, `overall` the model-wide survey's."""
    tensorwise = overall.get("scope") == "tensor"
    ready = _Ready(method, seed, sample)
    survey = None if tensorwise else _survey_of_all(ready, values, overall, sample)

    def shares(stack: Stack) -> Tensor:
        drawn = stack.uniforms(seed, sample.whole) if method.random else None
        known = [values[index] for index in stack.tensors]
        mine = of_some(survey, stack.which)
        if tensorwise or method.unit(2) > 1 or any(some is not known[0] for some in known):
            return _Apart(ready, stack, known, drawn, tensorwise, mine).shares()
        return _together(method, stack, known[0], mine, drawn)

    return counts_of(sample, shares, len(values), experts)


class _Ready:
    """Groups as the method's survey will see them."""

    def __init__(self, method: Method, seed: int, sample: Sample) -> None:
        self.method, self.seed = method, seed
        # A survey by kernels whose rounding is not torch's would be one entry off the shares, which are torch's.
        self.plain = not method.random and sum(stack.size for stack in sample.stacks) <= FEW

    def of(self, group: Group, values: Values, alone: bool = False) -> Group:
        """The group, weighed; `alone` as if there were no other experts."""
        ready = group.weighed(values["weight"])
        ready.unit, ready.seed, ready.plain = self.method.unit(group.row), self.seed, self.plain
        if alone:
            ready.which, ready.numbers = tuple(range(len(group.which))), group.which
        return ready


def _survey_of_all(ready: _Ready, values: Sequence[Values], overall: Values, sample: Sample) -> Any:
    """What the survey says of all tensors together, which is quicker where they can be laid end to end."""
    method, groups = ready.method, list[Group]()
    if not method.survey:
        return None
    for stack in sample.stacks:
        known = [values[index] for index in stack.tensors]
        weight = known[0]["weight"]
        if (
            method.unit(2) > 1
            or method.random
            or not all(some is known[0] or torch.equal(some["weight"], weight) for some in known)
        ):
            groups += [ready.of(*told) for told in zip(stack.groups, known, strict=True)]
        else:
            groups.append(ready.of(stack.joined, known[0]))
    return method.look(Groups.of(groups), overall)


def _together(method: Method, stack: Stack, values: Values, survey: Any, drawn: Tensor | None) -> Tensor:
    """The shares of a stack whose tensors are all merged by the same values and the same survey."""
    out = torch.empty_like(stack.tau)
    for start in range(0, stack.size, CACHED):
        breathe()
        some = slice(start, start + CACHED)
        asked = {**values, "base": stack.rows[0, some], "experts": stack.rows[1:, some], "survey": survey}
        out[:, some] = _shares(method, asked, None if drawn is None else drawn[:, some])
    return out


def _shares(method: Method, asked: Values, drawn: Tensor | None) -> Tensor:
    given = {**asked, "generator": Drawn(drawn)}
    outcome = method.function(**accepted(method.function, given))
    assert isinstance(outcome, Blend)
    return outcome.shares()


class _Apart:
    """A stack whose tensors differ in values or in surveys: torch maps over those that are alike but for numbers."""

    def __init__(
        self,
        ready: _Ready,
        stack: Stack,
        known: Sequence[Values],
        drawn: Tensor | None,
        tensorwise: bool,
        survey: Any,
    ) -> None:
        self.ready, self.method, self.stack, self.known = ready, ready.method, stack, known
        self.drawn, self.tensorwise, self.survey = drawn, tensorwise, survey
        self._all_told: dict[tuple[int, bool], Values] = {}  # the same for those with the same values

    def shares(self) -> Tensor:
        """The shares of each tensor by its own values, (experts, entries)."""
        out = torch.empty_like(self.stack.tau)
        for first, last, length, row in self.stack.alike:
            place = slice(int(self.stack.starts[first]), int(self.stack.starts[last]))
            rows, into, drawn = (
                None if table is None else table[:, place].reshape(-1, last - first, length)
                for table in (self.stack.rows, out, self.drawn)
            )
            assert rows is not None
            assert into is not None
            looked_at = self.tensorwise and length <= MAPPED and self._few(first, last)  # surveyed with the rest
            for fixed, moving, some in self._batches(first, last, max(1, CACHED // length), looked_at):
                breathe()
                given = {**fixed, "row": row, "looked_at": looked_at, "survey": self.survey}
                if self.tensorwise and not looked_at:
                    moving["survey"] = _stacked([self._look(first + index) for index in some])
                width = CACHED if self.method.unit(2) == 1 and not looked_at else length
                for start in range(0, length, width):
                    cut = slice(start, start + width)
                    entries = {"rows": rows[:, some, cut].transpose(0, 1)}
                    if drawn is not None:
                        entries["drawn"] = drawn[:, some, cut].transpose(0, 1)
                    into[:, some, cut] = torch.vmap(partial(self._one, given))({**moving, **entries}).transpose(0, 1)
        return out

    def _look(self, index: int) -> Any:
        """What the survey says of one tensor on its own."""
        known = self.known[index]
        return self.method.look(Groups.of([self.ready.of(self.stack.groups[index], known, alone=True)]), known)

    def _one(self, fixed: Values, varying: Values) -> Tensor:
        """The shares of one tensor, where torch maps over many."""
        asked, drawn = {**fixed, **varying}, varying.get("drawn")
        rows = asked["rows"]
        asked |= {"base": rows[0], "experts": rows[1:]}
        if fixed["looked_at"]:
            group = Mapped(rows, asked["row"], asked.get("weight"), drawn)
            asked["survey"] = self.method.look(group.alone(), asked)
        return _shares(self.method, asked, drawn)

    def _few(self, first: int, last: int) -> bool:
        """Whether the survey is told the same of many of these tensors."""
        told = {id(values): values for values in (self._told(index, True) for index in range(first, last))}
        return len({_words(values) for values in told.values()}) <= SEVERAL

    def _told(self, index: int, looked_at: bool) -> Values:
        """The values of a tensor that matter, those of the survey in the form of words, which must be the same."""
        values = self.known[index]
        if (id(values), looked_at) not in self._all_told:
            told = accepted(self.method.function, values)
            if looked_at and self.method.survey:
                of_survey = accepted(self.method.survey, values)
                told |= {name: _Word(value) for name, value in of_survey.items()} | {"weight": values["weight"]}
            self._all_told[id(values), looked_at] = told
        return self._all_told[id(values), looked_at]

    def _batches(self, first: int, last: int, most: int, looked_at: bool) -> list[tuple[Values, Values, list[int]]]:
        """Tensors that torch can map over: the values that are the same, those that are not, and which they are.

        Numbers, and one for each expert, may differ; words, switches and what a survey is told may not.
        """
        told = [self._told(index, looked_at) for index in range(first, last)]
        words = {id(values): _words(values) for values in told}
        alike: dict[Any, list[int]] = {}
        for index, values in enumerate(told):
            alike.setdefault(words[id(values)], []).append(index)
        batches = (some[at : at + most] for some in alike.values() for at in range(0, len(some), most))
        return [(*_parted([told[index] for index in some]), some) for some in batches]


class _Word:
    """A value that must be the same for all tensors over which torch maps."""

    def __init__(self, value: Any) -> None:
        self.value, self.text = value, str(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Word) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def _words(values: Values) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in values.items() if not _number(value))


def _parted(several: list[Values]) -> tuple[Values, Values]:
    """Values that are the same for all these tensors, and the others, with an axis for the tensors in front."""
    fixed: Values = {name: getattr(value, "value", value) for name, value in _words(several[0])}
    moving: Values = {}
    for name, first in several[0].items():
        numbers = [values[name] for values in several]
        if isinstance(first, float) and all(number == first for number in numbers):
            fixed[name] = first
        elif _number(first) and all(number is first for number in numbers):
            moving[name] = torch.as_tensor(first).float().expand(len(several), *torch.as_tensor(first).shape)
        elif _number(first):
            moving[name] = torch.stack([torch.as_tensor(number).float() for number in numbers])
    return fixed, moving


def _number(value: Any) -> bool:
    return isinstance(value, torch.Tensor | int | float) and not isinstance(value, bool)


def _stacked(surveys: Sequence[Any]) -> Any:
    """Surveys of several tensors as one, with an axis for these in front."""
    first = surveys[0]
    if isinstance(first, torch.Tensor):
        return torch.stack(list(surveys))
    if isinstance(first, tuple):
        return type(first)(*map(_stacked, zip(*surveys, strict=True)))
    return first
