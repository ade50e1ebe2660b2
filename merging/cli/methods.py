"""`methods`: the merge methods, and what a recipe may say of each."""

from __future__ import annotations

import argparse
import json
import shutil
from textwrap import wrap
from typing import Any

from merging.method import METHODS, Method
from merging.params import Param


def run(options: argparse.Namespace) -> int:
    """Print all methods."""
    methods = METHODS.values()
    if options.json:
        print(json.dumps([content(method) for method in methods], indent=2, ensure_ascii=False))
    else:
        width = min(shutil.get_terminal_size().columns, 100)
        print("\n\n".join("\n".join(told(method, width)) for method in methods))
    return 0


def content(method: Method) -> dict[str, Any]:
    """A method and its parameters by recipe key, fit for JSON."""
    return {
        "name": method.name,
        "title": method.title,
        "summary": method.summary,
        "paper": method.paper,
        "parameters": [_param(param) for param in method.params.values()],
    }


def _param(param: Param) -> dict[str, Any]:
    allowed: dict[str, Any] = {}
    if param.kind == "number":
        allowed = {"low": param.low, "high": param.high}
    elif param.kind == "choice":
        allowed = {"choices": list(param.choices)}
    known = {"name": param.key, "label": param.label, "help": param.help, "kind": param.kind}
    return {**known, **allowed, "default": param.default, "per_model": param.per_expert}


def told(method: Method, width: int) -> list[str]:
    """The same for people."""
    lines = [f"{method.name}: {method.title}", *wrap(method.summary, width - 2), method.paper]
    for param in method.params.values():
        head = f"{param.key:<10} {_range(param)}. {param.help}"
        lines += wrap(head, width - 2, initial_indent="", subsequent_indent=" " * 11)
    return [lines[0], *(f"  {line}" for line in lines[1:])]


def _range(param: Param) -> str:
    if param.kind == "number":
        allowed = f"{param.low:g} to {param.high:g}{' per model' if param.per_expert else ''}"
        default = "none" if param.default is None else f"{param.default:g}"
    elif param.kind == "choice":
        allowed, default = " | ".join(param.choices), str(param.default)
    else:
        allowed, default = "true | false", str(param.default).lower()
    return f"{allowed}, default {default}"
