"""The model card of a merge: what it was made of and how, as the Hub reads it and as people do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from merging.document import RECIPE, parsed
from merging.errors import MergeError
from merging.exporting import to_mergekit
from merging.header import read_json
from merging.hub.cached import commit_of
from merging.hub.licences import NOT_TOLD, Licence, licence_in, strictest
from merging.hub.names import HubName, hub_name
from merging.method import find_method
from merging.provenance import STORY
from merging.recipe import Recipe, load_recipe
from merging.words import listed

FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
LONGEST = 1 << 20  # characters of a card
PICTURE = "layers.png"
FIND_OUT = "**Find out before you publish this, and write `license:` at the top.**"


@dataclass(frozen=True)
class Source:
    """A model that went into a merge: its name on the Hub, if it is from there, and its licence."""

    role: str
    name: str
    hub: HubName | None = None
    licence: Licence = NOT_TOLD


def card_of(folder: Path, name: str, licence_of: Callable[[HubName], Licence], picture: bool = False) -> str:
    """The card of the merge in that folder, to be published under that name.

    `licence_of` asks for the licence of a model of the Hub. MergeError where the folder holds no merge of ours.
    """
    story, recipe = _story(folder)
    sources = _sources(recipe, licence_of)
    front = yaml.safe_dump(_front(recipe, sources), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{_body(name, folder, story, recipe, sources, picture)}"


def front_of(text: str) -> dict[str, Any]:
    """What stands at the top of a card; empty where it has nothing that can be read."""
    found = FRONT.match(text[:LONGEST])
    try:
        told = parsed(found[1]) if found else None
    except MergeError:
        return {}
    return told if isinstance(told, dict) else {}


def _story(folder: Path) -> tuple[dict[str, Any], Recipe]:
    if not (folder / STORY).is_file() or not (folder / RECIPE).is_file():
        raise MergeError(f"{folder} holds no merge that Mergescope wrote, so nothing is known of it. Choose another.")
    return read_json(folder / STORY), load_recipe(folder / RECIPE)


def _sources(recipe: Recipe, licence_of: Callable[[HubName], Licence]) -> list[Source]:
    models = [("base", recipe.base)] if recipe.base else []
    models += [(f"expert {number}", path) for number, path in enumerate(recipe.experts, 1)]
    return [_source(role, path, licence_of) for role, path in models]


def _source(role: str, path: Path, licence_of: Callable[[HubName], Licence]) -> Source:
    hub = commit_of(path) or (None if path.exists() else hub_name(path))
    if hub:
        return Source(role, hub.repo, hub, licence_of(hub))
    card = (path if path.is_dir() else path.parent) / "README.md"
    told = ""
    if card.is_file():
        with card.open(encoding="utf-8", errors="replace") as stream:
            told = stream.read(LONGEST)
    return Source(role, path.name, None, licence_in(front_of(told)))


def _front(recipe: Recipe, sources: list[Source]) -> dict[str, Any]:
    """What the Hub reads of the card."""
    adapter = recipe.makes == "adapter"
    told: dict[str, Any] = {}
    named = [one.hub.repo for one in sources if one.hub and not (adapter and one.role != "base")]
    if named:
        told |= {"base_model": named, "base_model_relation": "adapter" if adapter else "merge"}
    told |= {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    told["tags"] = ["merge", "mergescope", *(["mergekit"] if _exports(recipe) else [])]
    return told | _front_licence(_strictest(sources))


def _strictest(sources: list[Source]) -> list[Licence]:
    first = {one.licence.name: one.licence for one in reversed(sources)}
    return [first[name] for name in strictest(one.licence.name for one in sources)]


def _front_licence(found: list[Licence]) -> dict[str, str]:
    """All of several that are as strict as each other; none where one of these is somebody's own."""
    if len(found) == 1:
        return found[0].front
    if any(one.own for one in found):
        return {}
    return Licence("-and-".join(one.name for one in found), own=True).front if found else {}


def _exports(recipe: Recipe) -> bool:
    try:
        to_mergekit(recipe)
    except MergeError:
        return False
    return True


def _body(name: str, folder: Path, story: dict[str, Any], recipe: Recipe, sources: list[Source], picture: bool) -> str:
    """What people read of the card."""
    method = find_method(recipe.method)
    parts = [
        f"# {name.rpartition('/')[2]}",
        f"A merge by [{method.title}]({method.paper}), computed with Mergescope {story.get('mergescope', '')} from the "
        "weights alone, without data or training.",
        f"## Models\n\n{_table(sources, story)}\n\n{_licence(sources)}",
        f"## Recipe\n\n```yaml\n{(folder / RECIPE).read_text(encoding='utf-8').strip()}\n```",
    ]
    if picture:
        words = "How far each matrix moved from the base, ‖merged − base‖ / ‖base‖, by layer and module"
        parts.append(f"## Layer by layer\n\n![{words}]({PICTURE})\n\n{words}.")
    parts += [f"## Loading it\n\n```python\n{_loading(name, recipe, sources)}\n```", _checksums(story)]
    return "\n\n".join(parts) + "\n"


def _table(sources: list[Source], story: dict[str, Any]) -> str:
    rows = ["| | model | commit | licence | header of its weights (SHA-256) |", "| --- | --- | --- | --- | --- |"]
    for one in sources:
        linked = f"[{one.name}](https://huggingface.co/{one.hub.repo})" if one.hub else f"{one.name} (not on the Hub)"
        commit = f"`{one.hub.revision}`" if one.hub and one.hub.revision else "–"
        files = story.get("inputs", {}).get(one.role, {}).get("files", {})
        hashes = [str(told.get("header", "")) for file, told in files.items() if not file.endswith(".json")]
        shown = f"`{hashes[0][:16]}…`" + (f" and {len(hashes) - 1} more" if hashes[1:] else "") if hashes else "–"
        rows.append(f"| {one.role} | {linked} | {commit} | {one.licence.words or 'not told'} | {shown} |")
    return "\n".join(rows)


def _licence(sources: list[Source]) -> str:
    """Which licence the merge is under, or who has to find out."""
    silent = [one.name for one in sources if not one.licence.name]
    if silent:
        return f"The licence of {', '.join(silent)} is not told, so that none is given here. {FIND_OUT}"
    found = _strictest(sources)
    words = listed([one.words for one in found])
    if len(found) == 1:
        others = {one.licence.name for one in sources} - {found[0].name}
        more = " The others hold for what is theirs: check that they may be combined." if others else ""
        return f"The merge is under the strictest of these licences, {words}.{more}"
    if any(one.own for one in found):
        return f"Which of {words} is the strictest is not known, so that none is given here. {FIND_OUT}"
    return f"The merge is under all of {words}, none of which is freer than another."


def _loading(name: str, recipe: Recipe, sources: list[Source]) -> str:
    if recipe.makes == "adapter":
        base = sources[0].hub.repo if sources and sources[0].hub else "path/to/the/base"
        return (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base}", dtype="auto")\n'
            f'model = PeftModel.from_pretrained(base, "{name}")'
        )
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
    )


def _checksums(story: dict[str, Any]) -> str:
    count = len(story.get("checksums", {}))
    return (
        f"`{STORY}` tells hashes of the headers of what went in, and of each of the {count:,} tensors that came out; "
        "`python -m merging verify` holds them against these files, and merging this folder again gives the same bytes."
    )
