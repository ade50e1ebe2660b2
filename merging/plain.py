r"""Formulas and Markdown for a terminal, which has no LaTeX: `\tau_i` is τᵢ there."""

from __future__ import annotations

import re
from unicodedata import normalize

_SIGNS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "epsilon": "ε", "eta": "η", "theta": "θ", "kappa": "κ", "lambda": "λ",
    "rho": "ρ", "sigma": "σ", "tau": "τ", "ell": "ℓ", "Sigma": "Σ", "Omega": "Ω",
    "sum": " ∑", "odot": "⊙", "top": "ᵀ", "perp": "⊥", "approx": "≈", "sim": "~", "ge": "≥", "le": "≤",
    "in": "∈", "dots": "…", "lVert": "‖", "rVert": "‖", "langle": "⟨", "rangle": "⟩", "lfloor": "⌊", "rfloor": "⌋",
    "{": "{", "}": "}", "quad": "  ", "qquad": "\n", ",": " ", " ": " ", "!": "", "\\": "\n",
    "big": "", "Big": "", "textstyle": "",
}  # fmt: skip
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "overline": "\u0304"}
_OPENING, _ROOM = ("lVert", "langle", "lfloor"), (" ", "\\!", "\\big", "\\Big")
_LOW = str.maketrans("0123456789ij", "₀₁₂₃₄₅₆₇₈₉ᵢⱼ")
_TOKEN = re.compile(r"\\(?:[a-zA-Z]+|.)|.", re.DOTALL)


def formula(latex: str) -> list[str]:
    """The lines of a formula in LaTeX, one for each equation."""
    lines = [_close(" ".join(line.split())) for line in _said(_TOKEN.findall(latex)).split("\n")]
    return [line for line in lines if line]


def _close(line: str) -> str:
    """The line without room inside of its brackets, and before commas."""
    return normalize("NFC", re.sub(r" ([)\]}⟩⌋,]|‖_)", r"\1", re.sub(r"([(\[{⟨⌊]) ", r"\1", line)))


def words(markdown: str) -> str:
    """A sentence, with the LaTeX between $ in signs."""
    return re.sub(r"\$([^$]+)\$", lambda found: " ".join(formula(found[1])), markdown)


def _said(tokens: list[str]) -> str:
    """The same in signs; `tokens` are used up."""
    said = ""
    while tokens:
        said += _next(tokens)
    return said


def _next(tokens: list[str]) -> str:
    """The next sign, or group of them."""
    token = tokens.pop(0)
    if token == "{":
        return _said(_group(tokens))
    if token in "_^":
        return _script(token, _next(tokens))
    if not token.startswith("\\"):
        return token
    name = token[1:]
    if name in ("begin", "end"):
        _next(tokens)
        return ""
    if name == "frac":
        return f"{_whole(_next(tokens))} / {_whole(_next(tokens))}"
    if name in _ACCENTS:
        return _next(_led(tokens)) + _ACCENTS[name]
    if name in _OPENING:
        _led(tokens)
    if name in _SIGNS:
        return _SIGNS[name]
    function = _next(tokens) if name == "operatorname" else name
    return f" {function}" + ("" if _led(tokens)[:1] in (["("], ["_"], ["^"]) else " ")


def _led(tokens: list[str]) -> list[str]:
    """The tokens without what only makes room before them."""
    while tokens and tokens[0] in _ROOM:
        tokens.pop(0)
    return tokens


def _group(tokens: list[str]) -> list[str]:
    """What stands up to the brace that closes."""
    inner, depth = list[str](), 1
    while depth:
        token = tokens.pop(0)
        depth += (token == "{") - (token == "}")
        inner.append(token)
    return inner[:-1]


def _script(mark: str, told: str) -> str:
    told = told.strip()
    if mark == "^" and told in ("ᵀ", "2", "-1"):
        return {"2": "²", "-1": "⁻¹"}.get(told, told)
    if mark == "_" and len(told) == 1:
        low = told.translate(_LOW)
        return low if low != told or told == "⊥" else f"_{told}"
    return f"{mark}{told}" if len(told) == 1 or told.startswith("(") else f"{mark}({told})"


def _whole(told: str) -> str:
    told = told.strip()
    return f"({told})" if re.search(r"[ /+-]", told) else told
