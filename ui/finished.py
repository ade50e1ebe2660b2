"""What is said of a merge that is done: where it is, what became of every tensor, and how to look at it again."""

from __future__ import annotations

import html
import shlex
from pathlib import Path

from merging.engine import Report
from merging.sizes import in_words


def finished(report: Report) -> str:
    """Where the merge is, how large it is, how long it took, how to use it, and what happened to which tensors."""
    merged = [name for name, fate in report.fates.items() if fate.startswith("merged")]
    size = f"{len(merged):,} tensors, {in_words(report.bytes)}, {report.seconds:.1f} s."
    return (
        f'<div class="notice good" role="status"><b>Merged.</b> {size}<br><code>{html.escape(str(report.out))}</code>'
        f"{_use(report.out)}{_warnings(report.warnings)}{_others(report.fates)}</div>"
    )


def _use(out: Path) -> str:
    """How to load the result, and how to check it later."""
    verify = f"<pre>python -m merging verify {html.escape(shlex.quote(str(out)))}</pre>"
    checked = f"<p>Its files were checked, and hold checksums. To check every byte again later:</p>{verify}"
    if not (out / "config.json").is_file():
        return f"<p>The base has no config.json: add one to load the merge with transformers.</p>{checked}"
    load = f'AutoModelForCausalLM.from_pretrained("{html.escape(str(out))}")'
    return f"<p>To load it:</p><pre>{load}</pre>{checked}"


def _warnings(warnings: tuple[str, ...]) -> str:
    listed = "".join(f"<li>{html.escape(warning)}</li>" for warning in warnings)
    return f"<p>Good to know:</p><ul>{listed}</ul>" if listed else ""


def _others(fates: dict[str, str]) -> str:
    """The tensors that were not merged, or not of all experts, by what became of them."""
    names: dict[str, list[str]] = {}
    for name, fate in fates.items():
        if fate != "merged":
            names.setdefault(fate, []).append(name)
    listed = "".join(
        f"<li>{html.escape(fate)}: {', '.join(f'<code>{html.escape(name)}</code>' for name in having)}</li>"
        for fate, having in names.items()
    )
    number = sum(map(len, names.values()))
    head = f"{number:,} tensor{'' if number == 1 else 's'} with another fate"
    return f"<details><summary>{head}</summary><ul>{listed}</ul></details>" if names else ""
