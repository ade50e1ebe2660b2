"""What is said of a merge that is done: where it is, what became of every tensor, and how to look at it again."""

from __future__ import annotations

import html
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

from merging import space
from merging.adapter_config import CONFIG
from merging.header import read_json
from merging.hub.names import hub_name
from merging.report import Report, by_fate
from merging.sizes import in_words
from ui.errors import escaped

ROUNDING = 1e-9  # of a squared norm: less than that is no loss


def finished(report: Report, base: Path | None) -> str:
    """Where the merge is, how large it is, how long it took, how to use it, and what happened to which tensors."""
    merged = [name for name, fate in report.fates.items() if fate.startswith("merged")]
    size = f"{len(merged):,} tensors, {in_words(report.bytes)}, {report.seconds:.1f} s."
    size += f" {in_words(report.fetched)} were fetched from the Hub, and are not kept." if report.fetched else ""
    adapter = (report.out / CONFIG).is_file()
    use = _adapter(report, base) if adapter else _model(report.out)
    return (
        f'<div class="notice good" role="status"><b>Merged{" into one LoRA adapter" if adapter else ""}.</b> {size}<br>'
        f"<code>{html.escape(called(report.out))}</code>{_downloads(report.out) if space.here() else ''}"
        f"{use}{_verify(report.out)}{_warnings(report.warnings)}{_others(report.fates)}</div>"
    )


def kept() -> str:
    """How long a Space keeps a merge, and what is to be done before it where visitors can sign in."""
    if not space.signs_in():
        return "Kept for two hours at most: download it."
    before = "To publish it, sign in at the top before you merge: the page begins anew with that."
    return f"Kept for two hours at most. {before}"


def called(out: Path) -> str:
    """What a merge's folder is called on the screen: by its name where its place is nobody's business."""
    return out.name if space.here() else str(out)


def _downloads(out: Path) -> str:
    """The files of a merge, to be downloaded while the Space keeps it; the largest first."""
    files = sorted((file.stat().st_size, file) for file in out.rglob("*") if file.is_file())
    links = "".join(
        f'<li><a href="gradio_api/file={quote(str(file))}" download="{html.escape(file.name, quote=True)}">'
        f"{html.escape(file.relative_to(out).as_posix())}</a> {in_words(size)}</li>"
        for size, file in reversed(files)
    )
    words = f"Its files, here for {space.KEPT // 3600} hours at most: download them"
    publish = (
        ", or publish it in step 5 if you are signed in. Signing in only now begins the page anew, without this merge."
    )
    return f'<p>{words}{publish if space.signs_in() else "."}</p><ul class="files">{links}</ul>'


def _model(out: Path) -> str:
    """How to load a model."""
    if not (out / "config.json").is_file():
        return "<p>The base has no config.json: add one to load the merge with transformers.</p>"
    load = f'AutoModelForCausalLM.from_pretrained("{html.escape(called(out))}")'
    return f"<p>To load it:</p><pre>{load}</pre>"


def _adapter(report: Report, base: Path | None) -> str:
    """What an adapter is, whether its rank leaves something out, and how to put it onto its base."""
    config = read_json(report.out / CONFIG)
    ranks = [config["r"], *config["rank_pattern"].values()]
    whole = max(report.lost.values(), default=0.0) <= ROUNDING  # else a warning says how much is lost, and where
    kept = ", which leaves nothing out" if whole else ""
    words = f"It is of rank {ranks_in_words(ranks)}{kept}, and goes onto the base that its adapters were made for."
    lines = (
        f"model = AutoModelForCausalLM.from_pretrained({_ground(base, config)})",
        f'model = PeftModel.from_pretrained(model, "{called(report.out)}")',
    )
    return f"<p>{words} To load it with peft:</p><pre>{html.escape(chr(10).join(lines))}</pre>"


def _ground(base: Path | None, config: dict[str, Any]) -> str:
    """How transformers finds the base: a folder by its path, another model by its name on the Hub."""
    name = hub_name(base) if base and not base.exists() else None
    if name:
        return f'"{name.repo}", revision="{name.revision}"' if name.revision else f'"{name.repo}"'
    return f'"{called(base.absolute()) if base else config.get("base_model_name_or_path") or "the base"}"'


def ranks_in_words(ranks: list[int]) -> str:
    """One rank, or the smallest and the largest of several."""
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low} to {high}"


def _verify(out: Path) -> str:
    """How to check the result later."""
    verify = f"<pre>python -m merging verify {html.escape(shlex.quote(called(out)))}</pre>"
    return f"<p>Its files were checked, and hold checksums. To check every byte again later:</p>{verify}"


def _warnings(warnings: tuple[str, ...]) -> str:
    listed = "".join(f"<li>{escaped(warning)}</li>" for warning in warnings)
    return f"<p>Good to know:</p><ul>{listed}</ul>" if listed else ""


def _others(fates: dict[str, str]) -> str:
    """The tensors that were not merged, or not of all experts, by what became of them."""
    names = {fate: having for fate, having in by_fate(fates).items() if fate != "merged"}
    listed = "".join(
        f"<li>{html.escape(fate)}: {', '.join(f'<code>{html.escape(name)}</code>' for name in having)}</li>"
        for fate, having in names.items()
    )
    number = sum(map(len, names.values()))
    head = f"{number:,} tensor{'' if number == 1 else 's'} with another fate"
    return f"<details><summary>{head}</summary><ul>{listed}</ul></details>" if names else ""
