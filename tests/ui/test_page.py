"""What the browser says of the controls, which may be anything."""

from __future__ import annotations

from typing import Any

import pytest

from merging.errors import MergeError
from ui.page import unpacked


def test_what_the_controls_hold_comes_in_their_order() -> None:
    assert unpacked(["ties", 0.2, True, None, "{}"], 5) == ["ties", 0.2, True, None, "{}"]


@pytest.mark.parametrize("packed", [None, "ties", {}, [], ["ties"], ["ties", []], ["ties", {"a": 1}], ["ties", 1, 2]])
def test_what_no_page_would_send_is_refused(packed: Any) -> None:
    with pytest.raises(MergeError, match="got lost on its way"):
        unpacked(packed, 2)
