"""Merges a little of nothing, so that the kernels are compiled, and kept, before they matter.

As a program of its own it does so in the background: `python -m merging.warming`.
"""

from __future__ import annotations

import os

import numpy as np

from merging.chunks import writer
from merging.groups import Group, Groups
from merging.lazy import torch
from merging.lora import product
from merging.method import METHODS


def merge_a_little() -> None:
    """Run every method over one number of each type that models are stored in, and multiply two factors.

    It takes a while the first time.
    """
    for dtype in (np.uint16, np.uint32):
        for method in METHODS.values():
            values = method.filled({}, 2)
            group = Group.of_bits("", np.zeros((3, 1), dtype)).weighed(values["weight"])
            groups = Groups.of([group])
            groups.few = False  # as in a large tensor
            survey = method.look(groups, values)
            writer(method, survey, values, group)(group, np.empty(1, dtype))
    product(torch.zeros(1, 5), torch.zeros(5, 1))


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(10)  # whoever waits for the screen goes first
    merge_a_little()
