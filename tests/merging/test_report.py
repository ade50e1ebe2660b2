"""What became of the tensors, under the words for it."""

from __future__ import annotations

from merging.report import by_fate


def test_tensors_stand_under_their_fates_in_their_order() -> None:
    fates = {"b": "merged", "c": "copied", "a": "merged"}

    assert list(by_fate(fates).items()) == [("merged", ["b", "a"]), ("copied", ["c"])]
    assert by_fate({}) == {}
