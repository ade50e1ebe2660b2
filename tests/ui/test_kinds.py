"""The kinds in which methods are offered: every method is in one, and found there."""

from __future__ import annotations

import pytest

from merging.kinds import ALONE, DATA, ENTRIES, KINDS, MATRICES, NUMBERS, PAPERS, kind_of
from merging.method import ADAPTERS, METHODS
from ui.kinds import titles_of


def test_every_method_is_offered_once() -> None:
    offered = [name for kind in KINDS for _, name in titles_of(kind)]

    assert sorted(offered) == sorted(METHODS | ADAPTERS)
    assert all(titles_of(kind) for kind in KINDS)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("from", PAPERS), ("pcb", PAPERS), ("task_arithmetic", NUMBERS), ("slerp", NUMBERS), ("dare_ties", ENTRIES),
        ("tsv_m", MATRICES), ("fisher", DATA), ("regmean", DATA), ("knots", ALONE), ("peft", ALONE),
    ],
)  # fmt: skip
def test_a_method_is_offered_under_what_it_decides(name: str, kind: str) -> None:
    assert kind_of((METHODS | ADAPTERS)[name]) == kind
