"""The lessons on the page: a step sets the page up as it says, and its check looks at what the page shows."""

from __future__ import annotations

import pytest

from merging.generate import Answer
from tests.ui.screens import Screen
from ui import sample_panel
from ui.comparing import known_comparison
from ui.family import ZOO
from ui.forecast_panel import VIEWS as RIGHT
from ui.lessons import LESSONS
from ui.lessons.lesson import Step
from ui.lessons.place import Place
from ui.models_panel import Selection, read_models
from ui.see_panel import VIEWS as LEFT

STEPS = [(slug, index) for slug, lesson in LESSONS.items() for index in range(len(lesson.steps))]


def arranged(screen: Screen, slug: str, index: int) -> Step:
    """Set the page up for a step, and read the models that it chooses, from their headers alone."""
    screen.put(Place(slug, index))
    screen.fire("lesson-arrange")
    _, selection = read_models(screen["base"], screen["experts"])
    screen.put(selection)
    return LESSONS[slug].steps[index]


@pytest.mark.parametrize(("slug", "index"), STEPS)
def test_a_step_sets_the_page_up_as_it_says(screen: Screen, slug: str, index: int) -> None:
    step = arranged(screen, slug, index)

    recipe = step.setup.recipe
    assert screen["base"] == str(ZOO / "base")
    assert screen["experts"] == [str(ZOO / name) for name in step.setup.experts]
    assert screen["method"] == step.setup.method
    controls = {key: f"{step.setup.method}-{key}" for key in recipe.values}
    shown = {key: screen[name] for key, name in controls.items() if name in screen.named}
    assert {**shown, **step.setup.values} == shown
    assert shown == {key: "" if recipe.values[key] is None else recipe.values[key] for key in shown}
    assert screen["result"] == "model"
    assert screen["expert-weights"] == "{}"  # every weight is 1
    view = {"coefficients": "weights", "predictions": "effects"}.get(step.setup.view, step.setup.view)
    assert view in (*LEFT, *RIGHT, "sample")
    if view != "sample":
        assert view in views(screen)


def views(screen: Screen) -> set[str]:
    """The keys of the views that are open, which only states hold."""
    return {value for value in screen.held.values() if isinstance(value, str) and value in (*LEFT, *RIGHT)}


@pytest.mark.parametrize("slug", LESSONS)
def test_a_check_sees_what_was_set_up_and_waits_for_the_weights(screen: Screen, slug: str) -> None:
    arranged(screen, slug, 1)
    known = known_comparison(screen.state(Selection))

    screen.fire("lesson-check")

    assert "Set this up for me" not in screen["lesson-verdict"]  # which is said of any other page
    assert ("The weights are still being read." in screen["lesson-verdict"]) == (known is None)


def test_a_step_is_done_by_what_its_learner_moves(screen: Screen) -> None:
    arranged(screen, "interference", 1)
    screen.choose(screen["base"], screen["experts"])

    screen.fire("lesson-check")
    missed = screen["lesson-verdict"]
    screen["ties-density"] = 0.2
    screen.fire("lesson-check")

    assert 'class="notice info"' in missed
    assert 'class="notice good"' in screen["lesson-verdict"]
    assert "Step 2, done, this one" in screen["lesson-head"]


def test_a_check_says_that_another_method_is_chosen(screen: Screen) -> None:
    arranged(screen, "interference", 1)
    screen["method"] = "pcb"

    screen.fire("lesson-check")

    assert "This step is about TIES-Merging, and another method is chosen." in screen["lesson-verdict"]


def test_a_step_draws_the_views_that_it_opens_of_models_that_are_there_already(screen: Screen) -> None:
    arranged(screen, "interference", 0)
    screen.choose(screen["base"], screen["experts"])
    screen["matrix"] = screen["weights"] = None

    screen.fire("lesson-arrange")

    assert screen["matrix"] is not None  # of the view `experts`
    assert screen["weights"] is not None


def test_a_tensor_that_was_clicked_before_a_step_was_set_up_does_not_do_it(screen: Screen) -> None:
    arranged(screen, "task-vectors", 0)
    screen.choose(screen["base"], screen["experts"])
    screen.fire("norms", "cell_select", cell="model.norm.weight", panel="shakespeare", column=0)
    screen.fire("lesson-check")
    clicked, shown = screen["lesson-verdict"], screen["tensor-detail"]

    screen.fire("lesson-arrange")
    screen.fire("lesson-check")

    assert 'class="notice good"' in clicked
    assert "model.norm.weight" in shown
    assert "No tensor has been clicked yet" in screen["lesson-verdict"]
    assert (screen["tensor-detail"], screen["tensor-histogram"]) == ("", None)


def test_a_step_leaves_what_is_drawn_while_its_models_are_read(screen: Screen) -> None:
    screen["matrix"] = before = object()

    arranged(screen, "interference", 0)

    assert screen["matrix"] is before


def test_a_step_is_done_by_the_merge_that_was_asked_and_no_other(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_panel, "answers", lambda models, *_: iter([[Answer("word", "done") for _ in models]]))
    arranged(screen, "averaging", 4)
    screen.choose(screen["base"], screen["experts"])

    screen.fire("sample-run")  # at λ = 0.4
    screen["task_arithmetic-lambda"] = 1
    screen.fire("lesson-check")
    missed = screen["lesson-verdict"]
    screen.fire("sample-run")
    screen.fire("lesson-check")

    assert "λ is 1. Now sample a prompt from this merge" in missed
    assert 'class="notice good"' in screen["lesson-verdict"]
