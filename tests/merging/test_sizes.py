"""Sizes as people write them."""

import pytest

from merging.errors import MergeError
from merging.sizes import in_bytes, in_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (5, 5),
        ("1000", 1000),
        ("1GB", 10**9),
        ("1gb", 10**9),
        ("1.5 GiB", 3 << 29),
        ("500MB", 500 * 10**6),
        ("64k", 64_000),
        ("2T", 2 * 10**12),
    ],
)
def test_sizes_are_read_as_people_write_them(text: int | str, expected: int) -> None:
    assert in_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "1 G B", "nan", "inf", "0", 0, -3, "1iB", "9" * 400])
def test_what_is_no_size_is_refused(text: int | str) -> None:
    with pytest.raises(MergeError, match="is not a size"):
        in_bytes(text)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(12, "12 bytes"), (37_769_936, "37.8 MB"), (988_097_824, "988 MB"), (3_090_000_000, "3.09 GB"), (2e10, "20.0 GB")],
)
def test_sizes_are_told_in_units_that_suit_them(size: float, expected: str) -> None:
    assert in_words(size) == expected
