"""One file per merge method; importing this package registers them all, in the order of the method list."""

from merging.methods import frobenius, ties, pcb, task_arithmetic, linear  # noqa: F401, I001 - the order is the list's
