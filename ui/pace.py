"""How far long work is: a bar, its speed, and the time left."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass

from merging.sizes import in_words


@dataclass(frozen=True)
class Pace:
    """Of bytes that come in since `began`, by `time.monotonic`, when some of them were there `before`."""

    began: float
    before: int = 0

    def told(self, done: int, total: int) -> str:
        """The bar, with bytes, bytes per second, and the time left."""
        seconds = max(time.monotonic() - self.began, 1e-3)
        share, speed = done / max(total, 1), (done - self.before) / seconds
        left = f"{in_words(int(speed))}/s, about {span((total - done) / speed)} left" if speed and seconds > 1 else ""
        return bar(share, f"{in_words(done)} of {in_words(total)}", left)


def span(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def bar(share: float, what: str, left: str) -> str:
    """A progress bar as HTML."""
    percent = f"{share:.0%}"
    return (
        f'<div class="progress-box"><progress value="{share:.3f}" max="1" aria-label="Progress"></progress>'
        f"<div><b>{percent}</b> <span>{html.escape(what)}</span> <i>{html.escape(left)}</i></div></div>"
    )
