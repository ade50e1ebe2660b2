"""Merges a little of nothing, so that the kernels are compiled, and kept, before they matter.

As a program of its own it does so in the background: `python -m merging.warming`.
"""

from __future__ import annotations

import os
from itertools import product as pairs
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from merging.groups import Group, Groups
from merging.lazy import torch
from merging.lora import product
from merging.method import METHODS
from merging.ranking import RUN
from merging.writer import writer

DTYPES = (np.uint16, np.uint32)


def merge_a_little() -> None:
    """Run every method over a few numbers of each type that models are stored in, and multiply two factors.

    It takes a while the first time.
    """
    for dtype, like in pairs(DTYPES, DTYPES):
        for method in METHODS.values():
            values = method.filled({}, 2)
            group = Group.of_bits("", np.zeros((3, RUN), dtype)).weighed(values["weight"])
            groups = Groups.of([group])
            groups.few = False  # as in a large tensor, of which a sample is taken
            survey = method.look(groups, values)
            writer(method, survey, values, group)(group, np.empty(RUN, like))
        if hasattr(os, "preadv"):
            _merge_files(dtype, like)
    product(torch.zeros(1, 5), torch.zeros(5, 1))


def _merge_files(dtype: Any, like: Any) -> None:
    """Measure numbers of files, and sum them up into a file."""
    from merging.kernels import files

    weights, scratch = np.zeros(2, np.float32), np.zeros(3, dtype)
    with TemporaryFile() as file:
        file.write(bytes(8))
        file.flush()
        numbers, offsets = np.full(3, file.fileno(), np.int32), np.zeros(3, np.int64)
        files.read(numbers, offsets, np.array([0]), 1, scratch.reshape(3, 1))
        files.squares(numbers, offsets, 0, scratch, 1, 1, np.zeros((1, 2)))
        files.sum_up(numbers, offsets, 0, scratch, 1, weights, True, np.zeros(1, like), file.fileno(), 0)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(10)  # whoever waits for the screen goes first
    merge_a_little()
