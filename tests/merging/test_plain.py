"""Formulas for a terminal."""

from __future__ import annotations

import re
from unicodedata import normalize

import pytest

from merging.method import ADAPTERS, METHODS, Method
from merging.plain import formula, words
from merging.symbols import SHARED

EVERY = METHODS | ADAPTERS


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("linear", ["W = ∑ᵢ wᵢ Wᵢ / ∑ᵢ wᵢ"]),
        ("from", ["W = W₀ + λ ∑ᵢ αᵢ τᵢ,", "αᵢ = ‖τᵢ‖_F^k / (∑ⱼ ‖τⱼ‖_F^k)"]),
        ("lines", ["W^(ℓ) = W₀^(ℓ) + λ (α + β ℓ / (L-1)) ∑ᵢ wᵢ τᵢ^(ℓ)"]),
        ("tsv_m", ["W = W₀ + λ Û⊥ Σ̂ V̂⊥ᵀ,", "Û = [U₁ … U_n],", "τᵢ ≈ Uᵢ Σᵢ Vᵢᵀ"]),
        ("regmean", ["W = (∑ᵢ Wᵢ G̃ᵢ) (∑ᵢ G̃ᵢ)⁻¹,", "G̃ᵢ = α Xᵢᵀ Xᵢ + (1 - α) diag(Xᵢᵀ Xᵢ)"]),
        (
            "breadcrumbs_ties",
            [
                "W_p = W_(0,p) + λ ∑_(i ∈ A_p) wᵢ τ̂_(i,p),",
                "τ̂ᵢ = τᵢ ⊙ [aᵢ ≤ |τᵢ| ≤ bᵢ],",
                "A_p = {i : sign(wᵢ τ̂_(i,p)) = γ_p},",
                "γ_p = sign ∑ᵢ wᵢ τ̂_(i,p)",
            ],
        ),
    ],
)
def test_a_formula_is_read_without_latex(name: str, lines: list[str]) -> None:
    assert formula(EVERY[name].formula) == [normalize("NFC", line) for line in lines]


@pytest.mark.parametrize("method", EVERY.values(), ids=list(EVERY))
def test_nothing_is_left_of_latex(method: Method) -> None:
    lines = formula(method.formula)

    assert not re.search(r"\\|\$|textstyle|mathrm|gathered|[a-z]{13}", " ".join([*lines, words(method.where)]))
    for line in lines:
        assert len(line) < 95
        assert all(line.count(opening) == line.count(closing) for opening, closing in ("()", "[]", "{}", "⟨⟩", "⌊⌋"))


def test_signs_in_sentences() -> None:
    assert words(r"$t_i$ is a share $\rho_i$ of `top`, $\lfloor q/n \rfloor$.") == "tᵢ is a share ρᵢ of `top`, ⌊q/n⌋."
    assert [formula(one.sign) for one in SHARED if "lVert" in one.sign or "langle" in one.sign] == [
        ["‖X‖_F"],
        ["⟨X, Y⟩"],
    ]
