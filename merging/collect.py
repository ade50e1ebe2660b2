"""Statistics of a model from running it over text: its Fisher information, and what goes into its linear layers.

Needs transformers, which is imported when it is used; no code that comes with a model is ever run.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from merging.adapter import is_adapter, open_base, open_expert
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.collected import FISHER, INPUTS, beside
from merging.earlier import earlier
from merging.enough import Statistics, few
from merging.errors import MergeError, MergeStopped
from merging.generate import free_memory
from merging.groups import TILE
from merging.header import Entry
from merging.lazy import torch
from merging.loading import load
from merging.output import Output, examine, lay_out
from merging.params import nearest
from merging.progress import Step
from merging.sample import Sample, found, sample
from merging.sizes import in_words

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("fisher", "inputs")
MEMORY = 2_000_000_000  # bytes of inner products that are summed up at a time; the text is run again for others


def collect(
    model: str | Path,
    text: str | Path,
    *,
    base: str | Path | None = None,
    kinds: tuple[str, ...] = KINDS,
    tokens: int = 100_000,
    length: int = 256,
    memory: int = MEMORY,
    on_step: Callable[[Step], None] | None = None,
    stop: threading.Event | None = None,
) -> Statistics:
    """Run a model over a text and write its statistics beside it.

    `base` gives config and tokenizer to a model without, and is what an adapter is added to. At most `tokens` are read,
    in blocks of `length`. Fisher information is the mean over the blocks of the squared gradient of a block's
    log-likelihood; inputs are the inner products of what goes into each linear layer, per token. What is there of the
    other kind stays. MergeError when there is something against it, MergeStopped when it was stopped.
    """
    if unknown := next((kind for kind in kinds if kind not in KINDS), ""):
        raise MergeError(f"There is nothing to collect that is called `{unknown}`. {nearest(unknown, list(KINDS))}")
    if base is None and is_adapter(open_checkpoint(model)):
        raise MergeError(f"{model} is a LoRA adapter, which is run on its base. Name that, too: --base MODEL.")
    ground = open_base(model if base is None else base)
    checkpoint = open_expert(model, ground)
    target, file = beside(model), found(Path(text).expanduser())
    before = earlier(target, kinds)
    _fits(checkpoint, kinds, memory)
    loaded = load(checkpoint, ground, 4 * checkpoint.parameters)
    net = loaded.model.float()
    longest = _longest(net, length)
    known = sample(loaded.tokenizer, file, tokens, min(length, longest))
    layers = _layers(net) if "inputs" in kinds else {}
    weights = dict(net.named_parameters()) if "fisher" in kinds else {}
    entries = [_entry(INPUTS + name, (layer.in_features,) * 2) for name, layer in layers.items()]
    entries += [_entry(FISHER + name, tuple(weight.shape)) for name, weight in weights.items()]
    entries += before.entries
    rounds = list(_rounds(layers, memory))
    tell = _Counter(len(known.blocks) * (len(rounds) + bool(weights)), on_step, stop)
    ran = {"tokens": str(known.tokens), "digest": known.digest}
    story = {"model": checkpoint.name, **before.story, **dict.fromkeys(kinds, ran)}
    with _written(target, entries, story) as put:
        for some in rounds:
            for name, products in _inputs(net, some, known, tell).items():
                put(INPUTS + name, products)
        for name, information in _fisher(net, weights, known, tell).items():
            put(FISHER + name, information)
        for entry in before.entries:
            put(entry.name, entry.read(0, entry.size))
    cut = f"{checkpoint.name} takes {longest:,} tokens at a time, so its blocks are of these, and not of {length:,}."
    warnings = (
        *([cut] if length > longest else []),
        *few(known, kinds, [layer.in_features for layer in layers.values()]),
    )
    return Statistics(target, known.tokens, len(known.blocks), before.kept, before.replaced, warnings)


def _fits(model: Checkpoint, kinds: tuple[str, ...], memory: int) -> None:
    squares = sum(4 * entry.shape[1] ** 2 for entry in model.entries.values() if len(entry.shape) == 2)
    # Information takes the model, its gradient and the sum; inputs take the model and what is summed up at a time.
    needed = 4 * model.parameters * (3 if "fisher" in kinds else 1)
    needed = max(needed, 4 * model.parameters + min(memory, squares)) if "inputs" in kinds else needed
    if needed > (free := free_memory()):
        words = f"Collecting {' and '.join(kinds)} of {model.name} takes {in_words(needed)} of memory, and "
        less = "Collect only `inputs`, which takes less" if "fisher" in kinds else "Allow inner products less of it"
        raise MergeError(f"{words}{in_words(free)} are free. {less}, or close other programs.")


def _longest(net: Any, length: int) -> int:
    return int(getattr(net.config, "max_position_embeddings", 0) or length)


def _layers(net: Any) -> dict[str, Any]:
    """The linear layers by the names of their weights, but for a head that is the embedding."""
    embedding = net.get_input_embeddings().weight
    named = ((f"{name}.weight", module) for name, module in net.named_modules() if type(module) is torch.nn.Linear)
    return {name: module for name, module in named if module.weight is not embedding}


def _rounds(layers: dict[str, Any], memory: int) -> Iterator[dict[str, Any]]:
    """The layers in groups whose inner products fit the memory, each at least alone."""
    some: dict[str, Any] = {}
    filled = 0
    for name, layer in layers.items():
        size = 4 * layer.in_features**2
        if some and filled + size > memory:
            yield some
            some, filled = {}, 0
        some[name] = layer
        filled += size
    if some:
        yield some


def _inputs(net: Any, layers: dict[str, Any], known: Sample, tell: Callable[[str], None]) -> dict[str, Tensor]:
    """The inner products of what goes into these layers, (columns, columns) each, divided by the number of tokens."""
    sums = {name: torch.zeros(layer.in_features, layer.in_features) for name, layer in layers.items()}

    def watch(name: str) -> Callable[..., None]:
        def look(_: Any, given: tuple[Tensor, ...]) -> None:
            rows = given[0].detach().reshape(-1, given[0].shape[-1])
            sums[name].addmm_(rows.T, rows)

        return look

    watched = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            for block in known.blocks:
                tell("Reading inputs")
                net(input_ids=block[None], use_cache=False)
    finally:
        for handle in watched:
            handle.remove()
    return {name: products.div_(known.tokens) for name, products in sums.items()}


def _fisher(net: Any, weights: dict[str, Any], known: Sample, tell: Callable[[str], None]) -> dict[str, Tensor]:
    """The mean over the blocks of the squared gradient of a block's log-likelihood, by the names of the weights."""
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for block in known.blocks if weights else ():
        tell("Reading gradients")
        logits = net(input_ids=block[None], use_cache=False).logits[0, :-1]
        surprise = torch.nn.functional.cross_entropy(logits.float(), block[1:], reduction="sum")
        net.zero_grad(set_to_none=True)
        surprise.backward()
        for name, weight in weights.items():
            if weight.grad is not None:
                sums[name].addcmul_(weight.grad, weight.grad)
    net.zero_grad(set_to_none=True)
    return {name: total.div_(len(known.blocks)) for name, total in sums.items()}


class _Counter:
    """Counts the blocks as they are run, and hears a stop before each."""

    def __init__(self, total: int, on_step: Callable[[Step], None] | None, stop: threading.Event | None) -> None:
        self.done, self.total, self.on_step, self.stop = 0, total, on_step, stop

    def __call__(self, stage: str) -> None:
        if self.stop and self.stop.is_set():
            raise MergeStopped("Stopped. Nothing was written.")
        if self.on_step:
            self.on_step(Step(self.done, self.total, "", self.done, self.total, stage))
        self.done += 1


@contextmanager
def _written(target: Path, entries: list[Entry], story: dict[str, Any]) -> Iterator[Callable[[str, Tensor], None]]:
    """What takes the tensors of a file that is there when all of it is: written next to its place, and then renamed."""
    with ExitStack() as stack:
        metadata = {"mergescope": json.dumps(story)}
        try:
            folder = Path(mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            placed = lay_out(folder, entries, sum(entry.bytes for entry in entries), metadata)
        except OSError as error:
            words = f"The statistics cannot be written to {target.parent} ({error.strerror})"
            raise MergeError(f"{words}. Make room there, or copy the model to where there is some.") from error
        with closing(Output(placed)) as output:
            yield partial(_put, output)
            examine(placed)
        (folder / "model.safetensors").replace(target)


def _put(output: Output, name: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise MergeError(
            f"The statistics `{name}` hold NaN or infinity: the model overflows. Choose another model or text."
        )
    for number, tile in enumerate(values.contiguous().reshape(-1).split(TILE)):
        output.write(output.placed[name], number * TILE, tile.view(torch.uint8).numpy())


def _entry(name: str, shape: tuple[int, ...]) -> Entry:
    return Entry(name, "F32", shape, Path(), 0)
