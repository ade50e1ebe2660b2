"""`methods`: the merge methods, and what a recipe may say of each."""

from __future__ import annotations

import argparse
import json
import shutil
from functools import partial
from textwrap import wrap as wrapped
from typing import Any

from merging import manual, plain
from merging.kinds import KINDS, kind_of
from merging.method import ADAPTERS, METHODS, Method, find_method
from merging.params import Param
from merging.symbols import shared

WIDEST = 100  # columns
wrap = partial(wrapped, break_on_hyphens=False)
MORE = "`python -m merging methods NAME` tells all of one: its formula, its parameters, and when to use it."
HONEST = (
    "No method is the best one for all models, and none can promise to beat plain addition, `task_arithmetic`, least "
    "of all on adapters."
)


def run(options: argparse.Namespace) -> int:
    """Print an overview, or all that there is to know of the methods that are named; with --json all of every one."""
    methods = [find_method(name) for name in options.names or METHODS | ADAPTERS]
    width = min(shutil.get_terminal_size().columns, WIDEST)
    if options.json:
        print(json.dumps([content(method) for method in methods], indent=2, ensure_ascii=False))
    elif options.names:
        print("\n\n".join("\n".join(told(method, width)) for method in methods))
    else:
        print("\n".join(overview(methods, width)))
    return 0


def content(method: Method) -> dict[str, Any]:
    """A method and its parameters by recipe key, fit for JSON."""
    return {
        "name": method.name,
        "title": method.title,
        "kind": kind_of(method),
        "summary": method.summary,
        "use": method.use,
        "differs": method.differs,
        "formula": method.formula,
        "symbols": {symbol.sign: symbol.meaning for symbol in shared(method)},
        "where": method.where,
        "paper": method.paper,
        "result": "adapter" if method.ranks else "model" if method.collects else "model or adapter",
        "experts": {"least": method.experts[0], "most": method.experts[1]},
        "parameters": [_param(method, param) for param in method.params.values()],
    }


def _param(method: Method, param: Param) -> dict[str, Any]:
    """`low` and `high` are what the screen offers, `limits` what a recipe may say."""
    allowed: dict[str, Any] = {}
    if param.kind == "number":
        allowed = {"low": param.low, "high": param.high, "limits": param.limits or (param.low, param.high)}
    elif param.kind == "choice":
        allowed = {"choices": list(param.choices)}
    free = {"per_model": param.many, "for_all_models": not param.per_expert, "per_tensor": method.varies(param)}
    known = {"name": param.key, "label": param.label, "help": param.help, "kind": param.kind}
    return {**known, **allowed, "default": param.default, **free}


def overview(methods: list[Method], width: int) -> list[str]:
    """A line for each method, or two, by kind."""
    first = max(len(method.name) for method in methods) + 4
    lines = wrap(HONEST, width)
    for kind, words in KINDS.items():
        lines += ["", *wrap(f"{kind}. {words}", width)]
        for method in (method for method in methods if kind_of(method) == kind):
            head = f"  {method.name}".ljust(first)
            lines += wrap(f"{method.title}. {method.brief}", width, initial_indent=head, subsequent_indent=" " * first)
    return [*lines, "", *wrap(MORE, width)]


def told(method: Method, width: int) -> list[str]:
    """All that its page says, for people."""
    signs = [f"{plain.formula(symbol.sign)[0]} is {plain.words(symbol.meaning)}" for symbol in shared(method)]
    where = f"Here {'; '.join(signs)}. {plain.words(method.where)}".rstrip()
    lines = [f"{method.name}: {method.title}", *_indented(method.summary, width), f"  {method.paper}", ""]
    lines += [f"      {line}" for line in plain.formula(method.formula)] + ["", *_indented(where, width)]
    lines += ["", *_indented(f"Use it {method.use} {manual.limits(method)}", width)]
    if method.differs:
        lines += ["", *_indented(f"What differs from the released code. {method.differs}", width)]
    for param in (param for param in method.params.values() if not param.settled):
        lines += ["", f"  {param.key}: {_range(param)}"]
        free = manual.differs(method, param)
        words = f"{param.label}. {param.help}" + (f" May differ {free}." if free else "")
        lines += wrap(words, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines


def _indented(words: str, width: int) -> list[str]:
    return wrap(words, width, initial_indent="  ", subsequent_indent="  ")


def _range(param: Param) -> str:
    mine = ", one for each model" if param.per_expert else ""
    return f"{' | '.join(manual.allowed(param))}{mine}; by default {manual.default(param) or 'none'}"
