"""Lesson 4: how entries compete, and what PCB does with the winners."""

from __future__ import annotations

from ui.lessons.lesson import Lesson, Seen, Setup, Step, Verdict, listed
from ui.lessons.numbers import step, weights

UNKNOWN = "The merge cannot be predicted with these values. Press “Set this up for me” and go on from there."


def looked(seen: Seen) -> Verdict:
    """Whether a tensor was looked into under PCB."""
    if seen.row is None:
        return False, "No tensor has been clicked yet. Click a cell, and follow an entry through the competition."
    return (
        True,
        f"In {seen.tensor} you see size, agreement and score of single entries, and which of them survive.",
    )


def half_decided(seen: Seen) -> Verdict:
    """Whether about half of all entries are decided by somebody."""
    found = step(seen)
    if found is None:
        return False, UNKNOWN
    nobody, one, several = found.decided
    words = f"At r = {seen.number('ratio'):g} nobody decides {nobody:.0%} of the entries"
    if abs(nobody - 0.5) > 0.05:
        return False, f"{words}. {'Raise' if nobody > 0.5 else 'Lower'} r until that is about half."
    return True, f"{words}, one expert alone {one:.0%}, and several {several:.0%}."


def silenced(seen: Seen) -> Verdict:
    """Whether one expert competes with a weight of zero."""
    weight = seen.weight("python")
    if weight != 0:
        return False, f"The weight of python is {weight:g}. Set it to 0."
    found = weights(seen)
    told = listed([f"{name} {weight:.2f}" for name, weight in found.items()])
    return True, f"The effective weights are now {told}: Python adds nothing, and nobody has taken its place."


def by_pairs(seen: Seen) -> Verdict:
    """Whether agreement is measured pair by pair."""
    variant = seen.values.get("variant")
    if variant != "pairwise":
        return False, f"The variant is {variant}. Choose pairwise, and compare the coefficients."
    told = listed([f"{name} {weight:.2f}" for name, weight in weights(seen).items()])
    return True, f"With a vote pair by pair the effective weights are {told}."


def sampled(seen: Seen) -> Verdict:
    """Whether a gentler step was chosen, and the merge was asked."""
    scaling = seen.number("lambda")
    if not 0 < scaling < 1:
        return False, f"λ is {scaling:g}. Choose one between 0 and 1."
    if not seen.asked():
        return False, f"λ is {scaling:g}. Now sample a prompt from base, experts and this merge."
    return True, f"At λ = {scaling:g} you have set ratio and length yourself, and asked the result: that is the method."


LESSON = Lesson(
    "competition",
    "Competition and PCB",
    6,
    (
        Step(
            "Two questions to every entry",
            r"""
            TIES asks of an entry how large it is. [PCB-Merging](https://arxiv.org/abs/2410.02396) also asks, in the
            same breath, whether the others agree. The score of entry $p$ of expert $i$ is a product:

            $$\beta_i = e^{\,n N_i^2} \cdot \tanh\Big(\tau_i \sum_j \tau_j\Big)$$

            $N_i$ is the entry's size within its own expert, from 0 to 1, and $n$ the number of experts. The second
            factor is negative where the expert pulls against the sum of all. Large and agreeing entries win.
            """,
            Setup("pcb", {"ratio": 0.1}, view="tensor"),
            "Click a tensor, and follow some of its entries from magnitude to score.",
            looked,
        ),
        Step(
            "Only the best survive",
            r"""
            Each expert keeps its best-scoring share $r$, the rest is dropped. Experts rank their own entries, so some
            entries have several winners, some one, and most none: at $r = 0.1$ nobody decides [[nobody_pcb]] of all
            entries, and the base stays as it was there. An expert that pulls against the others needs no vote to
            lose: its score is below zero, and that is never among the best tenth.
            """,
            Setup("pcb", {"ratio": 0.05}, view="predictions"),
            "Move Ratio r until nobody decides about half of the entries.",
            half_decided,
        ),
        Step(
            "Silenced, not gone",
            r"""
            The survivors are averaged by their scores $S_i$:

            $$\tau_m = \frac{\sum_i \lambda_i S_i\,c_i}{\sum_i S_i}$$

            with $c_i$ for $\tau_i$ without its outliers. Where one expert survives alone, its score cancels and it
            enters in full. Look at where the weight $\lambda_i$ stands: above the line, not below. An expert of
            weight 0 still competes, still counts in the divisor, and then brings nothing. Its share is not handed on
            to the others. To hand it on, take the expert out.
            """,
            Setup("pcb", {"ratio": 0.2}, view="coefficients"),
            "Set the weight of python to 0, and see whether the other coefficients rise.",
            silenced,
            frozenset({"weights"}),
        ),
        Step(
            "What is agreement?",
            r"""
            The formula of the first step asks whether an entry agrees with the sum, so one loud expert can be the
            majority. The authors' code holds other forms. In *pairwise* every expert is compared with each of the
            others, by sizes that are all between 0 and 1:

            $$\sum_j \tanh(\sigma_i \sigma_j), \qquad \sigma_i = \mathrm{sign}(\tau_i)\,N_i$$

            It is the only form whose ranking is sure to stay the same when all task vectors are made ten times longer.
            """,
            Setup("pcb", {"ratio": 0.1}, view="coefficients"),
            "Choose the variant pairwise, and watch which coefficients change.",
            by_pairs,
        ),
        Step(
            "How it fares here",
            r"""
            With $r = 0.1$ and $\lambda = 1$ the merge keeps [[pcb_kept_shakespeare]], [[pcb_kept_bible]] and
            [[pcb_kept_python]] of the three gains on unseen text. At $\lambda = 1.5$ it is worse on Shakespeare than
            the base. The average keeps [[average_kept_shakespeare]], [[average_kept_bible]] and
            [[average_kept_python]]. The paper merges more experts, of very different tasks, and gains there. What you
            see here is general: ratio and length belong together, and a sparse step may be a long one.
            """,
            Setup("pcb", {"ratio": 0.1, "lambda": 1.0}, view="sample"),
            "Choose a Scaling λ below 1, and sample a prompt from the merge.",
            sampled,
        ),
    ),
)
