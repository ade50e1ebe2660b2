"""The symbols that the formulas of several methods share, and what they mean; the others a method explains itself."""

from __future__ import annotations

import re
from typing import NamedTuple

from merging.method import Method


class Symbol(NamedTuple):
    """A symbol, or a way of writing."""

    sign: str  # in LaTeX
    meaning: str  # Markdown, with LaTeX between $
    found: str  # in the formulas that have it, a regular expression


SHARED = (
    Symbol("W", "a tensor of the merged model", r"W(?![a-z])"),
    Symbol("W_0", "that tensor of the base model", r"W_(0|\{0)|\\tau"),
    Symbol("W_i", "that of expert $i$ of $n$, where $W_1$ is of the first or only one", r"W_[i1]|\\tau|\bn\b|_n"),
    Symbol(r"\tau_i", "its task vector, $W_i - W_0$", r"\\tau"),
    Symbol("w_i", "the `weight` of expert $i$, 1 unless told", r"\bw_"),
    Symbol(r"\lambda", "the scaling, `lambda`", r"\\lambda(?!_)"),
    Symbol(r"\rho_i", "the `density` of expert $i$", r"\\rho"),
    Symbol(r"\hat\tau_i", "its task vector with some of the entries, and 0 in place of the others", r"\\hat\\tau"),
    Symbol(r"\sum_i", "the sum over all experts, as is one over $j$", r"\\sum_(i|j|\{i)"),
    Symbol("X_p", "entry $p$ of a tensor $X$, where a formula says what becomes of each entry", r"p\}|_p\b"),
    Symbol(r"X \odot Y", "the product, entry by entry", r"\\odot"),
    Symbol("|X|", "the magnitudes of the entries", r"\|\\tau(_[^n]| )"),
    Symbol(
        r"\operatorname{sign} X", "the sign of each entry, as max, min, exp and tanh are of each", r"sign|\\m..[(\\]"
    ),
    Symbol("[X > Y]", "1 in those entries where it is so, and 0 in the others", r"\\big\[|= \[\\,"),
    Symbol(r"\lVert X \rVert_F", "the Frobenius norm, the root of the sum of squares of all entries", r"\\lVert"),
    Symbol(r"\langle X, Y \rangle", "the inner product, the sum of the products of entries", r"\\langle"),
    Symbol(r"X^\top", "the transposed matrix", r"\\top"),
    Symbol(
        r"X = U \Sigma V^\top",
        r"the singular value decomposition, with $\approx$ cut to the largest values",
        r"\\Sigma",
    ),
)


def shared(method: Method) -> list[Symbol]:
    """The symbols of a method's formula that methods share, in the order of the list."""
    return [symbol for symbol in SHARED if re.search(symbol.found, f"{method.formula} {method.where}")]
