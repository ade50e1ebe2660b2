"""How a long command is watched and stopped: a bar in the terminal, and Ctrl-C as a request."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from merging.engine import Step

BAR = "{desc} {percentage:3.0f}%|{bar:30}| {n_fmt}/{total_fmt} {rate_fmt} {remaining}{postfix}"


@contextmanager
def progress(quiet: bool, unit: str = "B") -> Iterator[Callable[[Step], None] | None]:
    """A listener that draws a bar; None where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with tqdm(desc="Planning", unit=unit, unit_scale=True, leave=False, dynamic_ncols=True, bar_format=BAR) as bar:

        def tell(step: Step) -> None:
            bar.total = step.bytes_total
            bar.set_description_str(step.stage, refresh=False)
            bar.set_postfix_str(step.name, refresh=False)
            bar.update(step.bytes_done - bar.n)

        yield tell


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets, so that work ends in good order; a second interrupts at once."""
    stop = threading.Event()

    def ask(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
