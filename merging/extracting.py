"""One extraction at work: which matrices get factors, what is kept in full, and what is left out."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from merging.adapter import PREFIX
from merging.adapter_folder import name_of, plain_config
from merging.errors import MergeError
from merging.fit import HEAD
from merging.groups import TILE
from merging.header import Entry, dtype_of
from merging.lazy import torch
from merging.low_rank import Loss, nearest, of_matrix, passes
from merging.making import Making
from merging.params import nearest as nearest_word
from merging.places import place
from merging.plan import Plan
from merging.progress import Progress, Step
from merging.stream import Span
from merging.vocabulary import worded

if TYPE_CHECKING:
    from torch import Tensor

# Matrices in layers that are looked up by rows, and multiply nothing.
TABLES = re.compile(r"embed|relative_attention_bias|position|wte|wpe")
TURNED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")  # whose layers store inputs by rows
LEFT = "left out of the adapter, which leaves the base's"


@dataclass(frozen=True)
class Wanted:
    """What an adapter will hold of a model: PEFT's names of it, by the base's."""

    rank: int
    factors: dict[str, tuple[str, str]]  # A and B
    whole: dict[str, tuple[str, ...]]  # an embedding that is also the head is stored as both
    turned: frozenset[str]  # the matrices that the base stores as inputs by outputs
    save: tuple[str, ...]

    def entries(self, work: Plan, dtype: str) -> list[Entry]:
        """The adapter's tensors, of a dtype."""
        found = []
        for name, (down, up) in self.factors.items():
            entry = work.base.entries[name]
            rows, columns = entry.shape[::-1] if name in self.turned else entry.shape
            rank = min(self.rank, rows, columns)
            found += [replace(entry, name=down, shape=(rank, columns), dtype=dtype)]
            found += [replace(entry, name=up, shape=(rows, rank), dtype=dtype)]
        whole = [(work.base.entries[name], key) for name, keys in self.whole.items() for key in keys]
        return found + [replace(entry, name=key, dtype=dtype) for entry, key in whole]

    def config(self, work: Plan) -> dict[str, Any]:
        """The config by which PEFT puts the adapter into the base."""
        modules = {name.removesuffix(".weight"): rank for name, rank in self.ranks(work).items()}
        task = "CAUSAL_LM" if "CausalLM" in work.base.architecture or "LMHead" in work.base.architecture else None
        biased = "all" if any(name.endswith(".bias") for name in self.whole if not _ends(name, self.save)) else "none"
        # By their whole names, for PEFT takes all modules whose names end alike: `norm` is every layer's, too.
        saved = sorted({name.rpartition(".")[0] for name in self.whole if _ends(name, self.save)})
        path = name_of(work.base)
        turned, tied = bool(self.turned), any(len(keys) > 1 for keys in self.whole.values())
        return plain_config(modules, task_type=task, base=path, turned=turned, saved=saved, bias=biased, tied=tied)

    def fates(self, work: Plan) -> dict[str, str]:
        """What becomes of every tensor of both models."""
        fates = {**work.fates, **dict.fromkeys([*work.merged, *work.copied], LEFT)}
        fates |= dict.fromkeys(self.whole, "kept in full")
        return fates | {name: f"extracted at rank {rank}" for name, rank in self.ranks(work).items()}

    def ranks(self, work: Plan) -> dict[str, int]:
        """The rank of each matrix's factors: none is larger than the matrix allows."""
        return {name: min(self.rank, *work.base.entries[name].shape) for name in self.factors}


def wanted(work: Plan, rank: int, modules: tuple[str, ...], save: tuple[str, ...], bias: bool) -> Wanted:
    """What an adapter of that rank can hold; MergeError where it is not what is asked for."""
    if type(rank) is not int or rank < 1:
        raise MergeError(f"The rank must be a whole number from 1 up, but it is {rank!r}.")
    names = [name for name in work.merged if _matrix(work, name) and not _ends(name, save)]
    kept = [name for name in work.merged if _ends(name, save)]
    for asked, there in ((modules, names), (save, list(work.merged))):
        known = sorted({name.split(".")[-2] for name in there if "." in name})
        for word in asked:
            if not any(_ends(name, (word,)) for name in there):
                raise MergeError(f"No module's name ends with `{word}`. {nearest_word(word, known)}")
    names = [name for name in names if not modules or _ends(name, modules)]
    if not names:
        raise MergeError(f"{work.base.name} has no matrices in layers, and only of these an adapter can be extracted.")
    inside = {name.removesuffix(".weight") for name in names}
    if bias:
        kept += [name for name in work.merged if name.endswith(".bias") and name not in kept]
    tied = work.base.tied and HEAD not in work.merged
    again = dict.fromkeys(worded(work.base), (PREFIX + HEAD,)) if tied else {}
    return Wanted(
        rank,
        {name: tuple(f"{PREFIX}{name.removesuffix('weight')}lora_{side}.weight" for side in "AB") for name in names},  # type: ignore[misc]
        {name: (f"{PREFIX}{_inside(name, inside)}", *again.get(name, ())) for name in kept},
        frozenset(name for name in names if work.base.config.get("model_type") in TURNED and name != HEAD),
        save,
    )


def _matrix(work: Plan, name: str) -> bool:
    """Whether a tensor is one that a layer multiplies by, or the head."""
    layered = place(name).layer is not None or name == HEAD
    return layered and name.endswith(".weight") and len(work.base.entries[name].shape) == 2 and not TABLES.search(name)


def _ends(name: str, words: tuple[str, ...]) -> bool:
    """Whether the name of a tensor's module ends with one of these."""
    module = name.rpartition(".")[0]
    return any(module == word or module.endswith(f".{word}") for word in words)


def _inside(name: str, factored: set[str]) -> str:
    module, _, kind = name.rpartition(".")
    return f"{module}.base_layer.{kind}" if module in factored else name


class Extracting:
    """Reads what a model changed, tensor by tensor, and writes it as an adapter holds it."""

    def __init__(
        self, work: Plan, names: Wanted, at: Making, on_step: Callable[[Step], None] | None, randomised: bool
    ) -> None:
        self.work, self.names, self.at, self.randomised = work, names, at, randomised
        again = {name: 0 if name in names.turned else self._passes(name) - 1 for name in names.factors}
        self.progress = Progress(work, {name: again.get(name, 0) for name in work.merged}, on_step)
        self.kept = 0  # tensors that an earlier run had finished
        self.rest: dict[str, float] = {}  # the squared norms of what is left out
        self.lock = threading.Lock()

    def _passes(self, name: str) -> int:
        rows, columns = self.work.base.entries[name].shape
        return passes((rows, columns), self.names.rank, self.randomised)

    def all(self) -> None:
        """Extract what an earlier run has not finished."""
        self.at.crew.run(self._one, list(self.work.merged))

    def _one(self, name: str) -> None:
        stored = self.names.factors.get(name) or self.names.whole.get(name, ())
        if stored and self.at.intact(stored):
            self.progress.skip(name, 1 + self.progress.passes[name])
            with self.lock:
                self.kept += 1
        elif name in self.names.factors:
            self._decompose(name, *self.names.factors[name])
        elif stored:
            self.progress.surveyed(name)
            self._keep(name, stored)
        else:
            self.progress.surveyed(name)
            moved = sum(float((values - base).double().square().sum()) for _, base, values in self._runs(name))
            with self.lock:
                self.rest[name] = moved

    def _decompose(self, name: str, down: str, up: str) -> None:
        rank, shape = self.at.output.placed[down].shape[0], self.work.base.entries[name].shape

        passes = 1 + self.progress.passes[name]

        def rows() -> Iterator[Tensor]:
            nonlocal passes
            passes -= 1
            if not passes:  # the last one
                self.progress.surveyed(name)
            yield from (values.sub_(base).view(-1, shape[1]) for _, base, values in self._runs(name, shape[1]))

        try:
            if name in self.names.turned:
                matrix = torch.cat([*rows()]).T.contiguous()
                factors, loss = of_matrix(matrix, rank, self.randomised)
            else:
                factors, loss = nearest(rows, (shape[0], shape[1]), rank, self.randomised)
        except torch.linalg.LinAlgError as error:
            words = f"`{name}` changed too much for its decomposition. Leave `--randomised` out, or leave it out"
            raise MergeError(f"{words} by `--modules`.") from error
        self.at.put(down, self._lowered(down, factors.down))
        self.at.put(up, self._lowered(up, factors.up), loss)

    def _keep(self, name: str, stored: tuple[str, ...]) -> None:
        entries = [self.at.output.placed[key] for key in stored]
        for start, _, values in self._runs(name):
            for entry in entries:
                self.at.output.write(entry, start, self._lowered(entry.name, values))
        for entry in entries:
            self.at.finish(entry.name, entry.size)

    def _runs(self, name: str, row: int = 1) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Runs of entries, whole rows of that length, of the base and of the expert, float32; and where each begins."""
        size, step = self.work.base.entries[name].size, max(1, TILE // row) * row
        for start in range(0, size, step):
            stop = min(start + step, size)
            self.at.crew.listen()
            self.progress.watch(Span(name, start, stop))
            pair = [model.read(name, start, stop).float() for model in (self.work.base, *self.work.experts)]
            for model, values in zip((self.work.base, *self.work.experts), pair, strict=True):
                if not values.isfinite().all():
                    self.at.place.spoiled = True
                    raise MergeError(f"`{name}` of {model.name} holds NaN or infinity. Choose another model.")
            yield start, pair[0], pair[1]

    def _lowered(self, stored: str, values: Tensor) -> Any:
        """Numbers in the dtype of the adapter, as bytes, (entries, bytes of one)."""
        lowered = values.to(dtype_of(self.at.output.placed[stored])).contiguous()
        if not lowered.isfinite().all():
            dtype = str(lowered.dtype).removeprefix("torch.")
            raise MergeError(f"`{stored}` is too large for {dtype}. Choose another dtype.")
        return lowered.view(torch.uint8).numpy().reshape(lowered.numel(), -1)


def left_out(work: Plan, losses: dict[str, Loss], rest: dict[str, float]) -> list[str]:
    """How much of the change is in tensors that the adapter does not hold, and where PEFT may not find its modules."""
    found = []
    if not any(rest.values()) and not any(loss.whole for loss in losses.values()):
        words = f"{work.experts[0].name} and {work.base.name} are the same in all that was read"
        found.append(f"{words}, so the adapter changes nothing. Were they meant to differ?")
    moved = {name: rest[name] for name in work.merged if rest.get(name, 0) > 0}  # in one order, whoever read them
    if moved:
        share = sum(moved.values()) / (sum(moved.values()) + sum(loss.whole for loss in losses.values()))
        most = max(moved, key=lambda name: moved[name])
        more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
        words = f"The adapter leaves out `{most}`{more}, with {share:.2%} of the squared norm of all changes"
        found.append(f"{words}. Modules that `--save` names are kept in full, and biases by `--bias`.")
    if all(place(name).tower == "" and re.match(r"(layers|layer|blocks|block|h)\.", name) for name in losses):
        words = f"The names in {work.base.name} begin with its layers, and transformers may put more in front"
        found.append(f"{words}: if PEFT finds no modules, save the base with transformers first.")
    return found
