"""Lesson 3: how task vectors interfere, and what TIES does about it."""

from __future__ import annotations

from itertools import combinations

from ui.lessons.lesson import EXPERTS, Lesson, Seen, Setup, Step, Verdict, listed
from ui.lessons.numbers import step, trimmed


def quietest_pair(seen: Seen) -> Verdict:
    """Whether the two experts are left that contradict each other least."""
    if len(seen.experts) != 2 or not set(seen.experts) <= set(EXPERTS):
        return False, f"Leave two of {listed(EXPERTS)} in Models; there are {len(seen.experts)} experts now."
    assert seen.comparison
    share = trimmed(seen.comparison).conflict
    cosine = float(seen.comparison.cosines[0, 1])
    words = f"{listed(seen.experts).capitalize()} contradict each other in {share:.0%} of all entries"
    if set(seen.experts) == {"shakespeare", "bible"}:
        return True, f"{words}, the fewest of all pairs; their cosine, {cosine:.2f}, is the largest."
    others = len(list(combinations(EXPERTS, 2))) - 1
    return False, f"{words}. One of the {others} other pairs does so less: try the one with the largest cosine."


def cleared(seen: Seen) -> Verdict:
    """Whether trimming removes nearly all conflicts and keeps most of the length."""
    density = seen.number("density")
    if not 0 < density <= 1 or not seen.comparison:
        return False, "Density has to be one number for all experts and tensors here. Set it by its slider."
    left = trimmed(seen.comparison, density)
    words = f"At ρ = {density:g}, {left.conflict:.1%} of the entries are in conflict, and {left.energy:.0%} of ‖τ‖²"
    if left.conflict > 0.05:
        return False, f"{words} is kept. Trim more, until conflicts are below 5%."
    if left.energy < 0.5:
        return False, f"{words} is kept. That is too much lost: raise ρ again, until half is kept."
    return True, f"{words} is kept: what was trimmed was mostly noise, and most of the quarrel."


def voted(seen: Seen) -> Verdict:
    """Whether a tensor was looked into under TIES."""
    if seen.row is None:
        return (
            False,
            "No tensor has been clicked yet. Click a cell, and follow an entry through the vote.",
        )
    return True, f"In {seen.tensor} you can follow single entries: task vectors, what is trimmed, the sign, the merge."


def as_long(seen: Seen) -> Verdict:
    """Whether the merged step is about as long as an expert's own."""
    found = step(seen)
    if found is None:
        return False, "The merge cannot be predicted with these values. Press “Set this up for me” and move λ alone."
    scaling, (_, one, several) = seen.number("lambda"), found.decided
    words = f"At λ = {scaling:g} the merged task vector is {found.length:.2f} times as long as an expert's"
    if abs(found.length - 1) > 0.05:
        return False, f"{words}. {'Lower' if found.length > 1 else 'Raise'} λ until it is between 0.95 and 1.05."
    return True, f"{words}. One expert alone decides {one:.0%} of all entries, several together {several:.0%}."


def written(seen: Seen) -> Verdict:
    """Whether a TIES merge of the three was written, and asked something."""
    merges = [recipe for recipe in seen.merges if recipe.method == "ties"]
    if not merges:
        return False, "No TIES merge has been written on this visit. Press Merge, and wait until it is done."
    mine = [recipe for recipe in merges if {path.name for path in recipe.experts} == set(EXPERTS)]
    if not mine:
        return False, f"A TIES merge was written, of other experts. Merge {listed(EXPERTS)}."
    if not any(seen.asked(merge=recipe) for recipe in mine):
        return False, "Your merge is on disk, and was asked nothing yet. Sample it next to base and experts."
    return True, "Your merge is on disk with its recipe beside it, and has answered next to base and experts: judge."


LESSON = Lesson(
    "interference",
    "Interference and TIES",
    6,
    (
        Step(
            "Pulling both ways",
            r"""
            Take one weight of the model. Shakespeare wants it larger, Python wants it smaller, and the average of
            both leaves it where it was. This is no rare accident: in [[conflict_all]] of all entries one of our three
            experts pulls up while another pulls down. Coin tosses would give 75%. Two experts contradict each other
            in [[conflict_pair_least]] to [[conflict_pair_most]] of the entries, and coins in 50%. Related experts
            quarrel less.
            """,
            Setup("linear", view="experts"),
            "Take one expert out, so that the two are left that contradict each other least.",
            quietest_pair,
            frozenset({"experts"}),
        ),
        Step(
            "Trim",
            r"""
            Most entries of a task vector are small. [TIES](https://arxiv.org/abs/2306.01708) first keeps only the
            largest, a share $\rho$ of each expert's entries, and sets the rest to zero. That costs less than
            it seems: the largest 20% hold [[energy_20]] of the squared length $\lVert\tau\rVert^2$. And much is won:
            most experts now have nothing to say about most entries, so they can no longer contradict each other there.
            """,
            Setup("ties", {"density": 1.0}, view="experts"),
            "The curve “What trimming keeps”, in Experts, tells how much of ‖τ‖² is left at every ρ. Lower Density ρ "
            "until less than 5% of the entries are in conflict, and keep at least half of ‖τ‖². Check tells both.",
            cleared,
        ),
        Step(
            "Elect a sign",
            r"""
            Where trimmed experts still disagree, they vote, each with its size:

            $$\gamma_p = \mathrm{sign} \sum_i \hat\tau_{i,p}$$

            Say three experts want to move a weight by $+0.3$, $-0.1$ and $-0.1$. The sum is $+0.1$, so up wins,
            though two of three voted down. At $\rho = 0.2$ such votes are few: only [[quarrel_20]] of the entries
            that two or more experts keep are in conflict at all, [[conflict_20]] of the model.
            """,
            Setup("ties", {"density": 0.2}, view="tensor"),
            "Click a tensor, and follow some of its entries from task vectors to the merge.",
            voted,
        ),
        Step(
            "Average those who agree",
            r"""
            Each entry becomes the mean of the experts that have the elected sign, and of those alone. So an entry
            that only one expert kept is not divided by three, as in the average: it enters in full. At $\rho = 0.2$
            nobody keeps [[nobody_20]] of the entries and a single expert [[alone_20]], and the merged step is
            [[ties_length]] times as long as an expert's own. The average's is [[average_length]]. What averaging
            whispers, TIES says aloud.
            """,
            Setup("ties", {"density": 0.2, "lambda": 1.0}, view="predictions"),
            "Move Scaling λ until the merged step is as long as an expert's own, within 5%.",
            as_long,
        ),
        Step(
            "Does it pay?",
            r"""
            Not always, and you should look. On our unseen texts TIES with $\rho = 0.2$ and $\lambda = 1$ keeps
            [[ties_kept_shakespeare]], [[ties_kept_bible]] and [[ties_kept_python]] of the three gains; the plain
            average keeps [[average_kept_shakespeare]], [[average_kept_bible]] and [[average_kept_python]].
            Trimming cost a third of $\lVert\tau\rVert^2$, and the step is the longer one. The paper merges more
            experts, of very different tasks, and gains there. No method is best for all models: try two or three, and
            ask the results.
            """,
            Setup("ties", {"density": 0.2, "lambda": 0.7}, view="sample"),
            "Merge with TIES, with any values you like, and sample the result.",
            written,
        ),
    ),
)
