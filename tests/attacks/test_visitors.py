"""Visitors of the running app: none has anything of another's, whatever they claim, and many at once are served."""

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


class Wish(NamedTuple):
    """What one of many visitors is after."""

    experts: tuple[str, str]
    method: str
    scaling: float

    @property
    def recipe(self) -> dict[str, Any]:
        models = [{"model": str(ZOO / name)} for name in self.experts]
        told = {"mergescope": 1, "merge_method": self.method, "base_model": str(ZOO / "base"), "models": models}
        return {**told, "parameters": {"lambda": self.scaling}}


def wish(number: int) -> Wish:
    experts = EXPERTS[number % 3], EXPERTS[(number + 1) % 3]
    return Wish(experts, ("ties", "pcb", "from")[number % 3], round(0.3 + 0.05 * number, 2))


def settle(visitor: Visitor, number: int, most: int = 1) -> None:
    """Choose models, a method, and how far it goes."""
    mine = wish(number)
    table = visitor.chooses(ZOO / "base", *(ZOO / name for name in mine.experts), most=most)
    assert all(name in table for name in mine.experts)
    visitor["method"], visitor[f"{mine.method}-lambda"] = mine.method, mine.scaling


def merge_own(visitor: Visitor, number: int) -> str:
    """Choose models and merge them; what is said in the end."""
    settle(visitor, number)
    return visitor.merges(f"of-{number}")


def expect_own(visitor: Visitor, number: int, said: str, recipe: str, many: int) -> None:
    """A visitor's merge is what the visitor settled, and the visitor is told of none of the others'."""
    assert "Merged." in said
    told = yaml.safe_load(recipe)
    assert tuple(Path(model["model"]).name for model in told["models"]) == wish(number).experts
    assert told["parameters"]["lambda"] == wish(number).scaling
    mine = listed(visitor)
    assert f"of-{number}" in mine
    assert not any(f"of-{other}<" in mine for other in range(many) if other != number)


class Done(NamedTuple):
    """What one of many visitors was told."""

    visitor: Visitor
    said: str
    forecast: str
    answers: str
    opened: str


def work(visitor: Visitor, number: int) -> Done:
    """All that one of many visitors does: models, a slider, a merge, a prompt, and a recipe that is opened."""
    settle(visitor, number, most=3)
    visitor.does(f"{wish(number).method}-lambda", "change", most=3)
    forecast = str(visitor["forecast-note"])
    said = visitor.merges(f"of-{number}")
    answers = visitor.asks(f"In the year {number} ", **{"sample-length": 3})
    return Done(visitor, said, forecast, answers, visitor.drops(yaml.safe_dump(wish(number).recipe)))


def test_twenty_visitors_at_once_all_get_what_is_theirs(attacked: App) -> None:
    printed = len(attacked.printed)

    with ThreadPoolExecutor(MANY) as pool:
        every = list(pool.map(lambda number: work(Visitor(attacked.url), number), range(MANY)))

    for number, done in enumerate(every):
        recipe = (attacked.place / f"of-{number}/mergescope.yaml").read_text()
        expect_own(done.visitor, number, done.said, recipe, MANY)
        assert "% away from the base" in done.forecast
        assert done.answers.count("<pre>") == 4
        assert all(f"<h3>{name}</h3>" in done.answers for name in ("base", *wish(number).experts))
        assert done.answers.count(f"In the year {number} ") == 4
        assert "mine.yaml is open" in done.opened
    assert "Traceback" not in attacked.printed[printed:]
    assert attacked.memory < 3 << 30
