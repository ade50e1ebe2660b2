"""A merge as one HTML file: all of it is there, nothing is fetched, and no name in it does anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from merging.engine import merge
from merging.meter import Taken
from merging.recipe import Recipe
from merging.report import Report
from tests.conftest import Family
from ui.figures.curves import curves_figure
from ui.plots import coefficients_figure, norms_figure
from ui.report_page import Picture, report_page
from ui.report_tables import Table, tables_of

ZOO = Path(__file__).parents[2] / "zoo"
HOSTILE = """</script><script>alert(1)</script><img src=x onerror=alert(2)>"'&<!--‮"""
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page with their attributes, its text, and the content of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.texts: list[str] = []
        self.raw: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] in ("script", "style"):
            self.raw.append((self.inside[-1], data))
        else:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"there is a comment: {data[:50]}")

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    def rows(self) -> Iterator[str]:
        yield from (text.strip() for text in self.texts if text.strip())


def pictures() -> list[Picture]:
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")
    table = [[0.1, 0.2], [0.3, 0.4], [0.5, float("nan")]]
    experts = ("shakespeare", "python")
    return [
        Picture("Norms of the task vectors", norms_figure(names, experts, table, "‖τ‖"), "How far each expert moved."),
        Picture("Coefficients", coefficients_figure(names, experts, table, "coefficient")),
    ]


@pytest.fixture
def merged(family: Family, tmp_path: Path) -> tuple[Recipe, Report]:
    base, experts = family()
    recipe = Recipe("ties", base, tuple(experts), values={"density": 0.25})
    return recipe, merge(recipe, tmp_path / "out", hash_inputs=True)


def test_all_of_the_merge_is_told(merged: tuple[Recipe, Report]) -> None:
    recipe, report = merged
    story = json.loads((report.out / "mergescope.json").read_text())

    page = Page(report_page(recipe, report, pictures(), datetime(2026, 5, 1, 12, 30)))

    told = page.text
    assert page.inside == []
    assert "TIES-Merging of expert-1, expert-2" in told
    assert "Merged by Mergescope on 2026-05-01 at 12:30" in told
    assert recipe.to_yaml(report.out) in told
    assert "density: 0.25" in told
    assert "4 merged." in told
    assert all(f"{seconds:.2f} s" in told for seconds in report.timings.values())
    for model in story["inputs"].values():
        assert all(digest in told for digest in model["sha256"].values())
    assert all(digest in told for digest in story["files"].values())
    assert all(checksum in told for checksum in report.checksums.values())
    assert {"Mergescope", "Python", "torch", "transformers"} <= set(page.rows())
    assert {"Tensors merged", "Written", "Time"} <= set(page.rows())


def test_what_the_merge_took_of_the_machine_is_told_as_far_as_it_was_counted(merged: tuple[Recipe, Report]) -> None:
    recipe, report = merged
    taken = Taken(before=900_000_000, peak=1_250_000_000, read=50_000_000, written=20_000_000)

    told = list(Page(report_page(recipe, replace(report, seconds=2.0, planned=420_000_000, taken=taken))).rows())
    nothing = list(Page(report_page(recipe, replace(report, planned=0, taken=Taken()))).rows())

    at = told.index("Memory and files")
    assert told[at + 3 : at + 11] == [
        *("Memory that was planned for, at most", "420 MB"),
        *("Memory while it ran, at most", "1.25 GB, of which 350 MB more than before it"),
        *("Read from files", "50 MB, 25 MB a second"),
        *("Written to files", "20 MB, 10 MB a second"),
    ]
    assert "Memory and files" not in nothing


def test_a_note_is_told_where_there_is_one(merged: tuple[Recipe, Report]) -> None:
    told = list(Page(report_page(*merged, note=" first line\nsecond ")).rows())

    assert told[told.index("Note") + 1] == "first line\nsecond"
    assert "Note" not in list(Page(report_page(*merged, note=" ")).rows())


def test_the_pictures_are_in_the_page_as_they_were_drawn(merged: tuple[Recipe, Report]) -> None:
    given = pictures()

    page = Page(report_page(*merged, given))

    data = next(content for tag, content in page.raw if content.startswith("[{"))
    assert json.loads(data) == [json.loads(picture.figure.to_json()) for picture in given]
    assert [told["id"] for tag, told in page.elements if told.get("class") == "plot"] == ["plot-0", "plot-1"]
    assert "How far each expert moved." in page.text
    assert sum(content == get_plotlyjs() for _, content in page.raw) == 1


def test_all_that_is_drawn_stands_in_tables_too(merged: tuple[Recipe, Report]) -> None:
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")
    lines = curves_figure(["0", "1"], {"a<b": [0.25, 1 / 3], "other": [float("nan"), 2.0]}, "‖τ‖ / ‖W₀‖")
    norms, coefficients, curves = (tables_of(picture.figure) for picture in (*pictures(), Picture("", lines)))

    assert [table.title for table in norms] == ["shakespeare", "shakespeare", "python", "python"]
    assert norms[0] == Table("shakespeare", ["", "up"], [["layer 0", "0.3"], ["layer 1", "0.5"]])
    assert norms[1] == Table("shakespeare", ["", "embed"], [["outside the layers", "0.1"]])
    assert coefficients[0].heads == ["", "shakespeare", "python"]
    assert coefficients[0].rows == [[names[0], "0.1", "0.2"], [names[1], "0.3", "0.4"], [names[2], "0.5", "no number"]]
    rows = [["0", "0.25", ""], ["1", "0.33333", "2"]]
    assert curves == [Table("‖τ‖ / ‖W₀‖", ["layer", "a<b", "other"], rows)]

    text = report_page(*merged, [*pictures(), Picture("Lines", lines)])
    assert text.count("<details><summary>Numbers: ") == 3
    assert '<th scope="row">layer 0</th><td class="number">0.3</td>' in text
    assert '<th scope="col" class="number">a&lt;b</th>' in text
    assert "<bdi>" in text
    assert "Their numbers stand below each." in text


def test_what_is_missing_of_the_pictures_is_told(merged: tuple[Recipe, Report]) -> None:
    told = list(Page(report_page(*merged, missing="There are none.")).rows())

    assert told[told.index("Pictures") + 1] == "There are none."
    assert "Pictures" not in list(Page(report_page(*merged)).rows())


def test_nothing_is_fetched(merged: tuple[Recipe, Report]) -> None:
    page = Page(report_page(*merged, pictures()))

    for tag, told in page.elements:
        assert not {"src", "href", "data", "action", "srcset", "poster", "background"} & told.keys(), tag
    assert page.tags.isdisjoint({"link", "img", "iframe", "object", "embed", "base", "form", "a"})
    (style,) = (content for tag, content in page.raw if tag == "style")
    assert not re.search(r"url\(|@import|//", style)
    policy = next(told["content"] for _, told in page.elements if told.get("http-equiv") == "Content-Security-Policy")
    assert policy
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_without_pictures_there_is_no_script(merged: tuple[Recipe, Report]) -> None:
    text = report_page(*merged)

    assert "script" not in Page(text).tags
    assert len(text) < 100_000


def test_no_text_does_anything(merged: tuple[Recipe, Report], tmp_path: Path) -> None:
    recipe, report = merged
    hostile = replace(
        report,
        fates={HOSTILE: "merged", "b": f"left out: only {HOSTILE} has it"},
        warnings=(HOSTILE,),
        timings={HOSTILE: 1.0},
        checksums={HOSTILE: HOSTILE},
        out=tmp_path / HOSTILE.replace("/", "∕"),
    )
    story: dict[str, Any] = {"checksums": hostile.checksums, "files": {HOSTILE: HOSTILE}, "inputs": {}}
    told = {"name": HOSTILE, "repo": HOSTILE, "commit": HOSTILE, "files": {HOSTILE: {"size": 1, "header": HOSTILE}}}
    story["inputs"][HOSTILE] = told
    hostile.out.mkdir()
    (hostile.out / "mergescope.json").write_text(json.dumps(story))
    recipe = replace(recipe, experts=(Path(HOSTILE), *recipe.experts[1:]), warnings=(HOSTILE, "\ud800"))
    figure = go.Figure(go.Heatmap(z=[[1]], x=[HOSTILE], y=[HOSTILE], customdata=[[HOSTILE]]))
    plain = Page(report_page(*merged, [Picture("one", figure)]))

    page = Page(report_page(recipe, hostile, [Picture(HOSTILE, figure, HOSTILE)], note=HOSTILE))

    assert page.tags <= plain.tags | {"bdi", "ul", "li"}
    assert sum(tag == "script" for tag, _ in page.elements) == 3
    assert not any(key.startswith("on") for _, told in page.elements for key in told)
    assert page.text.count(HOSTILE) > 12
    data = next(content for tag, content in page.raw if content.startswith("[{"))
    assert json.loads(data)[0]["data"][0]["x"] == [HOSTILE]
    assert page.text.count("?") >= 1  # half a surrogate pair, which no file can hold


def test_tensors_are_counted_by_what_became_of_them(merged: tuple[Recipe, Report]) -> None:
    fates = {"a": "merged", "b": "merged without x, which lacks it", "c": "copied from the base: it is empty"}
    fates |= {"d": "left out: only x has it, the base does not", "e": "the scale of `a`", "f": "merged"}

    page = Page(report_page(merged[0], replace(merged[1], fates=fates)))

    assert "3 merged, 1 copied, 1 left out, 1 used." in page.text
    rows = list(page.rows())
    assert rows[rows.index("merged without x, which lacks it") - 1] == "merged"
    assert rows.index("merged without x, which lacks it") < rows.index("left out: only x has it, the base does not")


@pytest.mark.parametrize("gone", ["folder", "another merge"])
def test_hashes_of_inputs_are_only_those_of_this_merge(gone: str, merged: tuple[Recipe, Report]) -> None:
    recipe, report = merged
    story = report.out / "mergescope.json"
    digest = json.loads(story.read_text())["inputs"]["base"]["sha256"]["model.safetensors"]
    if gone == "folder":
        report.out.rename(report.out.with_name("moved"))
    else:
        story.write_text(story.read_text().replace("xxh3:", "xxh3:0"))

    text = Page(report_page(recipe, report)).text

    assert digest not in text
    assert "The result is not where it was written" in text


def test_an_adapter_has_a_report_too(tmp_path: Path) -> None:
    recipe = Recipe("task_arithmetic", ZOO / "base", (ZOO / "bible-lora", ZOO / "python-lora"), result="adapter")

    page = Page(report_page(recipe, merge(recipe, tmp_path / "out")))

    assert "result: adapter" in page.text
    assert "adapter_model.safetensors" in page.text
