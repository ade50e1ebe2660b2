"""The panels' functions, called with values as the page would."""

from __future__ import annotations

import html
import shlex
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
import plotly.graph_objects as go
import pytest
import torch

from merging import MergeStopped
from merging.checkpoint import open_checkpoint
from merging.cli import main
from merging.generate import Answer
from merging.method import METHODS
from merging.predictor import BROKEN
from merging.preflight import check
from merging.publish import beside
from merging.recipe import Recipe
from merging.sizes import in_words
from merging.wholes import LATER
from merging.wholes import MIXED as WHOLE
from merging.workplace import Workplace
from tests.conftest import DATA_FREE, Family, random_tensors, write_model
from tests.ui.screens import Screen, cells, draw, select
from ui.asked import One
from ui.comparing import KEEP, known_comparison, unread
from ui.errors import escaped, notice
from ui.family import choices
from ui.jobs import STOPS, Job, announce, stop, stoppable
from ui.measures import ABSOLUTE, RELATIVE, Measure
from ui.merge_panel import estimate, recipe_of, run_merge
from ui.models_panel import Selection, choose, read_models
from ui.sample_panel import cards, run_sample
from ui.views import describe, draw_norms, show_tensor

SPECTRAL = ("tsv_m", "iso_c", "iso_cts", "star", "wudi")


def norms(selection: Selection, measure: Measure) -> go.Figure:
    known = known_comparison(selection)
    assert known
    return draw_norms(known, selection.names, measure)


def test_the_table_says_what_each_model_is(family: Family) -> None:
    base, experts = family(dtype=torch.bfloat16)

    table, selection = read_models(str(base), [str(path) for path in experts])

    assert selection.fitting == tuple(map(str, experts))
    parameters = sum(tensor.numel() for tensor in random_tensors(0).values())
    for word in ("LlamaForCausalLM", "bfloat16", str(parameters), f"{2 * parameters} bytes"):
        assert f">{word}</td>" in table
    assert '<td data-head="Dtype">bfloat16</td>' in table  # on a narrow page, where there are no heads above


def test_what_is_wrong_with_a_model_that_could_not_be_opened_has_the_whole_row(family: Family) -> None:
    base, _ = family()

    table, _ = read_models(str(base), ["/nowhere/at all"])

    row = table[table.index('<tr class="misfit">') :]
    assert '<td colspan="6"><b>at all</b><span class="problem">' in row
    assert "–" not in row


def test_models_of_one_name_are_told_apart(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    write_model(tmp_path / "elsewhere" / experts[0].name, random_tensors(7))

    _, selection = read_models(str(base), [str(experts[0]), str(tmp_path / "elsewhere" / experts[0].name)])

    assert selection.names == (f"{experts[0].name} (1)", f"{experts[0].name} (2)")


def refusal(base: Path, experts: list[Path]) -> str:
    """What the merge has against these models."""
    return "\n".join(check(Recipe("linear", base, tuple(experts))).problems)


def test_a_model_is_refused_in_the_words_of_the_merge(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    short = random_tensors(1)
    short["model.norm.weight"] = short["model.norm.weight"][:-1].clone()
    bad = [write_model(tmp_path / "short", short), tmp_path / "nowhere"]

    table, selection = read_models(str(base), [str(path) for path in (*experts, *bad)])

    assert selection.fitting == tuple(map(str, experts))
    for path in bad:
        words = refusal(base, [path]).removeprefix(f"{path.name}: ")
        assert words
        assert f'<span class="problem">{escaped(words)}</span>' in table


def test_an_expert_of_another_format_and_other_names_is_taken_and_noted(family: Family, tmp_path: Path) -> None:
    base, _ = family()
    wrapped = {f"module.{name}": tensor for name, tensor in random_tensors(1).items()}
    torch.save(wrapped, tmp_path / "trained.pt")

    table, selection = read_models(str(base), [str(tmp_path / "trained.pt")])

    assert selection.fitting == (str(tmp_path / "trained.pt"),)
    assert refusal(base, [tmp_path / "trained.pt"]) == ""
    assert '<span class="note"><code>module.' in table
    assert "problem" not in table


def test_what_an_expert_lacks_and_has_alone_is_noted_beside_it(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    tensors = random_tensors(1) | {"extra.weight": torch.ones(2)}
    del tensors["model.norm.weight"]
    odd = write_model(tmp_path / "odd", tensors)

    table, selection = read_models(str(base), [str(experts[0]), str(odd)])

    assert len(selection.fitting) == 2
    assert "It lacks <code>model.norm.weight</code> of the base model" in table
    assert "It has <code>extra.weight</code> that the base model lacks" in table


def test_a_base_without_a_config_is_noted(family: Family) -> None:
    base, experts = family()
    (base / "config.json").unlink()

    table, selection = read_models(str(base), [str(experts[0])])

    assert selection.ready
    assert "It has no config.json" in table


def test_the_lists_offer_models_of_every_format_and_nothing_else(family: Family, tmp_path: Path) -> None:
    folder = tmp_path / "offered"
    write_model(folder / "plain", random_tensors(0))
    write_model(folder / "sharded", random_tensors(0), shards=2)
    write_model(folder / ".merge.part", random_tensors(0))
    for place, name in (("pickled", "pytorch_model.bin"), ("left", "training_args.bin"), (".", "lone.pt")):
        (folder / place).mkdir(exist_ok=True)
        torch.save(random_tensors(0), folder / place / name)
    (folder / "notes.txt").write_text("no model")

    listed = [label for label, _ in choices(folder) if "(embedded)" not in label]

    assert listed == ["lone.pt", "pickled", "plain", "sharded"]
    assert [label for label, _ in choices(folder / "sharded")][-1] == "sharded"


@pytest.mark.parametrize(("base", "words"), [("", "No base model is chosen"), ("/nowhere", "There is no file")])
def test_without_a_base_nothing_is_selected(base: str, words: str) -> None:
    table, selection = read_models(base, [])

    assert words in table
    assert not selection.ready


def test_paths_are_escaped_in_the_table() -> None:
    table, _ = read_models("/nowhere/<script>alert(1)</script>", ["<img src=x>"])

    assert "<script>" not in table
    assert "<img" not in table


def test_norms_are_absolute_or_relative(family: Family) -> None:
    base, experts = family()
    selection = select(base, experts)
    name = "model.layers.1.mlp.up_proj.weight"
    start, end = (open_checkpoint(path).tensor(name).double() for path in (base, experts[0]))

    absolute, relative = (norms(selection, measure).data[0].z[1][0] for measure in (ABSOLUTE, RELATIVE))

    assert absolute == pytest.approx(float((end - start).norm()), rel=1e-4)
    assert relative == pytest.approx(float((end - start).norm() / start.norm()), rel=1e-4)


def test_a_comparison_follows_the_files_and_not_their_names(family: Family) -> None:
    base, experts = family()
    selection = select(base, experts)

    write_model(experts[0], random_tensors(9))
    _, again = read_models(selection.base, list(selection.experts))

    assert known_comparison(again) is None


def test_a_comparison_that_was_put_away_can_be_made_again(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    selection = select(base, experts)
    for number in range(KEEP):
        select(base, [write_model(tmp_path / f"other{number}", random_tensors(20 + number))])

    assert known_comparison(selection) is None
    assert unread(selection, "someone")


def test_a_comparison_used_last_is_put_away_last(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    selection = select(base, experts)
    for number in range(KEEP):
        assert known_comparison(selection)
        select(base, [write_model(tmp_path / f"other{number}", random_tensors(20 + number))])

    assert known_comparison(selection)


def test_models_that_are_read_are_not_missed(family: Family) -> None:
    base, experts = family()
    _, selection = read_models(str(base), [str(path) for path in experts])

    with stoppable("someone", "compare"):
        assert not unread(selection, "someone")
    assert unread(selection, "someone")


def test_warnings_name_an_expert_that_equals_the_base_and_one_that_is_far(family: Family, tmp_path: Path) -> None:
    base, _ = family()
    same = write_model(tmp_path / "same", random_tensors(0))
    far = write_model(tmp_path / "far", {name: 3 * tensor for name, tensor in random_tensors(0).items()})

    words = describe(select(base, [same, far]))

    assert "same equals the base model" in words
    assert "far is 200% away from the base" in words


def test_a_tensor_with_nan_is_a_hole_and_a_warning(family: Family, tmp_path: Path) -> None:
    base, _ = family()
    tensors = random_tensors(1)
    tensors["model.norm.weight"][0] = torch.nan
    selection = select(base, [write_model(tmp_path / "broken", tensors)])

    figure, forecast = norms(selection, ABSOLUTE), draw(selection, Recipe("ties", base, (Path("broken"),)))

    assert figure.data[1].z[0][1] is None
    assert "<code>model.norm.weight</code> holds NaN" in describe(selection)
    assert cells(forecast.figure)["model.norm.weight"] == [(None, BROKEN)]
    assert "nan" not in forecast.caption


SOME = [name for name in DATA_FREE if METHODS[name].taking(2) == 2 and METHODS[name].taking(1) == 1]


@pytest.mark.parametrize("name", SOME)
def test_an_expert_that_lacks_a_tensor_has_an_empty_cell_that_says_so(family: Family, name: str) -> None:
    base, experts = family()
    tensors = random_tensors(1)
    del tensors["model.norm.weight"]
    write_model(experts[0], tensors)
    selection = select(base, experts)

    panel = norms(selection, ABSOLUTE).data[1]
    weights = cells(draw(selection, Recipe(name, base, tuple(experts))).figure)["model.norm.weight"]
    detail, histogram = show_tensor(selection, "model.norm.weight")

    assert histogram is not None
    assert [(panel.z[0][1], panel.text[0][1]), weights[0]] == [(None, "does not have this tensor")] * 2
    assert weights[1][0] is not None
    assert "does not have this tensor" in detail
    assert [line.name for line in histogram.data] == [experts[1].name]


@pytest.mark.parametrize("name", DATA_FREE)
def test_every_method_draws_its_coefficients(family: Family, name: str) -> None:
    base, experts = family(METHODS[name].taking(2))
    selection = select(base, experts)

    recipe = Recipe(name, base, tuple(experts))

    quick, exact = (draw(selection, recipe, quick=quick) for quick in (True, False))

    assert METHODS[name].title in quick.caption
    assert exact.exact
    for drawn, words in ((quick, LATER), (exact, WHOLE)):
        told = [cell for row in cells(drawn.figure).values() for cell in row]
        wholes = [cell for cell in told if cell == (None, words)]
        assert len(told) == len(experts) * len(random_tensors(0))
        # Of the whole matrices there is no number; the others are no matrices, or in no layer.
        assert len(wholes) == len(experts) * {"wudi": 2}.get(name, 3 if name in SPECTRAL else 0)
        assert all(number is not None for number, said in told if said != words)


def test_too_many_experts_are_said_in_place_of_the_heatmap(family: Family) -> None:
    base, experts = family()

    drawn = draw(select(base, experts), Recipe("slerp", base, tuple(experts)))

    assert drawn.figure is None
    assert "SLERP takes 1 expert, not 2. Remove 1." in drawn.caption


def test_a_value_out_of_range_is_said_in_place_of_the_heatmap(family: Family) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts), values={"density": 7})

    drawn = draw(select(base, experts), recipe)

    assert drawn.figure is None
    assert "<code>density</code> must be between 0.01 and 1, but it is 7." in drawn.caption


def test_a_tensor_from_near_has_its_numbers_and_a_histogram(family: Family) -> None:
    base, experts = family()
    selection = select(base, experts)

    table, figure = show_tensor(selection, "model.norm.weight")

    assert "<h3>model.norm.weight</h3>" in table
    assert figure is not None
    assert [sum(y or 0 for y in line.y) for line in figure.data] == [4, 4]
    assert show_tensor(selection, "../../etc/passwd") == ("", None)


def test_an_adapter_with_a_broken_config_says_so_in_the_table(family: Family, tmp_path: Path) -> None:
    base, _ = family()
    adapter = write_model(tmp_path / "adapter", random_tensors(1))
    (adapter / "adapter_config.json").write_text("{")

    table, selection = read_models(str(base), [str(adapter)])

    assert "could not be read as JSON" in table
    assert selection.fitting == ()


def test_experts_that_undo_each_other_are_warned_of(family: Family, tmp_path: Path) -> None:
    base, _ = family()
    start, move = random_tensors(0), random_tensors(1)
    there, back = (
        write_model(tmp_path / name, {n: start[n] + sign * 0.1 * move[n] for n in start})
        for name, sign in (("there", 1), ("back", -1))
    )

    words = describe(select(base, [there, back]))

    assert "there and back undo each other" in words


def test_nan_in_the_base_is_said_of_the_base(family: Family, tmp_path: Path) -> None:
    _, experts = family()
    broken = random_tensors(0)
    broken["model.norm.weight"][0] = torch.nan

    words = describe(select(write_model(tmp_path / "ground", broken), experts))

    assert "ground: <code>model.norm.weight</code> holds NaN" in words


def test_how_much_did_not_move_is_told_per_expert(family: Family, tmp_path: Path) -> None:
    base, _ = family()
    moved = random_tensors(0)
    moved["model.norm.weight"] += 1
    share = 1 - 4 / sum(tensor.numel() for tensor in moved.values())

    assert f"one {share:.0%}" in describe(select(base, [write_model(tmp_path / "one", moved)]))


def test_the_form_becomes_a_recipe_of_the_chosen_method_alone(family: Family) -> None:
    base, experts = family()
    selection = select(base, experts)
    fields = {"method": "ties", "ties.density": 0.5, "ties.lambda": 1, "pcb.ratio": 0.1}

    recipe = recipe_of(selection, fields, {str(experts[1]): 0.5}, all_of_them=True)

    assert recipe == Recipe("ties", base, tuple(experts), (1.0, 0.5), {"density": 0.5, "lambda": 1})


def test_the_seed_is_the_recipes_and_no_parameter(family: Family) -> None:
    base, experts = family()
    selection = select(base, experts)

    told = [{"method": "dare_linear", "dare_linear.seed": seed} for seed in (7, None)]
    seven, none = (recipe_of(selection, fields, {}, all_of_them=True) for fields in told)

    assert [(recipe.seed, recipe.values) for recipe in (seven, none)] == [(7, {}), (0, {})]
    one, other = (draw(selection, recipe).figure for recipe in (seven, none))
    assert cells(one) != cells(other)


def test_weights_of_another_method_are_left_out(family: Family) -> None:
    base, experts = family()

    recipe = recipe_of(select(base, experts), {"method": "from"}, {str(experts[1]): 0.5}, all_of_them=True)

    recipe.checked()
    assert recipe.weights == (1.0, 1.0)


def test_a_merge_tells_its_progress_and_where_it_is(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    out = tmp_path / "out"

    said = list(run_merge(Recipe("ties", base, tuple(experts)), str(out), "someone"))

    assert "<progress" in said[0][0]
    report = said[-1][1]
    assert report
    assert report.out == out
    assert str(out) in said[-1][0]
    assert (out / "model.safetensors").is_file()


FULL = OSError(28, "No space left on device", "/data/<out>/model.safetensors")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            FULL,
            "<code>/data/&lt;out&gt;/model.safetensors</code> could not be read or written (No space left on device).",
        ),
        (OSError(5, "Input/output error"), "A file could not be read or written (Input/output error)."),
    ],
)
def test_a_merge_that_the_system_ends_names_the_file_where_it_is_known(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("ui.merge_panel.merge", failing)
    base, experts = family()

    said, report = list(run_merge(Recipe("ties", base, tuple(experts)), str(tmp_path / "out"), "someone"))[-1]

    assert words in said
    assert 'role="alert"' in said
    assert report is None


@pytest.mark.parametrize(
    ("output", "words"), [(" ", "The output folder has no name"), ("{base}", "nothing is ever overwritten")]
)
def test_a_merge_that_cannot_start_says_why(family: Family, output: str, words: str) -> None:
    base, experts = family()

    said = list(run_merge(Recipe("from", base, tuple(experts)), output.format(base=base), "someone"))

    assert words in said[-1][0]
    assert said[-1][1] is None


def test_everything_that_is_in_the_way_of_a_merge_is_said(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, (*experts, tmp_path / "nowhere"), values={"density": 7})

    said = list(run_merge(recipe, str(base), "someone"))

    assert said[-1][0].count("<li>") == 3
    for words in ("<code>density</code> must be", "There is no file or folder", "nothing is ever overwritten"):
        assert words in said[-1][0]


def test_a_finished_merge_says_what_to_know_and_how_to_verify_it(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    odd = {f"module.{name}": tensor for name, tensor in random_tensors(1).items()}
    del odd["module.model.norm.weight"]
    write_model(experts[0], odd)
    out = tmp_path / "my <out>"

    said = list(run_merge(Recipe("ties", base, tuple(experts)), str(out), "someone"))[-1][0]

    assert f"{len(random_tensors(0))} tensors" in said
    assert f"<pre>python -m merging verify {html.escape(shlex.quote(str(out)))}</pre>" in said
    assert "1 tensor with another fate" in said
    assert "merged without expert-1, which lacks it: <code>model.norm.weight</code>" in said
    assert "<li>expert-1: <code>module.model.embed_tokens.weight</code> is read as" in said
    assert main(["verify", str(out)]) == 0


def test_a_stopped_merge_goes_on_when_it_is_asked_for_again(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experts = family()
    recipe, out, finish = Recipe("linear", base, tuple(experts)), tmp_path / "out", Workplace.finish

    def stop_then(place: Workplace, *told: Any) -> None:
        finish(place, *told)
        stop("someone", "merge")

    monkeypatch.setattr(Workplace, "finish", stop_then)
    said = list(run_merge(recipe, str(out), "someone"))[-1]
    monkeypatch.undo()

    assert f"Nothing is at {out}; merge again with the same settings to go on where this stopped." in said[0]
    assert said[1] is None
    assert not out.exists()
    assert beside(out).is_dir()
    assert list(run_merge(recipe, str(out), "someone"))[-1][1]
    assert out.is_dir()
    assert not beside(out).exists()


def test_the_estimate_is_what_the_preflight_says(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts))
    written = sum(4 * tensor.numel() for tensor in random_tensors(0).values())

    words = estimate(recipe, str(tmp_path / "out"))

    assert f"Reads {in_words(3 * written)} and writes {in_words(written)}, with about " in words
    assert "in about 1 s." in words
    assert estimate(None, "out") == ""
    assert "The output folder has no name." in estimate(recipe, " ")
    assert not (tmp_path / "out").exists()


def test_the_estimate_names_what_is_in_the_way(family: Family) -> None:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts), values={"density": 7})

    words = estimate(recipe, str(base))
    assert f"{base} is there already" in words  # which is why it cannot be pressed
    assert "And 1 more thing is in the way." in words


def test_a_merge_that_waits_can_be_stopped_before_it_runs(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    announce("someone", "merge")

    stop("someone", "merge")
    said = list(run_merge(Recipe("from", base, tuple(experts)), str(tmp_path / "out"), "someone"))

    assert "Stopped. Nothing was written." in said[-1][0]
    assert not (tmp_path / "out").exists()


def test_answers_are_escaped() -> None:
    told = [Answer("<script>", "done", note="<u>"), Answer("fine", "done")]

    shown = cards([One("base", "<b>"), One("merge", "merge: x")], told, "<i>", busy=False)

    assert "<script>" not in shown
    assert "<i>" not in shown
    assert "<u>" not in shown
    assert 'class="answer merge"' in shown


@pytest.mark.parametrize(
    ("changes", "words"), [({"temperature": 9}, "Temperature must be between 0 and 2"), ({"seed": -1}, "Seed must be")]
)
def test_a_bad_setting_for_sampling_is_one_sentence(family: Family, changes: dict[str, Any], words: str) -> None:
    base, _ = family()
    fields = {"prompt": "x", "temperature": 1, "top_p": 1, "length": 5, "seed": 0, "chat": False, **changes}

    ((said, asked),) = run_sample([One("base", "base", base), One("merge", "merge", missing="x")], fields, "someone")

    assert words in said
    assert asked is None


def test_a_job_hands_on_what_its_work_reports_and_raises_its_error() -> None:
    def work(tell: Any) -> None:
        tell(1)
        raise MergeStopped("enough")

    job = Job(work)

    assert list(job) == [1]
    with pytest.raises(MergeStopped, match="enough"):
        job.result()


def test_stopping_reaches_the_visitor_who_asked_and_no_other() -> None:
    with stoppable("me", "merge") as mine, stoppable("you", "merge") as yours:
        stop("me", "merge")

        assert mine.is_set()
        assert not yours.is_set()


def test_of_a_visitor_who_leaves_nothing_goes_on_or_stays(screen: Screen) -> None:
    announce("someone", "merge")  # and is waiting for its turn
    before = STOPS["someone", "merge"]
    with stoppable("someone", "sample") as mine, stoppable("you", "merge") as yours:
        for function in screen.demo.fns.values():
            if any(event == "unload" for _, event in function.targets):
                function.fn(gr.Request(session_hash="someone"))

        assert before.is_set()
        assert mine.is_set()
        assert not yours.is_set()
        assert [key for key in STOPS if key[0] == "someone"] == []


def test_work_that_nobody_waits_for_any_more_is_told_to_stop() -> None:
    seen = threading.Event()

    def work(stopping: threading.Event) -> None:
        while not stopping.is_set():
            time.sleep(0.01)
        seen.set()

    with stoppable("me", "compare") as stopping:
        job = Job(lambda tell: work(stopping))

    job.result()
    assert seen.is_set()


def test_a_notice_is_text_and_no_markup() -> None:
    assert "&lt;b&gt;" in notice("<b>")
    assert 'role="alert"' in notice("x")


def test_a_slash_at_the_end_of_a_path_makes_no_other_model(family: Family) -> None:
    base, experts = family()

    _, selection = read_models(f"{base}/", [f"{experts[0]}/", str(experts[0])])

    assert (selection.base, selection.fitting) == (str(base), (str(experts[0]),))


def test_a_model_that_is_offered_may_be_typed_by_its_name(family: Family) -> None:
    base, experts = family()
    offered = {path.name: str(path) for path in (base, *experts)}

    *_, (_, selection) = choose(base.name, [experts[0].name, str(experts[1])], offered)

    assert selection.base == str(base)
    assert selection.fitting == tuple(map(str, experts[:2]))


def test_a_merge_that_was_sampled_says_how_it_was_made() -> None:
    recipe = Recipe("ties", Path("base"), (Path("a"), Path("b")), values={"density": 0.3})

    shown = cards([One("merge", "merge: as it stands", recipe, recipe=recipe)], [Answer("x", "done")], "Ask", False)

    assert "TIES-Merging, density 0.3" in shown
