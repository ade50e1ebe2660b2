"""`inspect`: what is in a model, from its headers alone; or how experts differ from it and from each other."""

from __future__ import annotations

import argparse
import json
from typing import Any

from merging.adapter import describe, is_adapter
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.cli.given import look_at
from merging.sizes import in_words
from merging.words import counted, listed


def run(options: argparse.Namespace) -> int:
    """Print the model's facts and a line for each tensor, or how experts differ from it; or all of it as JSON."""
    look_at([options.model, *options.experts])
    if options.experts:
        from merging.cli import compared

        found = compared.looked_at(options.model, options.experts)
        print(json.dumps(compared.content(found), indent=2) if options.json else "\n".join(compared.told(found)))
        return 0
    model = open_checkpoint(options.model)
    print(json.dumps(content(model), indent=2) if options.json else "\n".join(told(model)))
    return 0


def content(model: Checkpoint) -> dict[str, Any]:
    """Everything that headers and config tell of a model, fit for JSON."""
    return {
        "name": model.name,
        "path": str(model.path.absolute()),
        "architecture": model.architecture,
        "adapter": describe(model) if is_adapter(model) else None,
        "parameters": model.parameters,
        "bytes": model.bytes,
        "dtypes": model.dtypes,
        "tied": model.tied,
        "notes": list(model.notes),
        "tensors": [
            {"name": entry.name, "dtype": entry.dtype, "shape": list(entry.shape), "file": entry.file.name}
            for entry in model.entries.values()
        ],
    }


def told(model: Checkpoint) -> list[str]:
    """The same for people, one line each."""
    kind = describe(model) if is_adapter(model) else model.architecture or "architecture unknown: it has no config"
    tensors = counted(len(model.entries), "tensor")
    ties = ", embeddings tied" if model.tied else ""
    width = max(len(name) for name in model.entries)
    return [
        f"{model.name}: {kind}",
        f"{model.parameters:,} parameters in {tensors}, {listed(model.dtypes)}, {in_words(model.bytes)}{ties}",
        *(f"Note: {note}" for note in content(model)["notes"]),
        "",
        *(
            f"{entry.name:{width}}  {entry.dtype:4}  {' × '.join(map(str, entry.shape)) or 'a single number'}"
            for entry in model.entries.values()
        ),
    ]
