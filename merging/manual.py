"""What a method's declaration says in words: for the page of methods, and for `python -m merging methods`."""

from __future__ import annotations

from merging.method import Method
from merging.params import Param

COUNTS = {(1, 1): "It takes one expert.", (2, 2): "It takes two experts.", (2, None): "It takes two experts or more."}
VARIES = {"always": "by layer and name", "scope: tensor": "with `scope: tensor` by layer and name", "never": ""}


def limits(method: Method) -> str:
    """What it can be used for at all, in sentences; empty for a method of any number of models."""
    words = [
        COUNTS.get(method.experts, ""),
        "It makes an adapter of adapters, and nothing else." if method.ranks else "",
    ]
    return " ".join(filter(None, words))


def allowed(param: Param) -> list[str]:
    """The words that a parameter may be, or one phrase that tells its range."""
    if param.kind == "choice":
        return list(param.choices)
    if param.kind == "switch":
        return ["true", "false"]
    told = f"{param.low:g} to {param.high:g}"
    if param.limits and param.limits != (param.low, param.high):
        told += f"; in recipes {param.limits[0]:g} to {param.limits[1]:g}"
    return [told]


def default(param: Param) -> str:
    """The value that it has unless told; empty where that is another one each time."""
    if param.default is None:
        return ""
    return str(param.default).lower() if param.kind == "switch" else str(param.default)


def differs(method: Method, param: Param) -> str:
    """In what a recipe may give it another value; empty where it has one for everything."""
    return " and ".join(filter(None, ["by model" if param.many else "", VARIES[method.varies(param)]]))
