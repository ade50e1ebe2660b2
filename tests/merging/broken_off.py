"""A merge in a process of its own, to be killed: `python -m tests.merging.broken_off RECIPE OUT WORKERS PAUSE`."""

import signal
import sys
import time

from merging import kernels, load_recipe, merge
from merging.engine import Step


def main() -> None:
    recipe, out, workers, pause = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background begins without
    kernels.usable = lambda: False  # without numba, it starts sooner

    def slowly(step: Step) -> None:
        if step.stage == "Merging":
            time.sleep(float(pause))

    merge(load_recipe(recipe), out, slowly, workers=int(workers))


if __name__ == "__main__":
    main()
