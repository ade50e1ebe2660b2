"""Visitors of the running app: none has anything of another's, whatever they claim, and twenty at once are served."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from tests.attacks.conftest import ZOO, App, Visiting
from tests.attacks.visitor import Visitor

pytestmark = pytest.mark.e2e

EXPERTS = ("bible", "python", "shakespeare")
MANY = 20


def listed(visitor: Visitor) -> str:
    """The history that the visitor is shown."""
    one = next(one for one in visitor.listening if visitor.named["history"] in one["outputs"])
    return visitor.call(one).text


def claimed(thief: Visitor, folder: Path) -> str:
    """All that somebody is told who claims that another's merge is the first of this visit, whatever is done to it."""
    forged = {"history": {"merges": [{"number": 1, "report": {"out": str(folder)}}], "count": 1}}
    every = ""
    for name, event in (("delete", "click"), ("report", "click"), ("repeat", "click"), ("compare", "click")):
        one = thief.on(f"history-{name}", event)
        if not one["backend_fn"] or not one["inputs"]:
            one = next(then for then in thief.listening if then.get("trigger_after") == one["id"])
        for number in (1, [1], "1", -1):
            claims = {"state": forged, "checkbox": True, "textbox": "a note"}
            every += thief.call(one, [claims.get(thief.kinds[part], number) for part in one["inputs"]]).text
    thief["publish-name"] = "someone/stolen"
    every += thief.does("publish-prepare", "click").text
    assert "Choose a merge above." in every
    return every + listed(thief)


def test_claims_of_other_visits_are_not_believed(attacked: App, visitor: Visitor, another: Visiting) -> None:
    visitor.chooses(ZOO / "base", ZOO / "bible")
    assert "Merged." in visitor.merges("of-one")
    assert "of-one" in listed(visitor)
    visitor["history-note"], visitor["history-one"] = "a note of one", 1
    visitor.does("history-note", "blur")

    told = claimed(another(), attacked.place / "of-one")

    assert "of-one" not in told
    assert "a note of one" not in told
    assert not (attacked.around / "hub/someone/stolen").exists()
    assert (attacked.place / "of-one/model.safetensors").is_file()
    assert "a note of one" in listed(visitor)


def test_nobody_learns_by_which_name_another_visit_goes(attacked: App, visitor: Visitor, another: Visiting) -> None:
    visitor.chooses(ZOO / "base", ZOO / "python")
    other = another()

    told = [other.http.get("/config").text, other.chooses(ZOO / "base", ZOO / "bible"), listed(other)]
    told += [other.http.get(f"/gradio_api/{path}").text for path in ("queue/status", "startup-events", "app_id")]

    assert not any(visitor.hash in text for text in told)
    for guess in (visitor.hash[:-1], "", "*"):
        with suppress(httpx.RemoteProtocolError):  # the app hangs up
            assert "python" not in other.http.get("/gradio_api/queue/data", params={"session_hash": guess}).text


def test_stopping_stops_ones_own_work_alone(attacked: App, visitor: Visitor, another: Visiting) -> None:
    visitor.chooses(ZOO / "base", ZOO / "bible", ZOO / "python")
    other = another()

    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(visitor.asks, "And God said", **{"sample-length": 8})
        for _ in range(4):
            for button in ("stop", "sample-stop", "history-stop", "publish-stop", "hub-stop"):
                other.does(button, "click")

    assert "Stopped" not in said.result()
    assert said.result().count("<pre>") == 4


class Done(NamedTuple):
    """What one of many visitors chose, and was told."""

    visitor: Visitor
    experts: list[str]
    scaling: float
    said: str
    answers: str
    opened: str


def work(visitor: Visitor, number: int) -> Done:
    """All that one of many visitors does: models, a slider, a merge, a prompt, and a recipe that is opened."""
    experts = [EXPERTS[number % 3], EXPERTS[(number + 1) % 3]]
    scaling = round(0.3 + 0.05 * number, 2)
    table = visitor.chooses(ZOO / "base", *(ZOO / name for name in experts), most=3)
    assert all(name in table for name in experts)
    kinds = ["ties", "pcb", "from"]
    method = kinds[number % 3]
    visitor["method"], visitor[f"{method}-lambda"] = method, scaling
    visitor.does(f"{method}-lambda", "change", most=3)
    forecast = str(visitor["forecast-note"])
    merged = visitor.merges(f"of-{number}")
    answers = visitor.asks(f"In the year {number} ", **{"sample-length": 3})
    opened = visitor.drops(yaml.safe_dump(recipe_of(experts, method, scaling)))
    return Done(visitor, experts, scaling, forecast + merged, answers, opened)


def recipe_of(experts: list[str], method: str, scaling: float) -> dict[str, Any]:
    models = [{"model": str(ZOO / name)} for name in experts]
    told = {"mergescope": 1, "merge_method": method, "base_model": str(ZOO / "base"), "models": models}
    return {**told, "parameters": {"lambda": scaling}}


def expect_own(done: Done, number: int, recipe: str) -> None:
    """A visitor was given what is its own, and has nothing of the others'."""
    assert "Merged." in done.said
    assert "% away from the base" in done.said
    told = yaml.safe_load(recipe)
    assert [Path(model["model"]).name for model in told["models"]] == done.experts
    assert told["parameters"]["lambda"] == done.scaling
    assert done.answers.count("<pre>") == 4
    assert all(f"<h3>{name}</h3>" in done.answers for name in ("base", *done.experts))
    assert done.answers.count(f"In the year {number} ") == 4
    assert "mine.yaml is open" in done.opened
    mine = listed(done.visitor)
    assert f"of-{number}" in mine
    assert not any(f"of-{other}<" in mine for other in range(MANY) if other != number)


def test_twenty_visitors_at_once_all_get_what_is_theirs(attacked: App) -> None:
    printed = len(attacked.printed)

    with ThreadPoolExecutor(MANY) as pool:
        every = list(pool.map(lambda number: work(Visitor(attacked.url), number), range(MANY)))

    for number, done in enumerate(every):
        expect_own(done, number, (attacked.place / f"of-{number}/mergescope.yaml").read_text())
    assert "Traceback" not in attacked.printed[printed:]
    assert attacked.memory < 3 << 30
