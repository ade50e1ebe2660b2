"""The few kinds in which methods are offered, so that nobody has to read a list of all of them."""

from __future__ import annotations

from merging.method import Method

PAPERS, NUMBERS, ENTRIES = "Three papers", "One number per tensor", "Entry by entry"
MATRICES, DATA, ALONE = "Whole matrices", "With data", "Adapters only"
KINDS = {
    PAPERS: "By norms, by signs, and by how the experts compete.",
    NUMBERS: "Averages, sums and arcs: what they decide, they decide for a tensor at a time.",
    ENTRIES: "What is kept, dropped or scaled is decided for every entry.",
    MATRICES: "By the directions in matrices: slower, and on published tasks the strongest that need no data.",
    DATA: "By statistics of experts, which a run of each of them over a text of its task collects beforehand.",
    ALONE: "They make one LoRA adapter of several. Most of the others can do that, too.",
}
MEMBERS = {"from": PAPERS, "ties": PAPERS, "pcb": PAPERS} | dict.fromkeys(
    ("tsv_m", "iso_c", "iso_cts", "star", "wudi"), MATRICES
)


def kind_of(method: Method) -> str:
    """The kind under which a method is offered: one that is told, or the one that its declaration makes it."""
    if method.ranks:
        return ALONE
    return MEMBERS.get(method.name) or (DATA if method.collects else ENTRIES if method.entrywise else NUMBERS)
