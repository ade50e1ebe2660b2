"""One file per merge method; importing this package registers them all, in the order of the method list."""

from merging.methods import frobenius, ties, pcb, task_arithmetic, linear  # noqa: F401, I001 - the order is the list's
from merging.methods import magmax, dare, della, breadcrumbs, consensus_ta, emr, sce, ram  # noqa: F401
from merging.methods import tsv_m, iso_c, iso_cts, star, wudi  # noqa: F401
from merging.methods import model_stock, metagpt, lines, slerp, nuslerp, multislerp, karcher  # noqa: F401
from merging.methods import nearswap, arcee_fusion, fisher, regmean  # noqa: F401
from merging.methods import knots, peft  # noqa: F401 - of adapters alone
