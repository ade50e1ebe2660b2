"""Predicts what a merge will do from what a comparison holds in memory, without reading a weight."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, Any

from merging import counts as counting
from merging import known, tried, wholes
from merging.compare import Comparison, Probe
from merging.crew import breathe, one_thread
from merging.errors import MergeError
from merging.lazy import torch
from merging.pace import Pace
from merging.passes import of_those
from merging.predictions import TABLES, Prediction
from merging.recent import Recent
from merging.samples import Sample, Stack, thinned
from merging.settings import Settings, depths

if TYPE_CHECKING:
    from torch import Tensor

    from merging.groups import Group

QUICK = 1 << 19  # numbers that a setting is tried on while a slider moves, before it is known how long that takes
SURVEYS = 8  # settings by which tensors were surveyed, each for itself, of which that is kept
KEPT = 1 << 22  # numbers of a sample that is kept for the next time
COUNTED = 256  # counts that are kept: of each choice of experts, for a moving slider and for one at rest
BROKEN = "holds NaN or infinity, so the merge will be refused"
STILL = "none of the entries looked at moved"


class Predictor:
    """Predicts merges of the models of one comparison, and remembers how many entries each method can try in time."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.sizes = torch.tensor([math.prod(shape) for shape in comparison.shapes], dtype=torch.float64)
        self.broken = (comparison.has & comparison.norms.isnan()).any(1) | comparison.base_norms.isnan()
        self.groups = self._sound(comparison.probe)
        self.at_hand = sum(group.size for group in self.groups.values())
        self.soonest = QUICK // (1 + len(comparison.experts))
        self.pace = Pace(self.soonest, self.at_hand)
        self._samples: dict[tuple[int, bool], Sample] = {}
        self._counts: dict[Any, tuple[counting.Counts, float]] = {}  # by how many entries, and which experts enter
        self._surveys = Recent[Any](SURVEYS * len(comparison.names))
        self._depths = depths(comparison.names), depths(comparison.names, lone=0.0)

    def predict(self, settings: Settings, quick: bool = False) -> Prediction:
        """What a merge by these settings will do.

        `quick` keeps up with a moving slider: a method that decides entry by entry is tried on as many entries as take
        40 ms, and whole matrices are not worked out. MergeError says what is wrong with the settings.
        """
        method, why = settings.method, dict[int, str]()
        self._check(settings)
        values = self._values(settings, why)
        if method.entrywise:
            return self._tried(settings, values, quick, why)
        _, depth = self._depths
        with one_thread():
            found = known.coefficients(
                method,
                values,
                [depth[name] for name in self.comparison.names],
                settings.with_base,
                self.comparison,
                self._surveys,
            )
            norms = known.lengths(found.steps, self.comparison.products)
        return self._known(settings, found, norms, quick, {**why, **found.why})

    def _check(self, settings: Settings) -> None:
        method, experts = settings.method, len(self.comparison.experts)
        if len(settings.experts) != experts:
            raise MergeError(f"There are {experts} experts, and settings for {len(settings.experts)}. Compare again.")
        if words := self.comparison.obstacles.get(settings.fixed.get("lora", "")):
            raise MergeError(words)
        if method.collects:
            raise MergeError(f"{method.title} weighs by statistics of the experts, which are read when it merges.")

    def _values(self, settings: Settings, why: dict[int, str]) -> list[dict[str, Any]]:
        """The values of each tensor, the same object for those with the same ones; none where it will not be merged."""
        depth, made, found = self._depths[0], dict[Any, dict[str, Any]](), list[dict[str, Any]]()
        for index, (name, has) in enumerate(zip(self.comparison.names, self.comparison.has.tolist(), strict=True)):
            which = tuple(expert for expert, there in enumerate(has) if there)
            if words := BROKEN if self.broken[index] else settings.method.miscounted(len(which)):
                why[index] = words
                found.append({})
                continue
            mine = settings.fixed if settings.constant else settings.of(name, depth[name])
            told = () if settings.constant else tuple(tuple(v) if isinstance(v, list) else v for v in mine.values())
            if (which, told) not in made:
                made[which, told] = of_those(settings, mine, which)
            found.append(made[which, told])
        return found

    def _sound(self, probe: Probe) -> dict[int, Group]:
        """What is at hand of the tensors that can be merged, by their numbers."""
        groups = enumerate(probe.groups)
        return {index: group for index, group in groups if group.size and not self.broken[index]}

    def _sample(self, wanted: int, rows: bool = False) -> Sample:
        """About so many of the entries at hand; those of whole rows where a method looks at rows."""
        wanted = min(wanted, self.at_hand)
        if found := self._samples.get((wanted, rows)):
            return found
        probe = self.comparison.probe
        if rows and not probe.exact and self.comparison.rows.groups:
            probe = self.comparison.rows.thinned(wanted, rows=True)
            sample = Sample(self._sound(probe), probe.share)
        else:
            sample = thinned(self.groups, probe.share, wanted)
        if sample.numbers <= KEPT:  # rows are whole, so that it may be more than was wanted
            self._samples[wanted, rows] = sample
        return sample

    def _tried(self, settings: Settings, values: list[dict[str, Any]], quick: bool, why: dict[int, str]) -> Prediction:
        """What a method does that decides entry by entry, on a sample."""
        method, comparison = settings.method, self.comparison
        overall = method.filled(settings.fixed, len(comparison.experts))
        kind = method.name, overall.get("scope"), settings.constant
        sample = self._sample(self.pace.room(kind) if quick else self.at_hand, method.unit(2) > 1)
        groups = {index for stack in sample.stacks for index in stack.tensors}
        nothing = not comparison.has[sorted(groups)].any(0).all()  # an expert of which nothing is finite: no merge
        if nothing or any(not values[index] for index in groups):
            return self._prediction(settings, why, 1.0, frozenset())
        start = perf_counter()
        counts = tried.tried(method, values, overall, settings.seed, sample, len(comparison.experts))
        if quick:
            self.pace.took(kind, perf_counter() - start)
        moved, squares = counts.squares.sum(1), comparison.norms.nan_to_num().square().sum(1)
        scale = torch.where(moved > 0, squares / moved, torch.where(squares > 0, torch.nan, 0.0))
        for index in (scale.isnan() & ~self.broken).nonzero().flatten().tolist():
            why[index] = STILL
        return self._prediction(
            settings,
            why,
            sample.share,
            frozenset(TABLES) if sample.whole else frozenset(),
            weights=_ratio(counts.pushed, counts.sizes),
            kept=_ratio(counts.kept, counts.moved),
            decided=_ratio(counts.decided, counts.entries[:, None]),
            norms=(counts.steps * scale).sqrt(),
            moved=_scaled(counts, self.sizes),
        )

    def _known(
        self, settings: Settings, found: known.Coefficients, norms: Tensor, quick: bool, why: dict[int, str]
    ) -> Prediction:
        """What a method does that has one number per expert and tensor, or makes a tensor as a whole."""
        comparison = self.comparison
        wanted = self.soonest if quick else self.at_hand
        moves = comparison.norms > 0
        if quick:
            why |= dict.fromkeys(found.wholes, wholes.LATER)
        else:
            for index, norm, words in wholes.lengths(found.wholes, self.groups, comparison.shapes, settings.with_base):
                norms[index], why[index] = norm, words
        counts, share = self._entered(wanted, (True,) * comparison.norms.shape[1])
        exact = {"weights", "kept"} | ({"decided"} if share == 1 else set())
        if not (quick and found.wholes):
            exact |= {"norms", "relative", "against"}
        enters = found.weights.nan_to_num() != 0
        decided = torch.zeros(len(enters), 3, dtype=torch.float64)
        for some in enters.unique(dim=0):
            rows = (enters == some).all(1)
            decided[rows] = self._entered(wanted, tuple(some.tolist()))[0].decided[rows]
        decided = _ratio(decided, counts.entries[:, None])
        decided[found.weights.isnan().all(1)] = torch.nan
        return self._prediction(
            settings,
            why,
            share,
            frozenset(exact),
            weights=found.weights,
            kept=torch.where(moves & ~found.weights.isnan(), enters.double(), torch.nan),
            decided=decided,
            norms=norms,
            moved=_scaled(counts, self.sizes),
        )

    def _entered(self, wanted: int, enters: tuple[bool, ...]) -> tuple[counting.Counts, float]:
        """The counts of about so many entries where these experts enter with all of theirs, and the sample's share."""
        known = self._counts.get((wanted, enters))
        if known:
            return known

        def shares(stack: Stack) -> Tensor:
            breathe()
            mine = torch.tensor([float(enters[index]) for index in stack.which])
            return stack.tau * mine[:, None]

        sample = self._sample(wanted)
        found = counting.counts_of(sample, shares, len(self.sizes), len(enters)), sample.share
        if len(self._counts) < COUNTED:
            self._counts[wanted, enters] = found
        return found

    def _prediction(
        self, settings: Settings, why: dict[int, str], share: float, exact: frozenset[str], **tables: Tensor
    ) -> Prediction:
        """The prediction with these tables, and nothing known of the others."""
        comparison = self.comparison
        shape = comparison.norms.shape
        nothing = {name: torch.full(shape, torch.nan, dtype=torch.float64) for name in ("weights", "kept")}
        nothing |= {"norms": nothing["kept"][:, 0], "decided": nothing["kept"][:, :1].expand(-1, 3)}
        return Prediction(
            label=settings.method.title,
            names=comparison.names,
            experts=comparison.experts,
            base_norms=comparison.base_norms,
            expert_norms=comparison.norms.nan_to_num(),
            sizes=self.sizes,
            entrywise=settings.method.entrywise,
            share=share,
            exact=exact,
            why=why,
            **{**nothing, "moved": torch.zeros(shape, dtype=torch.float64), **tables},
        )


def predict(settings: Settings, comparison: Comparison) -> Prediction:
    """What a merge by these settings will do, from all that the comparison holds. See `Predictor.predict`."""
    return Predictor(comparison).predict(settings)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.nan)


def _scaled(counts: counting.Counts, sizes: Tensor) -> Tensor:
    """The number of entries that each expert moved, (tensors, experts), by their share among those looked at."""
    return counts.moved / counts.entries.clamp(min=1)[:, None] * sizes[:, None]
