"""What the pages say is so: their recipes can be read, and their tables name what there is."""

import re
from pathlib import Path

import pytest

from docs import pages
from merging import METHODS, load_recipe, manual, mergekit
from merging.cli import compared
from merging.method import ADAPTERS
from merging.reading import KEYS
from tests.conftest import Family

PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]

ROOT = Path(__file__).parent.parent
SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_the_tests_that_hold_what_is_promised_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", SECURITY)
    promises = [line for line in SECURITY.splitlines() if line.startswith("| ") and "---" not in line]

    assert all("`tests/" in line or line == "| promise | held by |" for line in promises)
    assert len(named) >= len(promises) - SECURITY.count("| promise |")
    for file, test in named:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert (f"def {test}(" if test else "def test_") in text, f"{file}::{test}"


@pytest.mark.parametrize("recipe", [block for block in BLOCKS if "merge_method" in block])
def test_the_recipes_of_the_page_can_be_read(recipe: str) -> None:
    assert load_recipe(recipe).warnings == ()


def test_the_page_names_every_key() -> None:
    named = {word for row in ROWS for word in re.findall(r"`(\w+)`", row[0])}

    assert set(KEYS) - {"tokenizer"} <= named


@pytest.mark.parametrize("name", METHODS | ADAPTERS)
def test_the_page_names_every_parameter(name: str) -> None:
    [row] = [row for row in ROWS if row[0] == f"`{name}`"]
    params = (METHODS | ADAPTERS)[name].params.values()

    shared = {param.key for param in params if not param.per_expert and not param.settled}
    assert set(re.findall(r"`(\w+)`", row[1])) == shared
    assert set(re.findall(r"`(\w+)`", row[2])) == {param.key for param in params if param.per_expert or param.by_expert}


def test_the_page_of_methods_says_what_they_declare() -> None:
    assert pages.PAGE.read_text(encoding="utf-8") == pages.page(), "Run `make docs`."


@pytest.mark.parametrize("name", METHODS | ADAPTERS)
def test_a_methods_section_names_all_there_is_to_set(name: str) -> None:
    section = pages.PAGE.read_text(encoding="utf-8").split(f"\n`{name}` · ")[1].split("\n## ")[0]

    method = (METHODS | ADAPTERS)[name]
    assert pages.rendered(method.formula) in section
    assert "operatorname" not in section  # which GitHub refuses
    assert pages.rendered(method.where) in section
    assert method.use in section
    assert manual.limits(method) in section
    rows = re.findall(r"^\| (?:each model's )?`(\w+)` \|", section, re.MULTILINE)
    assert rows == [param.key for param in method.params.values() if not param.settled]


@pytest.mark.parametrize("name", METHODS | ADAPTERS)
def test_the_page_says_where_to_begin_with_methods_that_there_are(name: str) -> None:
    page = pages.PAGE.read_text(encoding="utf-8")
    begin = page.split("## Where to begin")[1].split("\n## ")[0]
    rows = [line for line in begin.splitlines() if line.startswith("| ")][1:]

    assert {word for row in rows for word in re.findall(r"`(\w+)`", row)} <= {*METHODS, *ADAPTERS, "inspect"}
    assert page.index("none can promise to beat plain addition") < page.index("## Where to begin")
    assert f"| `{name}` |" in page.split("## All of them")[1]


def test_the_page_explains_what_inspecting_prints(family: Family) -> None:
    base, experts = family(2)
    page = pages.PAGE.read_text(encoding="utf-8").split("## What the experts are like")[1].split("\n## ")[0]

    _, first, *lines = compared.told(compared.looked_at(base, experts))
    second = lines[lines.index("") + 1]

    columns = [head for line in (first, second) for head in re.split(r"  +", line.strip())]
    assert len(columns) == 5 + 5
    for head in columns:
        assert f"`{head}`" in page or (head.startswith("at density") and "`at density 0.1` and so on" in page)


def test_the_page_names_every_method_of_mergekits() -> None:
    assert all(f"`{name}`" in PAGE.split("## mergekit's")[1] for name in mergekit.MEANINGS)
