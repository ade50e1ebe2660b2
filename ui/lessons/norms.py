"""Lesson 5: norms and FroM, from full fine-tuning to LoRA adapters."""

from __future__ import annotations

from ui import family
from ui.lessons.lesson import Lesson, Seen, Setup, Step, Verdict, listed
from ui.lessons.numbers import lengths, weights

ADAPTERS = tuple(path.name for path in family.ADAPTERS)
QUIET = "shakespeare-lora"
MIXED = (QUIET, "bible", "python")


def hardly_moved(seen: Seen) -> Verdict:
    """Whether a large exponent was tried on experts of nearly equal norms."""
    k, found = seen.number("k"), weights(seen)
    if not k >= 6:
        return False, f"k is {k:g}. Move it to 6 or more, where the expert that moved furthest should win."
    told = listed([f"{name} {weight:.2f}" for name, weight in found.items()])
    return True, f"Even at k = {k:g} the coefficients are {told}: nobody takes all, since no norm stands out."


def adapters(seen: Seen) -> Verdict:
    """Whether the three adapters stand in the place of the three fine-tunes."""
    if missing := [name for name in ADAPTERS if name not in seen.experts]:
        return False, f"Still missing among the experts: {listed(missing)}."
    if others := [name for name in seen.experts if name not in ADAPTERS]:
        return False, f"The adapters are there. Now take out {listed(others)}."
    assert seen.comparison
    told = listed([f"{length:.1f}" for length in lengths(seen.comparison).values()])
    return True, f"The adapters' norms are {told}: about two thirds of the full fine-tunes', and zero in some tensors."


def drowned(seen: Seen) -> Verdict:
    """Whether the quiet expert has less than a tenth."""
    k, share = seen.number("k"), weights(seen).get(QUIET, 1.0)
    words = f"At k = {k:g} the adapter enters with {share:.2f}"
    if share >= 0.1:
        return False, f"{words}. Raise k until that is below 0.1."
    return True, f"{words}: the loud experts have taken nearly everything. The norms did that, not the tasks."


def heard(seen: Seen) -> Verdict:
    """Whether the quiet expert counts for more than the others."""
    k, found = seen.number("k"), weights(seen)
    share = found.pop(QUIET, 0.0)
    most = max(found.values(), default=1.0)
    words = f"At k = {k:g} the adapter enters with {share:.2f}, and the larger of the others with {most:.2f}"
    if share <= most:
        return False, f"{words}. Lower k below 0, where small norms count for more."
    return True, f"{words}: a negative k turns the quiet one up."


def by_factors(seen: Seen) -> Verdict:
    """Whether the adapters' factors are averaged, and not their products."""
    reading = seen.values.get("lora")
    if reading != "factors":
        return False, f"The choice LoRA adapters is {reading}. Choose factors, and compare the coefficients."
    own = max(weights(seen).values(), default=1 / 9)
    return True, f"Each adapter's own product now enters with {own:.2f} at most; the rest is B of one and A of another."


LESSON = Lesson(
    "norms",
    "Norms, FroM and LoRA",
    6,
    (
        Step(
            "Weights from norms",
            r"""
            [FroM](https://arxiv.org/abs/2506.02478) asks the norms how much each expert should count, tensor by
            tensor:

            $$\alpha_i = \frac{\lVert\tau_i\rVert_F^{\,k}}{\sum_j \lVert\tau_j\rVert_F^{\,k}}$$

            With $k = 0$ that is the average. With a large $k$ whoever moved furthest takes all. Our three experts
            were trained alike, and their norms are [[norm_shakespeare]], [[norm_bible]] and [[norm_python]]. Nearly
            equal numbers have nearly equal powers, so here the exponent can do little.
            """,
            Setup("from", {"k": 1.0}, view="coefficients"),
            "Move Exponent k to 6 or more, and watch how far the coefficients follow.",
            hardly_moved,
        ),
        Step(
            "Adapters are quieter",
            r"""
            A LoRA adapter does not change a matrix freely. It adds a product of two thin ones, of rank 8 here, and
            leaves embeddings and norms alone:

            $$\tau = \tfrac{\mathrm{alpha}}{r}\, B A$$

            It learns less, moves less, and costs less. Trained on the same texts, the three adapters gain
            [[gain_shakespeare_lora]], [[gain_bible_lora]] and [[gain_python_lora]] nats on their subjects, where full
            fine-tuning gains [[gain_shakespeare]], [[gain_bible]] and [[gain_python]]
            ([paper](https://arxiv.org/abs/2106.09685)).
            """,
            Setup("from", {"k": 1.0}, view="layers"),
            "Replace the three experts by their adapters: shakespeare-lora, bible-lora and python-lora.",
            adapters,
            frozenset({"experts"}),
        ),
        Step(
            "The loud win",
            r"""
            Now mix them: Shakespeare as an adapter, Bible and Python in full. Its norm is [[norm_shakespeare_lora]]
            beside their [[norm_bible]] and [[norm_python]]. At $k = 1$, the default, the adapter already enters its
            matrices with less than a third, and every step up makes it worse, since the powers of unequal numbers run
            apart. A larger norm may mean that an expert knows more, or only that it was trained longer, or in another
            way.
            """,
            Setup("from", {"k": 0.0}, MIXED, "coefficients"),
            "Raise Exponent k until the adapter enters with less than 0.1.",
            drowned,
        ),
        Step(
            "Hearing the quiet one",
            r"""
            A negative $k$ turns the weights round: who moved least counts most. At $k = -1$ every expert even enters
            with the same length, since $\alpha_i\,\tau_i$ is then its direction alone, times one common number. On
            unseen Shakespeare the loss of this merge is [[mix_8]] nats with $k = 8$, [[mix_0]] with $k = 0$ and
            [[mix_minus2]] with $k = -2$; the base has [[base_shakespeare]]. The exponent decides who is heard.
            """,
            Setup("from", {"k": 1.0}, MIXED, "coefficients"),
            "Lower Exponent k until the adapter counts more than each of the others.",
            heard,
        ),
        Step(
            "Products or factors",
            r"""
            Adapters can be averaged in two ways. Averaging the products $B_iA_i$ is what the formula says; their
            norms need no large matrix, since $\lVert BA\rVert^2 = \mathrm{tr}\,(B^\top B\,AA^\top)$, but three ranks
            of 8 add up to 24. Averaging $A$ and $B$ apart keeps rank 8, and is something else:

            $$\Big(\sum_i \beta_i B_i\Big)\Big(\sum_j \alpha_j A_j\Big)$$

            That also holds every $B_iA_j$ of two experts, which nobody trained.
            """,
            Setup("from", {"k": 1.0, "lora": "product"}, ADAPTERS, "coefficients"),
            "Set LoRA adapters to factors, and see what the coefficients become.",
            by_factors,
        ),
    ),
)
