"""LoRA adapters in PEFT's format, read as the full models that they make of their base: W0 + s B A.

No dense copy is ever written: each run of entries is computed when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.checkpoint import Checkpoint, Made, open_checkpoint
from merging.errors import MergeError
from merging.header import read_json
from merging.renaming import matches, renamed, told

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
# What would change the arithmetic below. An adapter that has one of these set is refused by its name.
UNKNOWN = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "aLoRA",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "modules_to_save": "modules that were trained in full",
    "layer_replication": "replicated layers",
    "target_parameters": "targeted parameters",
    "trainable_token_indices": "trainable tokens",
    "lora_bias": "biases",
    "megatron_config": "a Megatron layout",
    "fan_in_fan_out": "transposed weights",
    "rank_pattern": "ranks that differ by layer",
    "alpha_pattern": "alphas that differ by layer",
}


@dataclass(frozen=True)
class Update:
    """One matrix of the base with what an adapter adds to it: scaling times the product of its two factors."""

    base: Checkpoint
    name: str
    factors: Checkpoint
    down: str  # A, (rank, columns)
    up: str  # B, (rows, rank)
    scaling: float

    @property
    def files(self) -> set[Path]:
        factors = self.factors
        return self.base.files_of(self.name) | factors.files_of(self.down) | factors.files_of(self.up)

    def read(self, start: int, stop: int) -> Tensor:
        """Entries of the sum, laid flat, in float32."""
        values = self.base.read(self.name, start, stop).float()
        if not len(values):
            return values
        columns, rank = self.base.entries[self.name].shape[1], self.factors.entries[self.down].shape[0]
        first, last = start // columns, (stop - 1) // columns + 1
        up = self.factors.read(self.up, first * rank, last * rank).reshape(-1, rank).float()
        product = (up @ self.factors.tensor(self.down).float()).flatten()[start - first * columns :]
        return values + self.scaling * product[: len(values)]


def open_base(path: str | Path) -> Checkpoint:
    """Open a model to build on, which an adapter is not."""
    model = open_checkpoint(path)
    if is_adapter(model):
        raise MergeError(f"{model.name} is a LoRA adapter, which has no weights to start from. Choose a full model.")
    return model


def open_expert(path: str | Path, base: Checkpoint) -> Checkpoint:
    """Open a model under the base's names, or an adapter as the model it makes of this base."""
    model = open_checkpoint(path)
    return applied(model, base) if is_adapter(model) else renamed(model, base)


def is_adapter(model: Checkpoint) -> bool:
    """Whether the checkpoint is an adapter's folder, and not a model of its own."""
    return model.path.is_dir() and (model.path / CONFIG).is_file()


def describe(adapter: Checkpoint) -> str:
    """The adapter's kind and rank, for a table."""
    config = read_json(adapter.path / CONFIG)
    kind = "LoRA" if config.get("peft_type") == "LORA" else config.get("peft_type", "adapter")
    return f"{kind}, rank {config.get('r', '?')}"


def applied(adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The base with the adapter added, as a checkpoint; MergeError when it cannot be added exactly."""
    config = read_json(adapter.path / CONFIG)
    rank, scaling = _scaling(adapter, config)
    updates = {}
    # A model built into a larger one has its own names, and the adapter may have been trained under others.
    weights = [_weight(name) for name in adapter.entries if name.endswith(".lora_A.weight")]
    new = matches(weights, base.entries)
    for name, down in adapter.entries.items():
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        if name.endswith(".lora_B.weight"):
            continue
        up = adapter.entries.get(name.replace(".lora_A.", ".lora_B."))
        target = base.entries.get(new.get(_weight(name), _weight(name)))
        if not name.endswith(".lora_A.weight") or up is None or not name.startswith(PREFIX):
            raise MergeError(f"{adapter.name} holds `{name}`, which no plain LoRA does. Merge it with PEFT first.")
        if target is None:
            raise MergeError(f"{adapter.name} changes `{module}.weight`, which {base.name} lacks. Choose its own base.")
        if len(target.shape) != 2 or down.shape != (rank, target.shape[1]) or up.shape != (target.shape[0], rank):
            raise MergeError(f"The factors of `{module}` in {adapter.name} do not fit {base.name}. Choose its base.")
        updates[target.name] = Update(base, target.name, adapter, down.name, up.name, scaling)
    notes = (*adapter.notes, told(new)) if new else adapter.notes
    made: dict[str, Made] = {**base.made, **updates}
    return replace(adapter, entries=base.entries, config=base.config, made=made, adapter=True, notes=notes)


def _weight(name: str) -> str:
    """The tensor of the base that a factor changes."""
    return name.removeprefix(PREFIX).removesuffix(".lora_A.weight") + ".weight"


def _scaling(adapter: Checkpoint, config: dict[str, Any]) -> tuple[int, float]:
    if config.get("peft_type") != "LORA":
        raise MergeError(f"{adapter.name} is a {config.get('peft_type')} adapter. Only LoRA adapters can be merged.")
    for key, words in UNKNOWN.items():
        if config.get(key):
            raise MergeError(f"{adapter.name} is an adapter with {words}. Merge it into its base with PEFT first.")
    start = config.get("init_lora_weights", True)
    if start not in (True, False, "gaussian", "eva"):  # PEFT changes the base's own weights for the others
        raise MergeError(f"{adapter.name} starts from `{start}`, which changes the base. Merge it with PEFT first.")
    if config.get("bias", "none") != "none":
        raise MergeError(f"{adapter.name} is an adapter with biases. Merge it into its base with PEFT first.")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise MergeError(f"{adapter.path / CONFIG} has no usable `r` and `lora_alpha`. Download it again.")
    return rank, alpha / (rank**0.5 if config.get("use_rslora") else rank)
