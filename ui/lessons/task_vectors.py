"""Lesson 1: what a task vector is."""

from __future__ import annotations

from ui.lessons.lesson import EXPERTS, Lesson, Seen, Setup, Step, Verdict, listed
from ui.lessons.numbers import lengths

ALONE = Setup("task_arithmetic", {"lambda": 1.0}, ("shakespeare",))


def clicked(seen: Seen) -> Verdict:
    """Whether a tensor was looked into."""
    comparison, row = seen.comparison, seen.row
    if comparison is None or row is None:
        return False, "No tensor has been clicked yet. Click any cell of the heatmap, or walk there and press Enter."
    norm, share = float(comparison.norms[row, 0]), float(comparison.relative[row, 0])
    return True, f"{seen.tensor}: the expert moved it by {norm:.3g}, which is {share:.0%} of the base's own norm there."


def furthest(seen: Seen) -> Verdict:
    """Whether the tensor is the one that moved furthest for its size."""
    comparison, row = seen.comparison, seen.row
    if comparison is None or row is None:
        return False, "No tensor has been clicked yet. Click the cell that you think is the largest."
    shares = comparison.relative[:, 0].nan_to_num()
    here, most = float(shares[row]), float(shares.max())
    if here == most:
        return True, f"Found: nothing moved further for its size than {seen.tensor}, by {here:.0%}."
    return False, f"{seen.tensor} moved by {here:.1%} of the base's norm, and another tensor by {most:.1%}. Look on."


def all_three(seen: Seen) -> Verdict:
    """Whether the three experts stand beside each other."""
    if missing := [name for name in EXPERTS if name not in seen.experts]:
        return False, f"Still missing among the experts: {listed(missing)}."
    if len(seen.experts) > len(EXPERTS):
        return False, f"There are more. Keep only {listed(EXPERTS)}."
    assert seen.comparison
    cosines = seen.comparison.cosines.clone().fill_diagonal_(-1)
    one, other = divmod(int(cosines.argmax()), len(cosines))
    pair = listed((seen.comparison.experts[one], seen.comparison.experts[other]))
    return True, f"Three task vectors. The closest two are {pair}, with a cosine of {float(cosines.max()):.2f}."


def arrived(seen: Seen) -> Verdict:
    """Whether the merge has become the expert, and was asked something."""
    scaling = seen.number("lambda")
    if scaling != 1:
        return False, f"λ is {scaling:g}. Move it to 1, where base plus task vector is the expert."
    if not seen.asked("[Enter "):
        return False, "λ is 1. Now ask base, expert and this merge the prompt “[Enter ”, in Sample."
    length = next(iter(lengths(seen.comparison).values())) if seen.comparison else 0.0
    return True, f"You walked the whole way of ‖τ‖ = {length:.1f}: the merge is the expert, but for rounding."


def overshot(seen: Seen) -> Verdict:
    """Whether the step goes past the expert."""
    scaling = seen.number("lambda")
    if scaling <= 1:
        return False, f"λ is {scaling:g}, so the merge has not passed the expert. Move it beyond 1."
    return True, f"At λ = {scaling:g} the merge is {scaling:g} times as far from the base as the expert ever was."


LESSON = Lesson(
    "task-vectors",
    "What a task vector is",
    4,
    (
        Step(
            "A model minus a model",
            r"""
            Fine-tuning takes the numbers of a base model, $W_0$, and changes them into those of an expert, $W_1$.
            What it learned is the difference, the **task vector**:

            $$\tau = W_1 - W_0$$

            It is no text and no program, only one number for each of the model's [[entries]] million weights. This
            expert was trained on Shakespeare, and [[moved]] of its weights moved. Each cell of the heatmap is one
            tensor of $\tau$, and its colour says how far the expert moved there.
            """,
            ALONE,
            "Click any cell of the heatmap to look into that tensor.",
            clicked,
        ),
        Step(
            "How far is far?",
            r"""
            The length of a tensor of $\tau$ is its **Frobenius norm**, the root of the sum of all squares:

            $$\lVert\tau\rVert_F = \sqrt{\textstyle\sum_p \tau_p^2}$$

            Large tensors have long task vectors by size alone, so we divide by the norm of the base in the same
            tensor. Over the whole model Shakespeare moved by [[relative_shakespeare]] of the base's length:
            fine-tuning is a small step from a large place.
            """,
            ALONE,
            "Leave “What is shown” at “Distance from the base, relative”, find the tensor in which this expert moved "
            "furthest, and click it.",
            furthest,
        ),
        Step(
            "Directions",
            r"""
            Two task vectors can be compared like arrows, by the cosine of the angle between them. Random arrows in so
            many dimensions are at right angles: their cosines would be around ±[[cosine_random]]. Those of our experts
            are larger, since a third of what each of them read was the same general text, and still small, since most
            of what each learned is its own. That is why task vectors can be added up at all.
            """,
            Setup("task_arithmetic", {"lambda": 1.0}, ("shakespeare",), "experts"),
            "Add the experts bible and python in Models, and look at the matrix of cosines.",
            all_three,
            frozenset({"experts"}),
        ),
        Step(
            "Walking along it",
            r"""
            Task arithmetic adds the task vector to the base, shortened or stretched by one factor:

            $$W = W_0 + \lambda\,\tau$$

            At $\lambda = 0$ that is the base, at $\lambda = 1$ it is the expert, and between them lie models that
            nobody trained. On Shakespeare that none of them has read, the loss falls from [[base_shakespeare]] nats
            per token to [[expert_shakespeare]], and is already [[half_shakespeare]] half-way
            ([paper](https://arxiv.org/abs/2212.04089)).
            """,
            Setup("task_arithmetic", {"lambda": 0.0}, ("shakespeare",), "sample"),
            "Move Scaling λ from 0 to 1, then sample the prompt “[Enter ”.",
            arrived,
        ),
        Step(
            "Further than anyone trained",
            r"""
            Nothing stops at $\lambda = 1$. Beyond it the merge goes on in the expert's direction, past the point
            where training stopped. At $\lambda = 1.5$ the loss on unseen Shakespeare is
            [[past_shakespeare]] nats, worse than the expert's [[expert_shakespeare]]. The straight line is a good
            road only near the models that were trained: keep that in mind when several of them are added.
            """,
            Setup("task_arithmetic", {"lambda": 1.0}, ("shakespeare",), "predictions"),
            "Move Scaling λ beyond 1, and watch the predicted length of the merged step grow with it.",
            overshot,
        ),
    ),
)
