"""What the pages say is so: their recipes can be read, and their tables name what there is."""

import re
from pathlib import Path

import pytest

from merging import METHODS, load_recipe, mergekit
from merging.reading import KEYS

PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("recipe", [block for block in BLOCKS if "merge_method" in block])
def test_the_recipes_of_the_page_can_be_read(recipe: str) -> None:
    assert load_recipe(recipe).warnings == ()


def test_the_page_names_every_key() -> None:
    named = {word for row in ROWS for word in re.findall(r"`(\w+)`", row[0])}

    assert set(KEYS) - {"tokenizer"} <= named


@pytest.mark.parametrize("name", METHODS)
def test_the_page_names_every_parameter(name: str) -> None:
    [row] = [row for row in ROWS if row[0] == f"`{name}`"]
    params = METHODS[name].params.values()

    assert set(re.findall(r"`(\w+)`", row[1])) == {param.key for param in params if not param.per_expert}
    assert set(re.findall(r"`(\w+)`", row[2])) == {param.key for param in params if param.per_expert or param.by_expert}


def test_the_page_names_every_method_of_mergekits() -> None:
    assert all(f"`{name}`" in PAGE.split("## mergekit's")[1] for name in mergekit.MEANINGS)
