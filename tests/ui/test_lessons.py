"""The lessons: every number that they say is measured here, and every check is met and missed on the real family."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from merging import METHODS, Recipe, merge
from merging.adapter import open_base, open_expert
from merging.compare import Comparison, compare
from merging.engine import merge_groups
from merging.groups import Groups
from merging.method import Group
from merging.methods.frobenius import norm_weights
from merging.methods.pcb import survey
from ui.asked import Asked
from ui.events import PRIVATE
from ui.family import ZOO
from ui.lessons import LESSONS
from ui.lessons.facts import FACTS, filled
from ui.lessons.lesson import EXPERTS, VIEWS, Lesson, Seen, Setup, Step
from ui.lessons.norms import ADAPTERS, MIXED
from ui.lessons.numbers import step, trimmed, weights
from ui.lessons.panel import LessonsPanel, checked, lessons_panel, shown, wire_lessons
from ui.lessons.place import Place, heading, known, linked, offer, with_step

STEPS = [(slug, index) for slug, lesson in LESSONS.items() for index in range(len(lesson.steps))]
PAIR = ("shakespeare", "bible")
V_PROJ = "model.layers.0.self_attn.v_proj.weight"


@cache
def comparison(experts: tuple[str, ...]) -> Comparison:
    base = open_base(ZOO / "base")
    return compare(base, [open_expert(ZOO / name, base) for name in experts])


def seen(setup: Setup, **more: Any) -> Seen:
    """What a visitor would have in front of them; values of the method by their keys, the rest as `Seen` has it."""
    own = {name: more.pop(name) for name in ("tensor", "prompts", "merges") if name in more}
    if "method" in more:
        setup = replace(setup, method=more.pop("method"), values={})
    setup = replace(setup, experts=more.pop("experts", setup.experts))
    recipe = replace(setup.recipe, weights=more.pop("weights", ()))
    recipe = replace(recipe, values={**recipe.values, **more})
    return Seen(recipe, comparison=comparison(setup.experts), **own)


def told_by(prompt: str, setup: Setup, **values: Any) -> dict[str, tuple[Asked, ...]]:
    """That base, experts and the merge of a setup have answered a prompt."""
    recipe = replace(setup.recipe, values={**setup.recipe.values, **values})
    return {"prompts": (Asked(prompt, tuple(str(path) for path in (ZOO / "base", *recipe.experts)), recipe),)}


def a_step(slug: str, index: int) -> Step:
    return LESSONS[slug].steps[index]


TIES = Recipe("ties", ZOO / "base", tuple(ZOO / name for name in EXPERTS), values={"density": 0.3})
# What meets each check.
DONE: dict[tuple[str, int], dict[str, Any]] = {
    ("task-vectors", 0): {"tensor": "model.norm.weight"},
    ("task-vectors", 1): {"tensor": V_PROJ},
    ("task-vectors", 2): {"experts": EXPERTS},
    ("task-vectors", 3): {"lambda": 1, **told_by("[Enter ", a_step("task-vectors", 3).setup, **{"lambda": 1.0})},
    ("task-vectors", 4): {"lambda": 1.5},
    ("averaging", 0): told_by("7 And the LORD said unto Moses", a_step("averaging", 0).setup),
    ("averaging", 1): {"method": "linear"},
    ("averaging", 2): {"experts": ("bible", "python")},
    ("averaging", 3): {"lambda": 0.45},
    ("averaging", 4): {"lambda": 1, **told_by("x", a_step("averaging", 4).setup, **{"lambda": 1})},
    ("interference", 0): {"experts": PAIR},
    ("interference", 1): {"density": 0.2},
    ("interference", 2): {"tensor": V_PROJ},
    ("interference", 3): {"lambda": 0.8},
    ("interference", 4): {"merges": (TIES,), "prompts": (Asked("x", (), TIES),)},
    ("competition", 0): {"tensor": V_PROJ},
    ("competition", 1): {"ratio": 0.3},
    ("competition", 2): {"weights": (1.0, 1.0, 0.0)},
    ("competition", 3): {"variant": "pairwise"},
    ("competition", 4): {"lambda": 0.5, **told_by("x", a_step("competition", 4).setup, **{"lambda": 0.5})},
    ("norms", 0): {"k": 8.0},
    ("norms", 1): {"experts": ADAPTERS},
    ("norms", 2): {"k": 8.0},
    ("norms", 3): {"k": -2.0},
    ("norms", 4): {"lora": "factors"},
}
# What falls short of a check, and a word by which the sentence says so.
SHORT: list[tuple[str, int, dict[str, Any], str]] = [
    ("task-vectors", 0, {"tensor": "no.such"}, "No tensor has been clicked yet"),
    ("task-vectors", 1, {"tensor": "model.norm.weight"}, "another tensor by 32.9%"),
    ("task-vectors", 2, {"experts": PAIR}, "Still missing among the experts: python."),
    ("task-vectors", 3, {"lambda": 1}, "Now ask base, expert and this merge"),
    ("task-vectors", 3, {"lambda": 1, **told_by("x", a_step("task-vectors", 3).setup, **{"lambda": 1})}, "“[Enter ”"),
    ("averaging", 0, told_by("def read", a_step("averaging", 0).setup), "have not answered it yet"),
    ("averaging", 0, told_by("7 And the LORD said unto ", Setup("ties", experts=PAIR)), "have not answered it yet"),
    ("averaging", 4, {"lambda": 1, **told_by("x", a_step("averaging", 4).setup)}, "sample a prompt from this merge"),
    ("averaging", 4, {"lambda": 1, "prompts": (Asked("x", (str(ZOO / "base"),)),)}, "sample a prompt from this merge"),
    ("competition", 4, {"lambda": 0.5, **told_by("x", Setup("ties"))}, "and this merge"),
    ("averaging", 1, {"method": "linear", "weights": (1.0, 1.0, 0.0)}, "do not count the same"),
    ("averaging", 1, {"method": "linear", "normalize": False}, "is 1.00, and in the average of 3 it is 0.33. Switch"),
    ("averaging", 1, {"method": "linear", "normalize": False, "weights": (0.5,) * 3}, "Every coefficient is 0.50, and"),
    ("averaging", 3, {"lambda": 0.3}, "too short"),
    ("averaging", 3, {"lambda": 0.7}, "too long"),
    ("averaging", 4, {"lambda": 1}, "Now sample a prompt"),
    ("interference", 0, {"experts": ("bible", "python")}, "try the one with the largest cosine"),
    ("interference", 1, {"density": 0.5}, "Trim more"),
    ("interference", 1, {"density": 0.05}, "raise ρ again"),
    ("interference", 3, {"lambda": 1.0}, "Lower λ"),
    ("interference", 3, {"lambda": 0.5}, "Raise λ"),
    ("interference", 4, {"merges": (Recipe("ties", ZOO / "base", (ZOO / "bible",)),)}, "of other experts"),
    ("interference", 4, {"merges": (TIES,)}, "was asked nothing yet"),
    ("interference", 4, {"merges": (TIES,), **told_by("x", Setup("ties"))}, "was asked nothing yet"),
    ("interference", 4, {"merges": (Recipe("pcb", ZOO / "base", (ZOO / "bible",)),)}, "No TIES merge"),
    ("competition", 1, {"ratio": 0.6}, "Lower r"),
    ("competition", 4, {"lambda": 0.5}, "Now sample a prompt"),
    ("norms", 1, {"experts": (*ADAPTERS, "bible")}, "Now take out bible."),
    ("norms", 2, {"k": 2.0}, "Raise k"),
]


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=list(LESSONS))
def test_a_lesson_is_short_and_starts_from_recipes_that_can_be_merged(lesson: Lesson) -> None:
    assert 4 <= len(lesson.steps) <= 6
    assert 3 <= lesson.minutes <= 8
    for one in lesson.steps:
        words = re.sub(r"\$\$.*?\$\$|\]\(.*?\)|^\|.*?$", " ", one.text, flags=re.S | re.M).split()
        assert len(words) <= 90, one.title
        assert one.setup.view in VIEWS
        assert one.setup.recipe.problems() == []
        assert one.text.count("$$") % 2 == 0
        assert one.text.replace("$$", "").count("$") % 2 == 0


def test_every_fact_is_told_and_every_fact_that_is_told_is_known() -> None:
    told = {
        name for lesson in LESSONS.values() for one in lesson.steps for name in re.findall(r"\[\[(\w+)\]\]", one.text)
    }

    assert told == set(FACTS)
    for slug, index in STEPS:
        assert "[[" not in filled(a_step(slug, index).text)


@pytest.mark.parametrize(("slug", "index"), STEPS)
def test_a_step_is_not_done_before_its_learner_has_done_it(slug: str, index: int) -> None:
    one = a_step(slug, index)

    right, words = one.checked(seen(one.setup))

    assert not right
    assert words.endswith(".")
    assert "nan" not in words


@pytest.mark.parametrize(("slug", "index"), STEPS)
def test_a_step_is_done_when_its_learner_has_done_it(slug: str, index: int) -> None:
    one = a_step(slug, index)

    right, words = one.checked(seen(one.setup, **DONE[slug, index]))

    assert right, words
    assert words.endswith(".")


@pytest.mark.parametrize(("slug", "index", "done", "words"), SHORT)
def test_what_falls_short_is_told_exactly(slug: str, index: int, done: dict[str, Any], words: str) -> None:
    one = a_step(slug, index)

    right, told = one.checked(seen(one.setup, **done))

    assert not right
    assert words in told


def test_a_check_first_says_that_the_screen_shows_something_else() -> None:
    one = a_step("interference", 1)
    right = seen(one.setup)
    assert right.recipe

    assert "embedded base" in one.checked(Seen())[1]
    assert "shakespeare, bible and python" in one.checked(seen(one.setup, experts=PAIR))[1]
    assert "TIES-Merging" in one.checked(seen(one.setup, method="pcb"))[1]
    assert "weights are not all 1" in one.checked(seen(one.setup, weights=(1.0, 0.5, 1.0)))[1]
    assert "not one number" in one.checked(seen(one.setup, density=[0.2, 0.4]))[1]
    assert "still being read" in one.checked(replace(right, comparison=None))[1]


# The numbers that are told.


def close(name: str, value: float) -> None:
    """Whether what is told is the value, as far as its digits go."""
    told = FACTS[name]
    value = 100 * value if told.endswith("%") else value
    digits = len(told.rstrip("%").partition(".")[2])
    assert abs(float(told.rstrip("%")) - value) <= 0.6 * 10**-digits, (name, value)


def entries(experts: tuple[str, ...]) -> torch.Tensor:
    probe = comparison(experts).probe
    assert probe.exact
    return torch.cat([group.tau.flatten(1) for group in probe.groups], dim=1)


def test_what_is_told_of_task_vectors() -> None:
    three = comparison(EXPERTS)
    tau = entries(EXPERTS)
    norms, base = tau.double().norm(dim=1), three.base_norms.norm()

    close("entries", tau.shape[1] / 1e6)
    close("moved", float((tau[0] != 0).float().mean()))
    close("relative_shakespeare", float(norms[0] / base))
    close("cosine_random", tau.shape[1] ** -0.5)
    for name, norm in zip(EXPERTS, norms.tolist(), strict=True):
        close(f"norm_{name}", norm)
    close("norm_shakespeare_lora", float(entries(ADAPTERS)[0].double().norm()))


def test_what_is_told_of_their_average_and_their_sum() -> None:
    tau = entries(EXPERTS).double()
    mean, lengths = tau.mean(0), tau.norm(dim=1)
    along = (tau @ mean) / lengths.square()

    close("average_along_least", float(along.min()))
    close("average_along_most", float(along.max()))
    close("average_length", float(mean.norm() / lengths.mean()))
    close("sum_length", float(tau.sum(0).norm() / lengths.mean()))


def test_what_is_told_of_conflicts_and_of_trimming() -> None:
    tau = entries(EXPERTS)
    count = int(0.2 * tau.shape[1])
    edges = tau.abs().topk(count).values[:, -1:]
    kept = torch.where(tau.abs() >= edges, tau, 0.0)
    keepers = (kept != 0).sum(0)
    pairs = [trimmed(comparison(pair)).conflict for pair in (PAIR, ("shakespeare", "python"), ("bible", "python"))]

    def conflicts(rows: torch.Tensor) -> torch.Tensor:
        return (rows > 0).any(0) & (rows < 0).any(0)

    close("conflict_all", float(conflicts(tau).float().mean()))
    close("conflict_20", float(conflicts(kept).float().mean()))
    close("quarrel_20", float(conflicts(kept).sum() / (keepers >= 2).sum()))
    close("energy_20", float((kept.square().sum(1) / tau.square().sum(1)).mean()))
    close("nobody_20", float((keepers == 0).float().mean()))
    close("alone_20", float((keepers == 1).float().mean()))
    close("conflict_pair_least", min(pairs))
    close("conflict_pair_most", max(pairs))
    assert pairs[0] == min(pairs)  # those of the largest cosine


def test_what_is_told_of_merged_steps() -> None:
    def made(setup: Setup) -> tuple[float, float]:
        """The share of entries that nobody decides, and the step's length, of a merge of all entries at once."""
        tau = entries(EXPERTS)
        group = Group("all", torch.zeros(tau.shape[1]), tau)
        _, merged = next(merge_groups(METHODS[setup.method], [group], **dict(setup.values)))
        return float((merged == 0).float().mean()), float(merged.norm() / tau.norm(dim=1).mean())

    ties, pcb = Setup("ties", {"density": 0.2}), Setup("pcb", {"ratio": 0.1})

    close("ties_length", made(ties)[1])
    close("nobody_pcb", made(pcb)[0])
    for setup in (ties, pcb):
        found = step(seen(setup))
        assert found
        assert (found.decided[0], found.length) == pytest.approx(made(setup), abs=1e-4)


@cache
def readme() -> dict[str, dict[str, float]]:
    """The losses of the family's README, by model or merge and by subject."""
    columns, found = ("shakespeare", "bible", "python", "general", "mean"), dict[str, dict[str, float]]()
    kind = ""
    for line in (ZOO / "README.md").read_text(encoding="utf-8").splitlines():
        kind = "lora: " if line == "### LoRA adapters" else kind
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) > 5 and re.fullmatch(r"\d\.\d+", cells[1]):
            found[kind + cells[0]] = dict(zip(columns, map(float, cells[1:6]), strict=True))
    return found


def test_what_is_told_of_losses_stands_in_the_familys_readme() -> None:
    rows, base = readme(), readme()["base"]
    gains = {name: base[name] - rows[f"expert {name}"][name] for name in EXPERTS}

    for name in EXPERTS:
        close(f"base_{name}", base[name])
        close(f"expert_{name}", rows[f"expert {name}"][name])
        close(f"gain_{name}", gains[name])
        close(f"gain_{name}_lora", base[name] - rows[f"lora: adapter {name}"][name])
        for fact, title in (
            ("average", "average (FroM k = 0)"),
            ("ties", "TIES density 0.2, λ = 1.0"),
            ("pcb", "PCB r = 0.1, λ = 1.0"),
        ):
            close(f"{fact}_kept_{name}", (base[name] - rows[title][name]) / gains[name])
    close("bible_on_python", rows["expert bible"]["python"])
    close("base_mean", base["mean"])
    close("average_mean", rows["average (FroM k = 0)"]["mean"])
    for fact, scaling in (("ta04", "0.4"), ("ta05", "0.5"), ("ta07", "0.7"), ("ta10", "1.0")):
        close(f"{fact}_mean", rows[f"task arithmetic λ = {scaling}"]["mean"])


def test_what_is_told_in_words_of_losses_is_so() -> None:
    rows, base = readme(), readme()["base"]
    average, far = rows["average (FroM k = 0)"], rows["task arithmetic λ = 1.0"]
    steps = {title: row["mean"] for title, row in rows.items() if title.startswith("task arithmetic")}

    for name in EXPERTS:
        assert average[name] < base[name] < far[name]
        assert all(rows[f"expert {name}"][other] > base[other] for other in EXPERTS if other != name)
    assert rows["PCB r = 0.1, λ = 1.5"]["shakespeare"] > base["shakespeare"]
    assert sorted(steps, key=lambda title: steps[title])[:2] == ["task arithmetic λ = 0.5", "task arithmetic λ = 0.4"]


@cache
def windows(domain: str) -> torch.Tensor:
    """The held-out text as windows of 128 tokens, each with the token that follows it."""
    words = (ZOO / "heldout" / f"{domain}.txt").read_text(encoding="utf-8")
    ids = torch.tensor(AutoTokenizer.from_pretrained(ZOO / "base").encode(words, verbose=False))
    return ids[: (len(ids) - 1) // 128 * 128 + 1].unfold(0, 129, 128)


@torch.inference_mode()
def loss(folder: Path, domain: str) -> float:
    """Mean nats per token, as the README's are computed."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    told = 0.0
    for some in windows(domain).split(8):
        logits = model(input_ids=some[:, :-1], use_cache=False).logits
        told += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten())) * len(some)
    return told / len(windows(domain))


def test_the_average_of_two_keeps_what_is_told(tmp_path: Path) -> None:
    merge(replace(Setup("linear", experts=("bible", "python")).recipe, out_dtype="float32"), tmp_path / "merged")

    for name in ("bible", "python"):
        base = readme()["base"][name]
        close(f"pair_kept_{name}", (base - loss(tmp_path / "merged", name)) / (base - readme()[f"expert {name}"][name]))


@pytest.mark.parametrize(
    ("fact", "setup"),
    [
        ("half_shakespeare", Setup("task_arithmetic", {"lambda": 0.5}, ("shakespeare",))),
        ("past_shakespeare", Setup("task_arithmetic", {"lambda": 1.5}, ("shakespeare",))),
        ("expert_shakespeare", Setup("task_arithmetic", {"lambda": 1.0}, ("shakespeare",))),
        ("mix_8", Setup("from", {"k": 8.0}, MIXED)),
        ("mix_0", Setup("from", {"k": 0.0}, MIXED)),
        ("mix_minus2", Setup("from", {"k": -2.0}, MIXED)),
    ],
)
def test_what_is_told_of_merges_that_the_readme_does_not_have(fact: str, setup: Setup, tmp_path: Path) -> None:
    merge(replace(setup.recipe, out_dtype="float32"), tmp_path / "merged")

    close(fact, loss(tmp_path / "merged", "shakespeare"))


# What texts claim besides.


def test_a_full_step_along_one_task_vector_is_the_expert_but_for_rounding(tmp_path: Path) -> None:
    merge(a_step("task-vectors", 4).setup.recipe, tmp_path / "merged")

    merged, expert = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", ZOO / "shakespeare"))
    away = torch.cat([(merged[name].float() - tensor.float()).flatten().abs() for name, tensor in expert.items()])
    assert int((away != 0).sum()) < 10
    assert float(away.max()) < 1e-8


def test_two_small_votes_lose_against_one_large_one() -> None:
    group = Group("w", torch.zeros(1), torch.tensor([[0.3], [-0.1], [-0.1]]))

    _, merged = next(merge_groups(METHODS["ties"], [group], density=1.0))

    assert float(merged) == pytest.approx(0.3)


def test_an_expert_of_weight_zero_leaves_the_others_where_they_were_in_pcb() -> None:
    setup = a_step("competition", 2).setup

    with_it, without = weights(seen(setup)), weights(seen(setup, weights=(1.0, 1.0, 0.0)))

    assert without["python"] == 0
    assert [without[name] for name in PAIR] == [with_it[name] for name in PAIR]
    assert weights(seen(setup, experts=PAIR))["bible"] > with_it["bible"]


def test_only_entries_that_agree_survive_the_competition() -> None:
    assert bool((survey(Groups.of(list(comparison(EXPERTS).probe.groups)), ratio=0.1).threshold > 0).all())


@pytest.mark.parametrize("variant", ["release", "pairwise"])
def test_only_the_pairwise_ranking_is_sure_to_stay_when_task_vectors_are_stretched(variant: str) -> None:
    tau = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))

    kept = []
    for scale in (1, 16):
        _, merged = next(merge_groups(METHODS["pcb"], [Group("w", torch.zeros(4000), tau * scale)], variant=variant))
        kept.append(merged != 0)

    assert torch.equal(*kept) == (variant == "pairwise")


def test_an_exponent_of_minus_one_gives_all_experts_the_same_length() -> None:
    norms = torch.tensor([17.4, 27.3, 27.7], dtype=torch.float64)

    lengths = norm_weights(norms, -1.0) * norms

    assert lengths.tolist() == pytest.approx([float(lengths[0])] * 3)


def test_the_adapter_enters_with_less_than_a_third_at_the_default_exponent() -> None:
    found = weights(seen(a_step("norms", 3).setup))

    assert found["shakespeare-lora"] < 1 / 3 < found["bible"]


# The panel.


def test_a_link_leads_to_a_step_or_to_the_first_one_or_to_the_list() -> None:
    assert linked({"lesson": "interference", "step": "2"}) == Place("interference", 1)
    assert linked({"lesson": "interference"}) == Place("interference", 0)
    for step_ in ("0", "99", "-1", "²", "two", ""):
        assert linked({"lesson": "interference", "step": step_}) == Place("interference", 0)
    assert linked({"lesson": "<script>"}) == linked({}) == Place()


def test_steps_follow_each_other_and_both_ends_lead_to_the_list() -> None:
    first, last = Place("norms", 0), Place("norms", 4)

    assert first.moved(1).moved(-1) == first
    assert first.moved(-1) == last.moved(1) == Place()
    assert (first.last, last.last, Place().last) == (False, True, False)


def test_what_a_browser_has_kept_is_believed_only_where_it_can_be_true() -> None:
    kept = {"norms": [1, 1, 7, "x", None], "averaging": "all", "other": [0]}

    assert known(kept) == {"norms": [1]}
    assert known(None) == known([1]) == {}
    assert with_step(known(kept), Place("norms", 0)) == {"norms": [0, 1]}


def test_the_list_tells_how_far_a_learner_is() -> None:
    lesson = LESSONS["norms"]

    assert offer(lesson, 5, {}) == f"5. {lesson.title}\n6 minutes · 5 steps"
    assert offer(lesson, 5, {"norms": [0, 2]}).endswith("2 of 5 steps done")
    assert offer(lesson, 5, {"norms": [0, 1, 2, 3, 4]}).endswith("· done")


def test_the_heading_has_a_dot_for_every_step_and_what_the_address_should_say() -> None:
    shown_ = heading(Place("norms", 2), {"norms": [0]})

    assert shown_.count("<li") == 5
    assert 'aria-current="step"><span>Step 3, this one</span>' in shown_
    assert "Step 1, done" in shown_
    assert 'data-lesson="norms" data-step="3" data-section="step-weights"' in shown_
    assert 'href="?lesson=norms&amp;step=3" target="_blank"' in shown_  # what is on the page stays there
    assert 'data-lesson=""' in heading(Place(), {})


@pytest.fixture(scope="module")
def page() -> tuple[gr.Blocks, LessonsPanel]:
    def see(request: gr.Request, scaling: float) -> Seen:
        return seen(a_step("task-vectors", 3).setup, **{"lambda": scaling})

    with gr.Blocks() as demo:
        opener, slider = gr.Button("Lessons"), gr.Slider(0, 2)
        panel = lessons_panel()

        def ask(event: Any, fn: Any, inputs: list[Any], outputs: list[Any]) -> Any:
            return event.then(fn, [*inputs, slider], outputs, **PRIVATE)

        wire_lessons(demo, panel, opener, ask, see, [slider], lambda setup: [setup.values["lambda"]])
    return demo, panel


def test_the_panel_is_private_and_shows_a_value_for_each_of_its_parts(page: tuple[gr.Blocks, LessonsPanel]) -> None:
    demo, panel = page

    assert demo.get_api_info()["named_endpoints"] == {}
    for place in (Place(), *(Place(slug, index) for slug, index in STEPS)):
        assert len(shown(place, {})) == len(panel.changing)


def test_a_step_stands_in_the_panel_with_its_numbers_filled_in() -> None:
    _, listed, walk, head, text, do, verdict, back, onward, *_ = shown(Place("task-vectors", 0), {"task-vectors": [0]})

    assert (listed.visible, walk.visible) == (False, True)
    assert "A model minus a model" in head
    assert "2.8 million" in text
    assert do.startswith("**Do this.** Click")
    assert verdict == ""
    assert not back.interactive
    assert (onward.value, onward.variant) == ("Next", "primary")


def test_a_check_that_is_met_fills_a_dot_and_one_that_is_not_takes_none_away() -> None:
    place, setup = Place("task-vectors", 3), a_step("task-vectors", 3).setup

    missed, kept, _, onward = checked(place, {"task-vectors": [3]}, seen(setup))
    met, done, head, _ = checked(place, {}, seen(setup, **DONE["task-vectors", 3]))

    assert 'class="notice info"' in missed
    assert kept == {"task-vectors": [3]}
    assert onward.variant == "primary"
    assert 'class="notice good"' in met
    assert done == {"task-vectors": [3]}
    assert "Step 4, done, this one" in head
    assert math.isnan(seen(setup, **{"lambda": "x"}).number("lambda"))
