"""Quantised models, told by their tensors and their config, and refused by the name of their kind."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from merging.errors import MergeError
from merging.header import FP8, OTHERS
from merging.hub.names import hub_name

if TYPE_CHECKING:
    from merging.checkpoint import Checkpoint

# How each kind stores a weight: endings of names, and whether the tensor there must not be of floating point.
ENDINGS = {
    ".qzeros": "GPTQ or AWQ",
    ".qweight": "GPTQ or AWQ",
    ".quant_state.bitsandbytes__nf4": "bitsandbytes (4 bits)",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes (4 bits)",
    ".weight.absmax": "bitsandbytes (4 bits)",
    ".weight.quant_map": "bitsandbytes (4 bits)",
    ".SCB": "bitsandbytes (8 bits)",
    ".weight_format": "bitsandbytes (8 bits)",
    ".weight_scale_2": "NVFP4",
    ".weight_global_scale": "NVFP4",
    ".weight_packed": "compressed-tensors",
    ".weight_zero_point": "compressed-tensors",
    ".bitmask": "compressed-tensors (sparse)",
    ".W_q": "HQQ",
    ".codebooks": "AQLM",
    ".Qidxs": "QuIP#",
    ".q_weight": "EXL2",
    ".trellis": "EXL3",
    "_blocks": "MXFP4",
    "._data": "Quanto",
    "_qdata": "torchao",
}
NAMES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "torchao": "torchao",
    "hqq": "HQQ",
    "mxfp4": "MXFP4",
    "quanto": "Quanto",
    "aqlm": "AQLM",
    "eetq": "EETQ",
    "modelopt": "ModelOpt",
    "auto-round": "AutoRound",
    "vptq": "VPTQ",
    "higgs": "HIGGS",
    "spqr": "SpQR",
    "bitnet": "BitNet",
}
CARD_LIMIT = 1 << 20


def quantisation(config: dict[str, Any]) -> dict[str, Any]:
    """What a config says of how its model is quantised; empty where it says nothing."""
    for key in ("quantization_config", "compression_config", "quantization"):
        for told in (config, config.get("text_config")):
            found = told.get(key) if isinstance(told, dict) else None
            if isinstance(found, dict) and found:
                return found
    return {}


def refuse_quantised(model: Checkpoint) -> Checkpoint:
    """The same model; MergeError when its weights are quantised in a way that loses what they were."""
    kind, name = _kind(model)
    if not kind:
        return _said_only(model)
    base = _base(model)
    advice = f"Choose the model it was made from, {base}." if base else "Choose the unquantised model."
    raise MergeError(f"{model.name} is quantised with {kind} (`{name}`), so it cannot be merged. {advice}")


def _said_only(model: Checkpoint) -> Checkpoint:
    """The model, without the word of a config that was left behind when its weights were written in full."""
    method = quantisation(model.config).get("quant_method")
    if not method or method == "bitnet" or any(entry.dtype in FP8 for entry in model.entries.values()):
        return model  # BitNet's full weights are trained to be rounded, and are nothing without that word
    note = f"The config says {NAMES.get(str(method), method)}, but the weights are not quantised, so that was left out."
    return replace(without_quantisation(model), notes=(*model.notes, note))


def _kind(model: Checkpoint) -> tuple[str, str]:
    """What the model is quantised with, and a tensor that shows it."""
    told = quantisation(model.config)
    mlx = "MLX" if told and told is model.config.get("quantization") else ""
    method = told.get("quant_method") or told.get("quant_algo") or mlx
    named = NAMES.get(str(method).lower(), str(method))
    for name, entry in model.entries.items():
        if not name.endswith(tuple(ENDINGS)):
            continue
        shown = next(kind for ending, kind in ENDINGS.items() if name.endswith(ending))
        if shown in ("MXFP4", "Quanto", "torchao") and entry.floating:
            shown = ""  # an ordinary tensor whose name ends alike
        if shown:
            return _narrowed(shown, named, told), name
    turned = told.get("transform_config")
    if isinstance(turned, dict) and turned.get("config_groups"):
        return "compressed-tensors (rotated weights)", max(model.entries, key=lambda name: model.entries[name].size)
    packed = (name for name, entry in model.entries.items() if _packed(model, name))
    if name := next(packed, ""):
        return named or "integers", name
    return "", ""


def _packed(model: Checkpoint, name: str) -> bool:
    """Whether a tensor is a matrix of whole numbers that is a module's weight, or has a scale beside it."""
    entry = model.entries[name]
    if entry.dtype not in OTHERS or entry.dtype == "BOOL" or len(entry.shape) < 2:
        return False
    scales = (f"{name}_scale", f"{name}_scales", f"{name}_scale_inv", f"{name.removesuffix('.weight')}.scales")
    return name.endswith(".weight") or any(scale in model.entries for scale in scales)


def _narrowed(shown: str, named: str, told: dict[str, Any]) -> str:
    """The kind that the tensors show, in the words of the config where these say more."""
    if shown.startswith("bitsandbytes") or not named or shown in ("NVFP4", "MXFP4"):
        return shown
    bits = told.get("bits") or told.get("w_bit") or told.get("nbits")
    return f"{named} ({bits} bits)" if isinstance(bits, int) else named


def _base(model: Checkpoint) -> str:
    """The model that it says it was quantised from: by its card, or by its config."""
    card = model.folder / "README.md"
    try:
        with card.open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(CARD_LIMIT)
    except OSError:
        text = ""
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    found = re.search(r"^base_model:\s*(?:-\s*)?[\"']?(\S+?)[\"']?\s*$", front, re.MULTILINE)
    names = [found[1] if found else "", model.config.get("_name_or_path")]
    return next((name for name in names if isinstance(name, str) and hub_name(name)), "")


def without_quantisation(model: Checkpoint) -> Checkpoint:
    """The model with a config that says nothing of quantisation, as its tensors are read unquantised."""
    return replace(model, config=_plain(model.config))


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in config.items() if key not in ("quantization_config", "compression_config")}
    for key in ("dtype", "torch_dtype"):
        if "float8" in str(plain.get(key)):
            plain[key] = "bfloat16"
    return {key: _plain(value) if isinstance(value, dict) else value for key, value in plain.items()}
