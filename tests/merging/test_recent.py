"""What is kept of what was used last."""

from merging.recent import Recent


def test_what_was_used_longest_ago_goes_first() -> None:
    kept = Recent[str](2)
    kept.put("a", "first")
    kept.put("b", "second")
    kept.get("a")

    assert kept.put("c", "third") == "third"

    assert [kept.get(key) for key in "abc"] == ["first", None, "third"]
    assert len(kept) == 2


def test_what_is_put_again_takes_the_place_of_what_was_there() -> None:
    kept = Recent[int](2)

    for number in range(3):
        kept.put("a", number)

    assert kept.get("a") == 2
    assert len(kept) == 1
