"""The command line: python -m merging."""

import gc
import os

gc.set_threshold(100_000)  # what is imported stays: to look for garbage in it takes a tenth of a short merge

os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP goes on where a connection broke off

from merging.cli import main  # noqa: E402 - imported after that

if __name__ == "__main__":
    raise SystemExit(main())
