"""One number for each tensor, said as a recipe says it: by few filters and gradients in place of many names.

Of two ways the shorter one is taken: filters put before the rules that were there, or all written anew. Either starts
from what is said of all tensors, and puts before it, again and again, the filter that sets most tensors right for what
it takes to write it. What a filter matches is looked up in all names, so `layers.1` never stands for `layers.10`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from merging.places import place
from merging.rules import MISSING, Rule, Rules, value_for

MOSTLY = 0.8  # the share of a filter's tensors that a gradient must fit


def shortest(wanted: dict[str, float], depth: dict[str, float], start: Rules = ()) -> Rules:
    """Rules by which each of these tensors has the wanted number, to float32.

    `depth` is each tensor's, from 0 to 1, as `settings.depths` gives it; `start` are rules of most of these numbers.
    """
    return _shortest(tuple(wanted), tuple(wanted.values()), tuple(depth[name] for name in wanted), start)


@lru_cache(64)
def _shortest(names: tuple[str, ...], values: tuple[float, ...], depths: tuple[float, ...], start: Rules) -> Rules:
    wanted, depth = dict(zip(names, values, strict=True)), dict(zip(names, depths, strict=True))
    kept = _completed(start, wanted, depth) if start else ()
    if start and len(kept) == len(start):
        return kept
    fresh = _completed((), wanted, depth)
    return min((kept, fresh), key=_length) if start else fresh


def same(one: float, other: float) -> bool:
    """Whether two numbers are the same in a merge: but for the rounding of a gradient, which float32 does not see."""
    return one == other or (math.isclose(one, other, rel_tol=1e-11) and np.float32(one) == np.float32(other))


def _length(rules: Rules) -> int:
    return sum(1 + len(rule.anchors) for rule in rules)


def _completed(start: Rules, wanted: dict[str, float], depth: dict[str, float]) -> Rules:
    """The rules with others before them, so that all is as wanted."""
    table = _Table(wanted, depth, start)
    if not start:
        table.put(_best(table, tuple(wanted), "").rule)
    while table.wrong and table.improved():
        pass
    table.spell_out()
    return table.used(len(start))


class _Table:
    """What rules give each tensor, and which of that is not what is wanted."""

    def __init__(self, wanted: dict[str, float], depth: dict[str, float], rules: Rules) -> None:
        self.wanted, self.depth, self.rules = wanted, depth, rules
        self.wrong = {name for name in wanted if not self.right(name, value_for(rules, name, depth[name]))}

    def right(self, name: str, value: object) -> bool:
        return value is not MISSING and isinstance(value, float) and same(value, self.wanted[name])

    def put(self, rule: Rule) -> None:
        """A rule before all others."""
        self.rules = (rule, *self.rules)
        for name in self.wanted:
            if rule.filter in name:
                fits = self.right(name, rule.at(self.depth[name]))
                (self.wrong.discard if fits else self.wrong.add)(name)

    def improved(self) -> bool:
        """Whether there were filters that set more right than wrong; those that do not touch each other are put."""
        names = tuple(self.wanted)
        candidates = _candidates(names)
        near = sorted({number for name in self.wrong for number in candidates.of[name]})
        best = ((_best(self, candidates.sets[number].names, ""), candidates.sets[number]) for number in near)
        useful = [(fit, matched) for fit, matched in best if fit.score > 0]
        useful.sort(key=lambda one: (-one[0].score, len(one[1].names), one[1].words))
        touched, chosen = set[str](), list[tuple[int, Rule]]()
        for fit, matched in useful:
            if not touched.isdisjoint(matched.names):  # a part of it may do better once what it meets is settled
                touched |= self.wrong.intersection(matched.names)
            elif word := _exact(matched, names):
                chosen.append((names.index(matched.names[0]), Rule(word, fit.rule.anchors)))
                touched.update(matched.names)
        for _, rule in sorted(chosen, key=lambda one: one[0], reverse=True):  # as the model is read
            self.put(rule)
        return bool(chosen)

    def spell_out(self) -> None:
        """Name what is still wrong, and what these names are a part of: the longest names go before the others."""
        told = {name for name in self.wanted if any(wrong in name for wrong in self.wrong)}
        for name in sorted(told, key=len):
            self.put(Rule(name, (self.wanted[name],)))

    def used(self, kept: int) -> Rules:
        """The rules without those, but for the last `kept`, that no tensor goes by."""
        first = {next(i for i, rule in enumerate(self.rules) if rule.filter in name) for name in self.wanted}
        last = len(self.rules) - max(kept, 1)
        return tuple(rule for number, rule in enumerate(self.rules) if number in first or number >= last)


class _Fit(NamedTuple):
    """A rule for some tensors, and how many more it sets right than wrong for each number in it."""

    rule: Rule
    score: float


def _best(table: _Table, names: tuple[str, ...], word: str) -> _Fit:
    """The best rule that these tensors may have: one number, a gradient's two ends, or a number for each layer."""
    wanted = Counter(table.wanted[name] for name in names)
    lacking = Counter(table.wanted[name] for name in names if name in table.wrong)
    before, [(value, _)] = len(names) - lacking.total(), lacking.most_common(1)
    best = _Fit(Rule(word, (value,)), (wanted[value] - before) / 2)
    for anchors in _gradients(table, names) if len(lacking) > 1 else ():
        if lacking.total() / (1 + len(anchors)) > best.score:  # so it may be better
            rule = Rule(word, anchors)
            right = sum(table.right(name, rule.at(table.depth[name])) for name in names)
            if right >= MOSTLY * len(names):
                best = max(best, _Fit(rule, (right - before) / (1 + len(anchors))), key=lambda fit: fit.score)
    return best


def _gradients(table: _Table, names: tuple[str, ...]) -> Iterator[tuple[float, ...]]:
    """The anchors that the first and the last layer's numbers may be, and those that each layer's are."""
    by_layer: dict[int, list[str]] = {}
    for name in names:
        if (layer := place(name).layer) is not None:
            by_layer.setdefault(layer, []).append(name)
    lasts = {round(layer / table.depth[name]) for layer, some in by_layer.items() for name in some if layer}
    if len(by_layer) < 2 or len(lasts) > 1:  # or of towers that are not of one height
        return
    known = {
        layer: Counter(table.wanted[name] for name in some).most_common(1)[0][0] for layer, some in by_layer.items()
    }
    first, last = min(known), lasts.pop()
    if first == 0 and last in known:
        yield known[0], known[last]
    if len(known) > 2:
        value = known[first]
        yield tuple(value := known.get(layer, value) for layer in range(last + 1))


class _Matched(NamedTuple):
    """Tensors, and the words between dots that are in their names and in no others', the shortest first."""

    words: tuple[str, ...]
    names: tuple[str, ...]


class _Candidates:
    """What filters may match: `layers.3.`, `mlp.`, `layers.3.mlp.`, and so on; and for each name, which of them do."""

    def __init__(self, names: tuple[str, ...]) -> None:
        found: dict[str, list[str]] = {}
        for name in names:
            for run in _runs(name):
                found.setdefault(run, []).append(name)
        alike: dict[tuple[str, ...], list[str]] = {}
        for run, matched in found.items():
            alike.setdefault(tuple(matched), []).append(run)
        self.sets = [_Matched(tuple(sorted(runs, key=_reading)), matched) for matched, runs in alike.items()]
        self.of: dict[str, list[int]] = {name: [] for name in names}
        for number, one in enumerate(self.sets):
            for name in one.names:
                self.of[name].append(number)


@lru_cache(4)
def _candidates(names: tuple[str, ...]) -> _Candidates:
    return _Candidates(names)


def _reading(run: str) -> tuple[int, int, str]:
    """What filters are sorted by: words, then letters."""
    return run.strip(".").count("."), len(run), run


@lru_cache(1 << 12)
def _exact(matched: _Matched, names: tuple[str, ...]) -> str:
    """The first word that is in these names and, also across dots, in no others; empty if there is none."""
    return next((word for word in matched.words if sum(word in name for name in names) == len(matched.names)), "")


def _runs(name: str) -> set[str]:
    """The name's parts between dots, and what follows each other of them; none that begins with a number."""
    parts = name.split(".")
    ends = range(1, len(parts) + 1)
    runs = [(start, end) for end in ends for start in range(end) if not parts[start].isdecimal()]
    return {".".join(parts[start:end]) + ("." if end < len(parts) else "") for start, end in runs} - {"", "."}
