"""Every kernel against the torch definition that it stands for, byte for byte."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from merging import gram, groups, kernels, ranking, vectors
from merging.kernels import bits as stored
from merging.kernels import sparse, sums
from merging.method import METHODS, Bits, Group, Groups
from merging.methods import pcb, sce, ties
from merging.ranking import NotFiniteError
from merging.statistics import measures
from merging.writer import writer

SIZES = [1, 7, 2047, 2048, 2049, 5000]
SPECIAL = [0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x0080, 0x7F7F, 0xFF7F, 0x3F80, 0xBF80]  # bfloat16, finite


@contextmanager
def on_path(numba: bool) -> Iterator[None]:
    """The kernels, or the torch code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "usable", lambda: numba)
        yield


def bfloats(values: Bits) -> Bits:
    """float32 rounded to bfloat16, as bits."""
    rounded = torch.from_numpy(values.astype(np.float32)).bfloat16().view(torch.int16).numpy()
    return rounded.view(np.uint16)


def floats(bits: Bits) -> torch.Tensor:
    """What stored bits are, as float32."""
    wide = bits.astype(np.uint32) << 16 if bits.itemsize == 2 else bits
    return torch.from_numpy(wide.view(np.float32).copy())


def near(random: np.random.Generator, shape: tuple[int, int]) -> Bits:
    """Experts that moved little, so that bfloat16 makes many task vectors the same, opposite or zero."""
    return np.float32(random.normal(0, 0.02, shape[1]) + random.normal(0, 2e-4, shape) * (random.random(shape) < 0.8))


def grid(random: np.random.Generator, shape: tuple[int, int]) -> Bits:
    """Small whole numbers of both signs: draws, ties and both zeros everywhere."""
    return np.float32(random.integers(-2, 3, shape) * random.choice([-0.25, 0.25], shape))


def wide(random: np.random.Generator, shape: tuple[int, int]) -> Bits:
    """Any magnitude from denormal ones to large ones, yet none whose merge overflows."""
    patterns = random.integers(0, 0x7A000000, shape, np.uint32) | random.integers(0, 2, shape, np.uint32) << 31
    return patterns.astype(np.uint32).view(np.float32)


def edges(random: np.random.Generator, shape: tuple[int, int]) -> Bits:
    """The ends of what bfloat16 can hold, whose differences overflow."""
    return (random.choice(SPECIAL, shape).astype(np.uint32) << 16).view(np.float32)


def faint(random: np.random.Generator, shape: tuple[int, int]) -> Bits:
    """Numbers whose squares float32 cannot hold."""
    return np.float32(random.normal(0, 1e-25, shape))


@st.composite
def chunks(draw: st.DrawFn, least: int = 1, kinds: tuple[Any, ...] = (near, grid, wide, edges)) -> Bits:
    """Stored bits of a base and one to four experts, (1 + experts, entries)."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (1 + draw(st.integers(least, 4)), draw(st.sampled_from(SIZES)))
    values = draw(st.sampled_from(kinds))(random, shape)
    return bfloats(values) if draw(st.booleans()) else values.view(np.uint32)


WEIGHTS = st.one_of(
    st.lists(st.sampled_from([1.0, -1.0, 0.5, 0.0, 2.0]), min_size=4, max_size=4),  # some cancel
    st.lists(st.floats(-2, 3, width=32), min_size=4, max_size=4),
)


def merged(
    name: str, bits: Bits, weight: list[float], like: Any, numba: bool, row: int = 0, **values: Any
) -> tuple[Any, Bits]:
    """Whether the merge of one chunk is finite, and its bits; None where the survey already has something to say."""
    method = METHODS[name]
    experts = method.taking(len(bits) - 1)
    bits = bits[: 1 + experts]
    with on_path(numba):
        given = {"weight": weight[:experts]} if "weight" in method.params else {}
        known = method.filled({**values, **given}, experts)
        group, out = Group.of_bits("w", bits, start=3).weighed(known["weight"]), np.empty(bits.shape[1], like)
        group.axes = (row or bits.shape[1],)
        group.unit = method.unit(group.row)
        try:
            survey = method.look(Groups.of([group]), known)
        except NotFiniteError:
            return None, out
        return writer(method, survey, known, group)(group, out), out


def assert_same(name: str, bits: Bits, weight: list[float], like: Any, row: int = 0, **values: Any) -> None:
    """That kernel and torch agree: on the bytes where the merge is finite, and else on its not being so."""
    (finite, fast), (known, slow) = (merged(name, bits, weight, like, numba, row, **values) for numba in (True, False))

    assert finite == known
    if finite:
        assert fast.tobytes() == slow.tobytes()


DTYPES = st.sampled_from([np.uint16, np.uint32])
STEPS = st.sampled_from([1.0, 0.4, -1.0, 0.0, 2.7])


@given(bits=chunks(), weight=WEIGHTS, like=DTYPES, scaling=STEPS)
def test_a_sum_of_task_vectors(bits: Bits, weight: list[float], like: Any, scaling: float) -> None:
    assert_same("task_arithmetic", bits, weight, like, scaling=scaling)


@given(bits=chunks(), weight=WEIGHTS, like=DTYPES)
def test_a_sum_of_models(bits: Bits, weight: list[float], like: Any) -> None:
    assert_same("linear", bits, weight, like, normalize=False)


@given(bits=chunks(), like=DTYPES, k=st.sampled_from([0.0, 1.0, -1.0, 4.0]))
def test_a_sum_by_norms(bits: Bits, like: Any, k: float) -> None:
    assert_same("from", bits, [], like, k=k)


@given(bits=chunks(kinds=(near, grid, wide, edges, faint)))
def test_what_a_first_pass_notes_of_task_vectors(bits: Bits) -> None:
    known = []
    for numba in (True, False):
        with on_path(numba):
            look = measures.Look(len(bits) - 1)
            measured = look.tile(Group.of_bits("w", bits))
            known.append((look.counted(), *map(torch.from_numpy, measured)))

    (fast, squares, products, powers), (slow, _, _, expected) = known
    for part in ("counts", "still", "both", "conflicts"):
        assert np.array_equal(getattr(fast, part), getattr(slow, part))
    tau = Group.of_bits("w", bits).tau.double()
    sizes = torch.stack([tau.abs().pow(power).sum(1) for power in (1, 3, 4)])
    close = (powers - expected).abs() <= 1e-12 * sizes
    assert bool((close | ~expected.isfinite()).all())
    assert torch.equal(powers.isfinite(), expected.isfinite())
    with on_path(True):  # as in a merge, to the last bit
        group = Group.of_bits("w", bits)
        assert squares.numpy().tobytes() == vectors.squared_norms(group).numpy().tobytes()
        assert np.array_equal(products.numpy(), gram.products(group).numpy(), equal_nan=True)


@given(bits=chunks(kinds=(near, grid, wide, edges, faint)), densities=st.integers(1, 3))
def test_what_trimming_leaves_of_pairs(bits: Bits, densities: int) -> None:
    sizes = Group.of_bits("w", bits).tau.abs()
    places = [size * (place + 1) // 4 for place in range(densities) for size in [sizes.shape[1]]]
    thresholds = sizes.sort(1).values[:, [min(place, sizes.shape[1] - 1) for place in places]].contiguous()
    known = []
    for numba in (True, False):
        left = measures.Left.empty(*thresholds.shape)
        with on_path(numba):
            known.append((left, torch.from_numpy(measures.trimmed(Group.of_bits("w", bits), thresholds, left))))

    (fast, products), (slow, expected) = known
    assert np.array_equal(fast.both, slow.both)
    assert np.array_equal(fast.conflicts, slow.conflicts)
    assert torch.equal(products.isfinite(), expected.isfinite())
    lengths = expected.diagonal(dim1=1, dim2=2).sqrt()
    close = (products - expected).abs() <= 1e-5 * lengths[:, :, None] * lengths[:, None]
    assert bool((close | ~expected.isfinite()).all())


@given(bits=chunks(), based=st.booleans())
def test_inner_products(bits: Bits, based: bool) -> None:
    group = Group.of_bits("w", bits)
    group.based = based

    with on_path(True):
        fast = gram.products(group)
    with on_path(False):
        slow = gram.products(group)

    assert torch.equal(fast.nan_to_num(), fast.T.nan_to_num())
    finite = slow.isfinite()
    assert torch.equal(fast.isfinite(), finite)
    sizes = slow.diagonal().sqrt()
    close = (fast - slow).abs() <= 1e-12 * sizes[:, None] * sizes
    assert bool((close | ~finite).all())
    assert based or not fast[0].any()


NEGATIVE_ZEROS = np.full((3, 5), 0x8000, np.uint16)
DENSITIES = st.one_of(st.floats(0.01, 1.0), st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4))


@pytest.mark.parametrize("merge", ["mean", "sum"])
@profile(max_examples=60)
@given(
    bits=chunks(),
    weight=WEIGHTS,
    like=DTYPES,
    scaling=STEPS,
    density=DENSITIES,
    variant=st.sampled_from(["release", "mergekit"]),
)
@example(NEGATIVE_ZEROS, [-1.0, -1.0], np.uint16, 1.0, 1.0, "release")
def test_ties(
    merge: str, bits: Bits, weight: list[float], like: Any, scaling: float, density: Any, variant: str
) -> None:
    density = density[: len(bits) - 1] if isinstance(density, list) else density

    assert_same("ties", bits, weight, like, merge=merge, scaling=scaling, density=density, variant=variant)


@given(bits=chunks(kinds=(near, grid, wide)), weight=WEIGHTS, share=st.floats(0, 1))
def test_the_balance_of_an_election(bits: Bits, weight: list[float], share: float) -> None:
    group = Group.of_bits("w", bits).weighed(torch.tensor(weight[: len(bits) - 1]))
    trim = ties.Trim(group.tau.abs().quantile(share, dim=1), torch.ones(len(bits) - 1), torch.ones(()))

    found = []
    for numba in (True, False):
        with on_path(numba):
            found.append(ties._balance(group, trim, "mass").item())

    assert found[0] == found[1]


@given(bits=chunks())
def test_magnitudes(bits: Bits) -> None:
    group = Group.of_bits("w", bits)
    found = []

    for numba in (True, False):
        with on_path(numba):
            found.append(vectors.magnitudes(group).numpy().tobytes())

    assert found[0] == found[1]


@given(bits=chunks(kinds=(near, grid, wide, edges, faint)))
@example(bits=np.zeros((3, 2049), np.uint16))
def test_norms(bits: Bits) -> None:
    group = Group.of_bits("w", bits)
    fast = vectors.squared_norms(group)
    with on_path(False):
        plain = vectors.squared_norms(group)

    assert fast.numpy().tobytes() == plain.numpy().tobytes()
    if bool(group.tau.isfinite().all()):
        torch.testing.assert_close(fast, group.tau.double().square().sum(1), rtol=2e-7, atol=0)


@given(bits=chunks(), share=st.floats(0, 1))
def test_sums_of_magnitudes(bits: Bits, share: float) -> None:
    group = Group.of_bits("w", bits)
    kept = torch.where(torch.rand(group.tau.shape) < share, group.tau, 0.0)

    fast = torch.from_numpy(sparse.sums(bits, kept.numpy()))

    assert torch.equal(fast, torch.stack([vectors.sums(kept.abs()), vectors.sums(group.tau.abs())], 1))
    torch.testing.assert_close(fast[:, 1], group.tau.double().abs().sum(1))


@given(bits=chunks(kinds=(near, grid, wide)), share=st.floats(0, 1))
def test_sums_of_squares_of_what_varies_enough(bits: Bits, share: float) -> None:
    group = Group.of_bits("w", bits)
    threshold = sce.variance(group.tau).quantile(share)
    found = []

    for numba in (True, False):
        with on_path(numba):
            found.append(sce._squares(group, threshold))

    assert torch.equal(*found)
    torch.testing.assert_close(found[0], sce._selected(group.tau, threshold).double().square().sum(1))


@given(bits=chunks(), low=st.integers(0, 0xFE000000), width=st.integers(0, 300 << 8), where=st.booleans())
def test_counts_in_an_interval(bits: Bits, low: int, width: int, where: bool) -> None:
    values = floats(bits)
    model = np.concatenate([np.zeros_like(bits[:1]), bits])  # whose task vectors are the values
    places = ranking.Intervals((len(bits), 2))
    for expert, row in enumerate(values):
        starts = int(ranking._codes(row)[0]) if where else low, low
        for rank, first in enumerate(min(start, 0xFE000000) for start in starts):
            places.set((expert, rank), first, first + width, most=512)
    tallies = []

    for numba in (True, False):
        with on_path(numba):
            groups = Groups.of([Group.of_bits("w", model)])
            tallies.append(ranking._pass(groups, lambda group: group.experts, None, places))

    for begin, bins in zip(places.begins.flat, places.bins.flat, strict=True):
        for part in ("counts", "mixed"):
            one, other = (getattr(tally, part)[begin : begin + bins] for tally in tallies)
            assert (one == other).all()
    for part in ("below", "least", "largest"):
        assert (getattr(tallies[0], part) == getattr(tallies[1], part)).all()


@given(bits=chunks(kinds=(near, grid, wide)), low=st.integers(0, 0xFE000000), shift=st.integers(0, 12))
def test_magnitudes_are_counted_as_they_are(bits: Bits, low: int, shift: int) -> None:
    groups, places = Groups.of([Group.of_bits("w", bits)]), ranking.Intervals((len(bits) - 1, 1))
    for expert in range(len(bits) - 1):
        places.set((expert, 0), low, low + (400 << shift), most=512)

    one, other = (
        ranking._pass(groups, vectors.magnitudes, count, places) for count in (vectors.count_magnitudes, None)
    )

    for part in ("below", "counts", "mixed", "least", "largest"):
        assert (getattr(one, part) == getattr(other, part)).all()


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("bins", [4, 1 << 17])
@given(
    bits=chunks(kinds=(near, grid, wide)),
    share=st.floats(0, 1),
    runs=st.sampled_from([(512, 1024), (4, 3), (2, 1), (3, 500)]),
)
@profile(max_examples=25)
def test_order_statistics_are_those_of_a_sort(
    numba: bool, bins: int, bits: Bits, share: float, runs: tuple[int, int]
) -> None:
    """Whatever a sample suggests, and however coarse the bins are."""
    values = floats(bits)
    last = bits.shape[1] - 1
    wanted = [0, round(share * last), last // 2, last]
    model = np.concatenate([bits[:1], bits])  # a base that nobody looks at

    with on_path(numba), pytest.MonkeyPatch.context() as patch:
        for module, name, value in [(groups, "FEW", 0), (ranking, "BINS", bins)]:
            patch.setattr(module, name, value)
        patch.setattr(ranking, "SAMPLED", runs[0])
        patch.setattr(ranking, "RUN", runs[1])
        several = [
            Group.of_bits("w", model).cut(start, min(start + 999, last + 1)) for start in range(0, last + 1, 999)
        ]
        found = ranking.order_statistics(Groups.of(several), lambda group: group.experts, lambda *_: wanted)

    # A sort takes both zeros for the same number; their codes differ, and so may the zero that is found.
    assert torch.equal(found, values.sort(1).values[:, wanted])


@pytest.mark.parametrize(("name", "param"), [("magmax", ""), ("emr", ""), ("ram", "epsilon"), ("nearswap", "t")])
@given(bits=chunks(), like=DTYPES, scaling=STEPS, value=st.sampled_from([0.0, 1e-5, 2e-4, 0.25, 3.0]))
def test_what_looks_at_one_entry(name: str, param: str, bits: Bits, like: Any, scaling: float, value: float) -> None:
    assert_same(name, bits, [], like, **({param: value} if param else {"scaling": scaling}))


@given(
    bits=chunks(),
    like=DTYPES,
    scaling=STEPS,
    tall_lambda=st.sampled_from([0.0, 0.4, 0.5, 1.0]),
    threshold=st.integers(0, 4),
)
def test_consensus(bits: Bits, like: Any, scaling: float, tall_lambda: float, threshold: int) -> None:
    assert_same("consensus_ta", bits, [], like, scaling=scaling, tall_lambda=tall_lambda, threshold=threshold)


@given(bits=chunks(), like=DTYPES, select_topk=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
def test_sce(bits: Bits, like: Any, select_topk: float) -> None:
    assert_same("sce", bits, [], like, select_topk=select_topk)


def row_of(data: st.DataObject, bits: Bits) -> int:
    """The length of the rows that a chunk consists of."""
    size = bits.shape[1]
    return data.draw(st.sampled_from([row for row in (1, 7, 23, 50, 64, 625, 683, size) if size % row == 0]))


@given(bits=chunks(), like=DTYPES, data=st.data())
def test_arcee_fusion(bits: Bits, like: Any, data: st.DataObject) -> None:
    assert_same("arcee_fusion", bits, [], like, row=row_of(data, bits))


@pytest.mark.parametrize("rescale", ["probability", "l1", "none"])
@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
@given(
    bits=chunks(),
    weight=WEIGHTS,
    like=DTYPES,
    scaling=STEPS,
    density=st.sampled_from([0.1, 0.5, 0.9, 1.0, 0.0]),
    data=st.data(),
)
@profile(max_examples=20)
def test_what_drops_at_random(
    name: str,
    rescale: str,
    bits: Bits,
    weight: list[float],
    like: Any,
    scaling: float,
    density: float,
    data: st.DataObject,
) -> None:
    rule = {"merge": ["mean", "sum"]} if "merge" in METHODS[name].params else {"normalize": [False, True]}
    own = {key: data.draw(st.sampled_from(values)) for key, values in rule.items()}

    assert_same(name, bits, weight, like, row_of(data, bits), scaling=scaling, density=density, rescale=rescale, **own)


@pytest.mark.parametrize("rescale", ["l1", "none"])
@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
@given(
    bits=chunks(),
    weight=WEIGHTS,
    like=DTYPES,
    scaling=STEPS,
    density=DENSITIES,
    gamma=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    data=st.data(),
)
@profile(max_examples=20)
def test_breadcrumbs(
    name: str,
    rescale: str,
    bits: Bits,
    weight: list[float],
    like: Any,
    scaling: float,
    density: Any,
    gamma: float,
    data: st.DataObject,
) -> None:
    rule = {"merge": ["mean", "sum"]} if "merge" in METHODS[name].params else {"normalize": [False, True]}
    own = {key: data.draw(st.sampled_from(values)) for key, values in rule.items()}
    density = density[: len(bits) - 1] if isinstance(density, list) else density

    assert_same(name, bits, weight, like, scaling=scaling, density=density, gamma=gamma, rescale=rescale, **own)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("size", [(1 << 17) - 1, 1 << 17, (1 << 17) + 1])
def test_chunks_of_a_whole_tile(method: str, size: int) -> None:
    bits = bfloats(near(np.random.default_rng(size), (4, size)))

    if method == "pcb":
        assert_close_in_bfloat16(bits, {})
    else:
        assert_same(method, bits, [1.0, 0.5, -0.25], np.uint16)


def scores(bits: Bits, variant: str, numba: bool) -> tuple[Bits, pcb.Competition]:
    """The scores of a chunk, and what its survey says."""
    with on_path(numba):
        survey = pcb.survey(Groups.of([Group.of_bits("w", bits)]), variant=variant)
        return pcb._scores(Group.of_bits("w", bits), survey, variant).numpy().copy(), survey


@pytest.mark.parametrize("variant", ["release", "nlp", "vision", "pairwise"])
@given(bits=chunks(least=2, kinds=(near, grid)))
def test_scores_of_pcb_are_a_few_units_in_the_last_place_from_torch(variant: str, bits: Bits) -> None:
    (fast, known), (slow, plain) = scores(bits, variant, True), scores(bits, variant, False)

    assert torch.equal(known.low, plain.low)
    assert torch.equal(known.high, plain.high)
    size = np.abs(slow)
    if variant == "pairwise":  # a sum whose summands may cancel: each is as exact as its own size
        size = largest_scores(bits, plain)
    assert (np.abs(fast - slow) <= 8 * np.finfo(np.float32).eps * size).all()


def largest_scores(bits: Bits, survey: pcb.Competition) -> Bits:
    """What the scores of `pairwise` would be if all experts agreed fully."""
    low, high, experts = survey.low[:, None], survey.high[:, None], survey.moved.sum()
    normal = (Group.of_bits("w", bits).tau.abs().clamp(low, high) - low) / (high - low)
    return (experts * torch.exp(experts * (normal.nan_to_num(1.0).square() - 1))).numpy()


def assert_close_in_bfloat16(bits: Bits, values: dict[str, Any]) -> None:
    """That kernel and torch differ by one step of bfloat16 at most, leaving out what is decided by a hair."""
    outs = [merged("pcb", bits, [1.0, 0.5, 1.0, 2.0], np.uint16, numba, **values) for numba in (True, False)]

    assert [finite for finite, _ in outs] == [True, True]
    fast, slow = (floats(out) for _, out in outs)
    models = floats(bits)
    largest = torch.maximum(fast.abs(), slow.abs())
    step = torch.from_numpy(np.exp2(np.floor(np.log2(np.maximum(largest.numpy(), 1e-30))) - 7))
    allowed = step + models.abs().amax(0) * 2.0**-20  # of which a sum that cancels keeps the rounding
    assert ((fast - slow).abs() <= allowed).logical_or(by_a_hair(bits, values)).all()


def by_a_hair(bits: Bits, values: dict[str, Any]) -> torch.Tensor:
    """The entries, (entries), of which some expert's score is at the threshold but for its last places."""
    score, survey = scores(bits, values.get("variant", "release"), False)
    gap = (torch.from_numpy(score) - survey.threshold[:, None]).abs()
    return (gap <= 2.0**-18 * survey.best[:, None].abs()).any(0)


@pytest.mark.parametrize("variant", ["release", "nlp", "vision", "pairwise"])
@given(bits=chunks(least=2, kinds=(near,)), ratio=st.sampled_from([0.1, 0.2, 0.5, 1.0]), scaling=STEPS)
def test_pcb_differs_by_one_step_of_bfloat16_at_most(variant: str, bits: Bits, ratio: float, scaling: float) -> None:
    assert_close_in_bfloat16(bits, {"variant": variant, "ratio": ratio, "scaling": scaling})


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("variant", ["release", "nlp", "vision", "pairwise"])
def test_pcb_scores_an_entry_the_same_wherever_it_stands(variant: str, numba: bool) -> None:
    bits = bfloats(near(np.random.default_rng(3), (4, 5000)))
    whole, survey = scores(bits, variant, numba)

    with on_path(numba):
        for start, stop in [(0, 1), (1, 2), (13, 2048), (2047, 2050), (4990, 5000)]:
            part = Group.of_bits("w", np.ascontiguousarray(bits[:, start:stop]))
            found = pcb._scores(part, survey, variant).numpy()
            assert found.tobytes() == np.ascontiguousarray(whole[:, start:stop]).tobytes()


def every_float() -> torch.Tensor:
    """One float32 of every upper half, with lower halves at, just above and just below the middle."""
    upper = torch.arange(1 << 16).repeat_interleave(6) << 16
    codes = upper + torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]).repeat(1 << 16)
    values = torch.where(codes < 2**31, codes, codes - 2**32).int().view(torch.float32)
    return values[values.isfinite()]


def test_rounding_to_bfloat16_is_that_of_torch_for_every_kind_of_number() -> None:
    values, expected = every_float(), every_float().bfloat16().view(torch.int16).numpy().view(np.uint16)
    out = np.empty(len(values), np.uint16)

    largest = stored.lower(values.numpy(), out)

    assert (out == expected).all()
    assert largest == 0x7F800000  # the largest ones round to infinity, and that is told


@pytest.mark.parametrize("number", [0x7F80, 0xFF80, 0x7FC1, 0xFFFF])
@pytest.mark.parametrize("at", [0, 2048])
@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("numba", [True, False])
def test_what_is_not_finite_is_told(numba: bool, method: str, row: int, at: int, number: int) -> None:
    bits = bfloats(near(np.random.default_rng(0), (3, 2049)))
    bits[min(row, METHODS[method].taking(2)), at] = number

    finite, _ = merged(method, bits, [1.0, 1.0], np.uint16, numba)

    assert bool(finite) == (method == "linear" and row == 0)  # which does not look at the base


@pytest.mark.parametrize("numba", [True, False])
def test_a_float32_that_rounds_to_infinity_is_told(numba: bool) -> None:
    bits = np.full((2, 3), 0x7F7FFFFF, np.uint32)

    assert merged("linear", bits, [1.0], np.uint32, numba)[0]
    assert not merged("linear", bits, [1.0], np.uint16, numba)[0]


@pytest.mark.parametrize("expert", [np.float32(1.0), np.float32(-0.0)])
def test_a_kernel_is_used_where_it_can_be(expert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def noted(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (used.append(name), kernel(*given))[1]

    monkeypatch.setattr(sums, "weighted_sum", noted("sum", sums.weighted_sum))
    bits = np.full((2, 3), expert.view(np.uint32), np.uint32)

    for numba in (True, False):
        merged("linear", bits, [1.0], np.uint32, numba)

    assert used == ["sum"]
