"""Every symbol of every formula is explained, in the list of those that methods share or by the method."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from merging.method import ADAPTERS, METHODS, Method
from merging.symbols import SHARED, shared

EVERY = METHODS | ADAPTERS
ANY = pytest.mark.parametrize("method", EVERY.values(), ids=list(EVERY))
GREEK = {
    "alpha", "beta", "gamma", "epsilon", "eta", "theta", "kappa", "lambda", "rho", "sigma", "tau", "ell", "Sigma",
    "Omega",
}  # fmt: skip
WORDS = re.compile(r"\\(?:operatorname|begin|end)\{\w+\}")
COUNTED = set("ijkgpn0123456789, ")  # experts, entries, directions: an index of these does not make another symbol


def symbols(latex: str) -> Iterator[str]:
    """The letters of a formula with their accents, and with such indices as make another symbol of them."""
    latex = re.sub(r"_(\\[a-z]+|\w)", r"_{\1}", WORDS.sub(" ", latex))
    latex = re.sub(r"\\(hat|bar|tilde)\s*(\\[a-zA-Z]+|\w)", r"\\\1{\2}", latex)
    for accent, command, letter, index in re.findall(
        r"(?:\\(hat|bar|tilde|overline)\{)?(?:\\([a-zA-Z]+)|([a-zA-Z]))\}?(?:_\{([^{}]*)\})?", latex
    ):
        name = command or letter
        if command and command not in GREEK:
            yield from symbols(index)
        elif not (name in "ijp" and not accent and not index):
            inside = {*symbols(index)}
            own = "" if {*index.replace("\\perp", "")} <= COUNTED else f"_{index}"
            yield f"{accent} {name}{own}{'⊥' if 'perp' in index else ''}".strip()
            yield from () if own else inside & {"r"}


def in_words(markdown: str) -> set[str]:
    return {symbol for latex in re.findall(r"\$([^$]+)\$", markdown) for symbol in symbols(latex)}


@ANY
def test_every_symbol_is_explained(method: Method) -> None:
    of_all = {symbol for one in shared(method) for symbol in symbols(one.sign)} | {"n"}

    unexplained = {*symbols(method.formula)} - of_all - in_words(method.where)

    assert not unexplained


def test_symbols_are_told_apart() -> None:
    found = [
        *symbols(r"\hat\tau_{i,p} + \hat U_\perp W^{(\ell)} \sum_{k \le r_i} \lambda_t \operatorname{sign} v_\kappa")
    ]

    assert found == ["hat tau", "hat U⊥", "W", "ell", "k", "r", "lambda_t", "v_\\kappa"]


@ANY
def test_the_list_has_what_a_formula_has(method: Method) -> None:
    found = {one.sign for one in shared(method)}

    for sign, written in [(r"X^\top", r"\top"), (r"X \odot Y", r"\odot"), (r"\lVert X \rVert_F", r"\lVert"),
                          ("w_i", "w_"), (r"\tau_i", r"\tau"), (r"\hat\tau_i", r"\hat\tau")]:  # fmt: skip
        assert (sign in found) == (written in method.formula + method.where), sign
    assert ("[X > Y]" in found) == bool(re.search(r"\[\\,|\\big\[", method.formula))
    assert (r"\rho_i" in found) == ("density" in method.params and method.name not in ("peft", "knots"))
    assert ("w_i" in found) == ("weight" in method.params)


def test_a_list_of_all_has_no_symbol_of_nobody() -> None:
    assert {one.sign for method in EVERY.values() for one in shared(method)} == {one.sign for one in SHARED}


@ANY
def test_formulas_are_whole(method: Method) -> None:
    for latex in [method.formula, *re.findall(r"\$([^$]+)\$", method.where)]:
        assert latex.replace("\\{", "").count("{") == latex.replace("\\}", "").count("}")
        assert latex.count(r"\begin{gathered}") == latex.count(r"\end{gathered}")
    assert not re.search(
        r"(?<!\\)[*<>]|\\[,{}|]", "".join(re.findall(r"\$([^$]+)\$", method.where))
    )  # Markdown eats it
    assert method.where.count("$") % 2 == 0
