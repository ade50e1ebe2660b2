"""Merges a little of nothing, so that the kernels are compiled, and kept, before they matter.

As a program of its own it does so in the background: `python -m merging.warming`.
"""

from __future__ import annotations

import os
from itertools import product as pairs
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from merging.counts import counted
from merging.draws import Generator
from merging.groups import Group, Groups, Stored
from merging.lazy import torch
from merging.lora import product
from merging.method import METHODS
from merging.ranking import RUN
from merging.statistics.measures import Left, Look, trimmed, trimmed_in
from merging.writer import writer

DTYPES = (np.uint16, np.uint32)
CHOSEN: dict[str, Any] = {"rescale": "l1", "select_topk": 0.5}  # what has kernels of its own, and is no default


def merge_a_little() -> None:
    """Run every method over a few numbers of each type that models are stored in, and look at them before.

    Two factors are multiplied, too, and some numbers drawn.

    It takes a while the first time.
    """
    for dtype, like in pairs(DTYPES, DTYPES):
        for method, told in pairs(METHODS.values(), ({}, CHOSEN)):
            experts = method.taking(2)
            values = method.filled({key: value for key, value in told.items() if key in method.params}, experts)
            group = Group.of_bits("", np.zeros((1 + experts, RUN), dtype)).weighed(values["weight"])
            groups = Groups.of([group])
            groups.few = False  # as in a large tensor, of which a sample is taken
            survey = method.look(groups, values)
            writer(method, survey, values, group)(group, np.empty(RUN, like))
        if hasattr(os, "preadv"):
            _merge_files(dtype, like)
    for dtype in DTYPES:
        group = Group.of_bits("", np.zeros((3, RUN), dtype))
        Look(2).tile(group)
        trimmed(group, torch.zeros(2, 1), Left.empty(2, 1))
    counted(torch.zeros(1, 2), torch.zeros(1, 2), np.array([0, 2]))
    product(torch.zeros(1, 5), torch.zeros(5, 1))
    Generator(0, (0,), "", 0, RUN, fused=True).uniforms()


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
        stored = Stored((numbers, offsets, 0, scratch, 1), 1, (0, 1))
        Look(2).stored(stored)
        trimmed_in(stored, torch.zeros(2, 1), Left.empty(2, 1))
        files.sum_up(numbers, offsets, 0, scratch, 1, weights, True, np.zeros(1, like), file.fileno(), 0)


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(10)  # whoever waits for the screen goes first
    merge_a_little()
