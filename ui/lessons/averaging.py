"""Lesson 2: why averaging forgets, and what a longer step does about it."""

from __future__ import annotations

from ui.lessons.lesson import Lesson, Seen, Setup, Step, Verdict, listed
from ui.lessons.numbers import weights


def asked(seen: Seen) -> Verdict:
    """Whether base and experts were asked the prompt of the step."""
    if not seen.answered("7 And the LORD said unto "):
        words = "Base and the three experts have not answered it yet" if seen.prompts else "Nothing has been asked yet"
        return False, f"{words}. Choose “Scripture” below the prompt, and press Sample."
    return True, "Each expert speaks in its own voice, and only there is it better than the base."


def averaged(seen: Seen) -> Verdict:
    """Whether the merge is the plain average."""
    if seen.method != "linear":
        return False, "The method is another one still. Choose Linear, which averages the models themselves."
    found = weights(seen)
    if not found or max(found.values()) - min(found.values()) > 0.01:
        return False, "The experts do not count the same. Set the weight of each to 1."
    share = max(found.values())
    if abs(share - 1 / len(found)) > 0.005:
        return False, (
            f"Every coefficient is {share:.2f}, and in the average of {len(found)} it is {1 / len(found):.2f}. "
            "Switch Normalize on, which divides by the sum of the weights."
        )
    return True, f"Every coefficient is {share:.2f}: each expert enters with a third of its step."


def two_left(seen: Seen) -> Verdict:
    """Whether one expert was taken out of the average."""
    if len(seen.experts) != 2:
        return False, f"There are {len(seen.experts)} experts in the average. Take one out, so that two are left."
    found = weights(seen)
    return True, f"{listed(seen.experts).capitalize()} now count {max(found.values(), default=0.5):.2f} each, not 0.33."


def lengthened(seen: Seen) -> Verdict:
    """Whether the step is as long as serves the three domains best."""
    scaling = seen.number("lambda")
    if not 0.4 <= scaling <= 0.5:
        where = "short: the average's is 0.33" if scaling < 0.4 else "long: the losses rise again from 0.5 on"
        return False, f"λ = {scaling:g} is too {where}. The best values that were measured are 0.4 and 0.5."
    return True, f"At λ = {scaling:g} the merge goes further along every task vector than the average, and not too far."


def too_far(seen: Seen) -> Verdict:
    """Whether all task vectors were added at full length, and the result was asked."""
    scaling = seen.number("lambda")
    if scaling < 1:
        return False, f"λ is {scaling:g}. Move it to 1, so that every task vector is added in full."
    if not seen.asked():
        return False, f"λ is {scaling:g}. Now sample a prompt from this merge, and read what it writes."
    return True, "Three full steps at once end where no model was trained, and the text shows it."


LESSON = Lesson(
    "averaging",
    "Why averaging forgets",
    5,
    (
        Step(
            "Three experts, three subjects",
            r"""
            How well a model knows a text is its loss: nats per token, less is better.

            | unseen text | base | its expert |
            |---|---|---|
            | Shakespeare | [[base_shakespeare]] | [[expert_shakespeare]] |
            | Bible | [[base_bible]] | [[expert_bible]] |
            | Python | [[base_python]] | [[expert_python]] |

            Each expert gained on its own subject, and lost on the two others: the Bible's has [[bible_on_python]] on
            Python, where the base has [[base_python]]. One model with all three gains is what merging is after.
            """,
            Setup("task_arithmetic", {"lambda": 0.3}, view="sample"),
            "Sample the prompt “Scripture” and compare the answers of base and experts.",
            asked,
        ),
        Step(
            "The average",
            r"""
            The simplest merge averages the models. Seen from the base, it goes along every task vector, and only a
            third of the way:

            $$W = \tfrac{1}{n}\sum_i W_i = W_0 + \tfrac{1}{n}\sum_i \tau_i$$

            On unseen text the average of our three keeps [[average_kept_shakespeare]] of Shakespeare's gain,
            [[average_kept_bible]] of the Bible's and [[average_kept_python]] of Python's. It is better than the base
            in all three, and has forgotten most of what two of the experts learned
            ([paper](https://arxiv.org/abs/2203.05482)).
            """,
            Setup("task_arithmetic", {"lambda": 1.0}, view="coefficients"),
            "Choose the method Linear, and read the coefficients.",
            averaged,
            frozenset({"method", "weights"}),
        ),
        Step(
            "Where the rest went",
            r"""
            The task vectors stand nearly at right angles, so the others' steps hardly help an expert along: the
            average goes [[average_along_least]] to [[average_along_most]] of the way along each, a third by that
            expert's own step and the rest by what they share. With $n$ experts at right angles it would be $1/n$:
            every further expert makes the others quieter. The average of Bible and Python alone keeps
            [[pair_kept_bible]] and [[pair_kept_python]] of their gains. Averaging does not choose what to forget. It
            turns everything down.
            """,
            Setup("linear", view="coefficients"),
            "Take one expert out in Models, and see what the coefficients of the others become.",
            two_left,
            frozenset({"experts"}),
        ),
        Step(
            "A longer step",
            r"""
            If averaging is too quiet, turn it up. Task arithmetic adds the same sum with a factor of your choice, and
            $\lambda = 1/3$ is the average:

            $$W = W_0 + \lambda \sum_i \tau_i$$

            Mean loss on the three subjects: base [[base_mean]], average [[average_mean]], $\lambda = 0.4$
            [[ta04_mean]], $0.5$ [[ta05_mean]], $0.7$ [[ta07_mean]]. The best step is a little longer than the
            average, and it is short: there is a valley, and you can walk out of it on the far side.
            """,
            Setup("task_arithmetic", {"lambda": 0.2}, view="predictions"),
            "Move Scaling λ to where the measured losses are least.",
            lengthened,
        ),
        Step(
            "Too far",
            r"""
            At $\lambda = 1$ every expert's step is added in full. None of them is shortened, and still all three
            subjects suffer: the mean loss is [[ta10_mean]], worse than the base's [[base_mean]]. The sum is
            [[sum_length]] times as long as a single task vector, so the merge lies twice as far from the base as any
            model that was trained, and each subject also takes the others' steps, which it did not ask for. They
            interfere, entry by entry. That is the next lesson.
            """,
            Setup("task_arithmetic", {"lambda": 0.4}, view="sample"),
            "Move Scaling λ to 1, and sample a prompt from the merge.",
            too_far,
        ),
    ),
)
