"""A merge as one HTML file that opens offline: recipe, pictures, fates, times, hashes, warnings, versions."""

from __future__ import annotations

import html
import json
import platform
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import plotly
import plotly.graph_objects as go

from merging.errors import MergeError
from merging.findings import PROGRAM
from merging.header import read_json
from merging.identity import EDGE
from merging.method import find_method
from merging.provenance import STORY, our_version
from merging.recipe import Recipe
from merging.report import Report, by_fate
from merging.sizes import in_words
from ui.figures.sketch import Sketch
from ui.finished import called
from ui.report_tables import tables_of

HERE = Path(__file__).parent
PLOTLY_JS = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
PACKAGES = ("torch", "numpy", "numba", "safetensors", "transformers", "plotly")
# The file may do nothing but draw itself: whatever a name in it says, nothing is fetched.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
FATES = {"merged": "merged", "copied": "copied", "left out": "left out"}  # by how their words begin


@dataclass(frozen=True)
class Picture:
    """A figure of a report, with its title and a sentence on what is to be seen."""

    title: str
    figure: go.Figure | Sketch
    caption: str = ""


def report_page(
    recipe: Recipe,
    report: Report,
    pictures: Sequence[Picture] = (),
    when: datetime | None = None,
    note: str = "",
    missing: str = "",
) -> str:
    """The whole page, as text that UTF-8 can hold, about 5 MB with its pictures.

    Hashes of inputs are read from the result's folder, and are left out where that is gone. `note` is what the visitor
    wrote of the merge, and `missing` says which pictures there are not.
    """
    title = f"{find_method(recipe.method).title} of {_joined(path.name for path in recipe.experts)}"
    story = _story(report)
    sections = [
        _overview(report),
        _section("Note", note.strip() and f'<p class="note">{_text(note.strip())}</p>'),
        _warnings(recipe, report),
        _section("Recipe", f"<pre>{_text(recipe.to_yaml(report.out))}</pre>"),
        _pictures(pictures, missing),
        _section("What became of every tensor", _fates(report.fates)),
        _section("Times", _times(report)),
        _section("Memory and files", _taken(report)),
        _section("Inputs", _inputs(story)),
        _section("Result", _outputs(report, story)),
        _section("Versions", _versions()),
    ]
    lead = (
        f"Merged by Mergescope{f' on {when:%Y-%m-%d at %H:%M}' if when else ''} "
        f"into <code>{_text(called(report.out))}</code>"
    )
    body = f'<h1>{_text(title)}</h1><p class="lead">{lead}</p>{"".join(sections)}'
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_read('report_page.css')}</style></head>\n"
        f"<body><main>{body}</main>{_scripts(pictures)}</body></html>\n"
    )
    return page.encode("utf-8", "replace").decode()  # half a surrogate pair, which file names may hold


def _text(value: Any) -> str:
    """Anything as text of the page, whose direction stays its own."""
    return f"<bdi>{html.escape(str(value))}</bdi>" if not str(value).isascii() else html.escape(str(value))


def _joined(words: Iterable[str]) -> str:
    return ", ".join(words)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>\n" if content else ""


def _table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Sequence[int] = (),
    caption: str = "",
    named: bool = False,
) -> str:
    """A table of cells that are HTML already; the columns of these numbers hold numbers.

    Where rows are `named`, it is by their first cells.
    """

    def cell(kind: str, column: int, content: str, scope: str = "") -> str:
        scope = f' scope="{scope}"' if scope else ""
        align = ' class="number"' if column in numbers else ""
        return f"<{kind}{scope}{align}>{content}</{kind}>"

    def line(row: Sequence[str]) -> str:
        named_by = [cell("th", 0, content, "row") for content in row[:named]]
        return "".join(named_by + [cell("td", column, content) for column, content in enumerate(row)][named:])

    head = "".join(cell("th", column, _text(content), "col") for column, content in enumerate(heads))
    body = "".join(f"<tr>{line(row)}</tr>" for row in rows)
    told = f"<caption>{_text(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{told}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>{content}</details>"


def _overview(report: Report) -> str:
    """The few numbers that everyone asks for."""
    merged = sum(fate.startswith("merged") for fate in report.fates.values())
    facts = {"Tensors merged": f"{merged:,}", "Written": in_words(report.bytes), "Time": f"{report.seconds:.1f} s"}
    told = "".join(f"<div><dt>{_text(key)}</dt><dd>{_text(value)}</dd></div>" for key, value in facts.items())
    return f"<section><dl>{told}</dl></section>\n"


def _warnings(recipe: Recipe, report: Report) -> str:
    told = "".join(f"<li>{_text(words)}</li>" for words in dict.fromkeys((*recipe.warnings, *report.warnings)))
    return _section("Good to know", f'<ul class="warnings">{told}</ul>' if told else "")


def _pictures(pictures: Sequence[Picture], missing: str) -> str:
    boxes = "".join(
        f"<figure><figcaption><h3>{_text(picture.title)}</h3>"
        f"{f'<p>{_text(picture.caption)}</p>' if picture.caption else ''}</figcaption>"
        f'<div class="scroll" tabindex="0"><div class="plot" id="plot-{number}" role="img" '
        f'aria-label="{html.escape(picture.title)}"></div></div>{_numbers(picture)}</figure>'
        for number, picture in enumerate(pictures)
    )
    noscript = "<noscript><p>The pictures are drawn by JavaScript. Their numbers stand below each.</p></noscript>"
    told = f"<p>{_text(missing)}</p>" if missing else ""
    return _section("Pictures", told + (boxes and boxes + noscript))


def _numbers(picture: Picture) -> str:
    """All that is drawn, as tables for those who cannot see the picture, or want the numbers."""
    tables = [
        _table(
            table.heads,
            [[_text(cell) for cell in row] for row in table.rows],
            range(1, len(table.heads)),
            table.title,
            named=True,
        )
        for table in tables_of(picture.figure)
    ]
    return _folded(f"Numbers: {picture.title}", "".join(tables)) if tables else ""


def _scripts(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    figures = json.dumps([json.loads(picture.figure.to_json()) for picture in pictures])
    data = figures.replace("<", "\\u003c")  # no text in it can end the script, or open a comment
    return (
        f'<script type="application/json" id="figures">{data}</script>'
        f"<script>{PLOTLY_JS.read_text(encoding='utf-8')}</script><script>{_read('report_page.js')}</script>"
    )


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _fates(fates: dict[str, str]) -> str:
    """How many tensors were merged, copied or left out and why, and under each reason their names."""
    names = by_fate(fates)
    kinds = {fate: next((kind for start, kind in FATES.items() if fate.startswith(start)), "used") for fate in names}
    order = [*FATES.values(), "used"]
    rows = []
    for fate, having in sorted(names.items(), key=lambda told: order.index(kinds[told[0]])):
        listed = "<br>".join(f"<code>{_text(name)}</code>" for name in having)
        rows.append((kinds[fate], f"{_text(fate)}{_folded('Names', listed)}", f"{len(having):,}"))
    counts = [f"{sum(len(names[fate]) for fate in names if kinds[fate] == kind):,} {kind}" for kind in order]
    told = _joined(count for count in counts if not count.startswith("0 "))
    return f"<p>{told}.</p>{_table(('Fate', 'Why', 'Tensors'), rows, numbers=(2,))}"


def _times(report: Report) -> str:
    rows = [(_text(stage), f"{seconds:.2f} s") for stage, seconds in report.timings.items()]
    return _table(("Stage", "Time"), [*rows, ("in all", f"{report.seconds:.2f} s")], numbers=(1,))


def _taken(report: Report) -> str:
    """What the merge took of the machine, as far as the system counted it."""
    taken, seconds = report.taken, max(report.seconds, 1e-3)
    more = f"{in_words(taken.peak)}, of which {in_words(taken.peak - taken.before)} more than before it"
    told = {
        "Memory that was planned for, at most": report.planned and in_words(report.planned),
        "Memory while it ran, at most": taken.peak and more,
        "Read from files": taken.read and f"{in_words(taken.read)}, {in_words(taken.read / seconds)} a second",
        "Written to files": taken.written
        and f"{in_words(taken.written)}, {in_words(taken.written / seconds)} a second",
    }
    rows = [(_text(what), _text(size)) for what, size in told.items() if size]
    words = (
        f"The plan counts {in_words(PROGRAM)} for the program itself. What was measured is of the whole program, with "
        "models that it had read before and all that it did meanwhile; its memory was looked at 50 times a second. "
        "Bytes that are read and written again to check them count again."
    )
    return _table(("What", "Size"), rows) + f"<p>{words}</p>" if rows else ""


def _story(report: Report) -> dict[str, Any]:
    """What the result's folder tells of this merge; nothing where it is gone, or another's by now."""
    try:
        story = read_json(report.out / STORY)
    except MergeError:
        return {}
    return story if story.get("checksums") == report.checksums else {}


def _inputs(story: dict[str, Any]) -> str:
    """The files of every model that was read, with a hash of the header, or of all where that was taken."""
    rows = []
    for role, model in story.get("inputs", {}).items():
        hub = f"<br>{_text(model['repo'])} at {_text(model['commit'])}" if "repo" in model else ""
        who = (_text(role), _text(model["name"]) + hub)
        for name, told in model["files"].items():
            whole = model.get("sha256", {}).get(name)
            hashed = f"<code>{_text(whole or told['header'])}</code><br>{_hashed(name, told['size'], whole)}"
            rows.append((*who, _text(name), in_words(told["size"]), hashed))
            who = ("", "")  # the next file is of the same model
    if not rows:
        return "<p>The result is not where it was written, and with it went the hashes of what it was made from.</p>"
    return _table(("Role", "Model", "File", "Size", "SHA-256"), rows, numbers=(3,))


def _hashed(name: str, size: int, whole: str | None) -> str:
    """How much of a file was hashed, as `merging.identity` does it."""
    if whole or (size <= 2 * EDGE and not name.endswith(".safetensors")):
        return "of the whole file"
    return "of its header" if name.endswith(".safetensors") else "of its beginning and end"


def _outputs(report: Report, story: dict[str, Any]) -> str:
    """The hashes of the files beside the weights, and the checksum of every tensor."""
    files = [(_text(name), f"<code>{_text(told)}</code>") for name, told in story.get("files", {}).items()]
    sums = [(f"<code>{_text(name)}</code>", f"<code>{_text(told)}</code>") for name, told in report.checksums.items()]
    command = f"python -m merging verify {shlex.quote(called(report.out))}"
    verify = f"<p>To check every byte of it again: <code>{_text(command)}</code></p>"
    beside = _table(("File", "SHA-256"), files) if files else ""
    return verify + beside + _folded(f"Checksums of {len(sums):,} tensors", _table(("Tensor", "XXH3"), sums))


def _versions() -> str:
    known = {"Mergescope": our_version(), "Python": platform.python_version(), "System": platform.platform()}
    for package in PACKAGES:
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            continue
    return _table(("Part", "Version"), [(_text(part), _text(told)) for part, told in known.items()])
