"""`methods` on the command line: an overview, all that the page says of one method, and what scripts are told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from merging import manual
from merging.cli import main
from merging.errors import MergeError
from merging.kinds import KINDS, kind_of
from merging.method import ADAPTERS, METHODS, Method
from merging.recipe import Recipe

Out = pytest.CaptureFixture[str]
EVERY = METHODS | ADAPTERS
ANY = pytest.mark.parametrize("method", EVERY.values(), ids=list(EVERY))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # cut to what can be read


def plainly(text: str) -> str:
    return " ".join(text.split())


def parameters(capsys: Out) -> dict[str, dict[str, Any]]:
    assert main(["methods", "--json"]) == 0
    return {
        one["name"]: {param["name"]: param for param in one["parameters"]}
        for one in json.loads(capsys.readouterr().out)
    }


def test_it_begins_with_an_overview_by_kind(capsys: Out) -> None:
    assert main(["methods"]) == 0

    told = capsys.readouterr().out
    parts = re.split(r"\n\n", told.strip())
    assert "none can promise to beat plain addition" in plainly(parts[0])
    assert "methods NAME" in parts[-1]
    assert [part.partition(". ")[0] for part in parts[1:-1]] == list(KINDS)
    for part in parts[1:-1]:
        names = re.findall(r"^  (\w+) ", part, re.MULTILINE)
        assert names == [name for name, method in EVERY.items() if kind_of(method) == part.partition(". ")[0]]
    assert all(f"{method.title}. {method.brief}" in plainly(told) for method in EVERY.values())
    assert len(told.splitlines()) < 100
    assert max(map(len, told.splitlines())) <= 100


def test_methods_can_be_asked_for_by_their_names(capsys: Out) -> None:
    assert main(["methods", "pcb", "knots", "--json"]) == 0
    assert [told["name"] for told in json.loads(capsys.readouterr().out)] == ["pcb", "knots"]
    assert main(["methods", "tie"]) == 1
    assert capsys.readouterr().err == "There is no method `tie`. Did you mean `ties`?\n"


@ANY
def test_of_one_method_it_tells_what_the_page_tells(method: Method, capsys: Out) -> None:
    assert main(["methods", method.name]) == 0

    told = capsys.readouterr().out
    assert told.startswith(f"{method.name}: {method.title}\n")
    for words in (method.summary, method.paper, method.use, method.differs, manual.limits(method)):
        assert words in plainly(told)
    assert not re.search(r"\\\w", told)  # no LaTeX
    for param in (param for param in method.params.values() if not param.settled):
        [part] = re.findall(rf"^  {param.key}: (.*?)(?:\n\n|\Z)", told, re.MULTILINE | re.DOTALL)
        part = plainly(part)
        assert part.startswith(" | ".join(manual.allowed(param)))
        assert param.help in part
        assert manual.differs(method, param) in part


def test_both_ranges_and_what_may_differ_are_told(capsys: Out) -> None:
    main(["methods", "dare_ties", "ties"])

    told = plainly(capsys.readouterr().out)
    assert "density: 0.01 to 1; in recipes 0 to 1; by default 0.5" in told
    assert "drawn at random. May differ by model and by layer and name" not in told  # the whole model would be surveyed
    assert "drawn at random. May differ by model and with `scope: tensor` by layer and name." in told
    assert "weight: -2 to 3; in recipes -100 to 100, one for each model; by default 1.0" in told
    assert "How much this expert counts. May differ by model and by layer and name." in told
    assert "τ̂ᵢ = mᵢ ⊙ τᵢ / ρᵢ" in told
    assert "ρᵢ is the `density` of expert i" in told


def test_scripts_are_told_every_parameter(capsys: Out) -> None:
    main(["methods", "--json"])
    content = {method["name"]: method for method in json.loads(capsys.readouterr().out)}

    assert list(content) == list(EVERY)
    for name, method in EVERY.items():
        assert [param["name"] for param in content[name]["parameters"]] == [p.key for p in method.params.values()]
        assert content[name]["formula"] == method.formula
        assert content[name]["kind"] == kind_of(method)
    assert {name for name in content if content[name]["result"] == "adapter"} == set(ADAPTERS)
    density = next(param for param in content["dare_ties"]["parameters"] if param["name"] == "density")
    assert (density["default"], density["low"], density["high"], density["limits"]) == (0.5, 0.01, 1.0, [0.0, 1.0])
    assert [content[name]["experts"] for name in ("ties", "nearswap")] == [
        {"least": 1, "most": None},
        {"least": 1, "most": 1},
    ]


def accepted(recipe: Recipe) -> bool:
    try:
        recipe.settings()
    except MergeError:
        return False
    return True


@ANY
def test_what_may_differ_by_model_is_what_recipes_accept(method: Method, capsys: Out) -> None:
    experts = tuple(Path(str(number)) for number in range(method.taking(2)))
    told = parameters(capsys)[method.name]

    for key, param in told.items():
        value = param["default"] if param["default"] is not None else param["high"]
        if key == "weight":
            recipes = [Recipe(method.name, Path("base"), experts, (0.5,) * len(experts))]
        else:
            recipes = [Recipe(method.name, Path("base"), experts, own=({key: value},) * len(experts))]
        recipes.append(Recipe(method.name, Path("base"), experts, values={key: value}))
        assert [accepted(recipe) for recipe in recipes] == [param["per_model"], param["for_all_models"]], key
    assert not any(param["per_model"] and param["kind"] != "number" for param in told.values())


@ANY
def test_what_may_differ_by_tensor_is_what_recipes_accept(method: Method, capsys: Out) -> None:
    experts = tuple(Path(str(number)) for number in range(method.taking(2)))
    told = parameters(capsys)[method.name]
    scopes = told["scope"]["choices"] if "scope" in told else [""]

    for key, param in told.items():
        ends = [True, False] if param["kind"] == "switch" else param.get("choices") or [param["low"], param["high"]]
        value = [{"filter": "mlp", "value": ends[0]}, {"value": ends[-1]}]
        if ends[0] == ends[-1]:
            continue
        found = {}
        for scope in scopes:
            fixed = {"scope": scope} if scope and key != "scope" else {}
            weights: Any = (value,) * len(experts) if key == "weight" else ()
            values = {} if key == "weight" else {key: value}
            found[scope] = accepted(Recipe(method.name, Path("base"), experts, weights, fixed | values))
        expected = {"always": [True], "never": [False], "scope: tensor": [False, True]}[param["per_tensor"]]
        assert sorted({*found.values()}) == expected, (key, found)
        assert param["per_tensor"] != "scope: tensor" or found["tensor"]
