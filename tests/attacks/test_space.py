"""The app as a public Space: visitors who know nothing of each other, a proxy before it, and a token of its owner's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from threading import Event

import pytest

from merging import space
from tests.attacks.conftest import ROOT, ZOO, App, Visiting
from tests.attacks.space import (
    FILES,
    GUESSES,
    NAME,
    OURS,
    PATHS,
    at_once,
    in_a_space,
    linked,
    merged,
    recipe,
    recipes,
    until,
)
from tests.attacks.test_fields import SECRETS, different
from tests.attacks.test_routes import FOREIGN, JOIN, ROUTES, UNUSED, refuses_files, secrets_of, sent, takes_nothing
from tests.attacks.test_visitors import claimed, expect_own, listed, merge_own
from tests.attacks.visitor import Visitor
from tests.hub import TOKEN

pytestmark = pytest.mark.e2e

NO_PATH = "is a path, and a Space opens none."


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with in_a_space(tmp_path_factory.mktemp("space")) as found:
        yield found


@pytest.fixture
def attacked(standing: App) -> Iterator[App]:
    """The Space, which has to have kept to its merges, and its owner's token to itself, when the attack is over."""
    before = standing.beside()
    yield standing
    assert standing.beside() == before
    assert sorted(path.name for path in standing.place.iterdir()) == ["merges", "mine.txt"]
    assert TOKEN not in standing.printed
    assert {one.token for one in standing.hub.asked} <= {""}


def test_no_route_gives_a_file_but_ones_own_merges(attacked: App, visitor: Visitor, another: Visiting) -> None:
    theirs, mine = merged(another(), "theirs"), merged(visitor, "own")
    home = attacked.place / "merges" / mine
    (home / "link.txt").symlink_to(attacked.around / "secret.txt")
    (home / "out").symlink_to(attacked.around)

    for route in ROUTES:
        refuses_files(attacked, route, secrets_of(attacked))
    known = {"mine": mine, "other": theirs[:-1], "upper": theirs.upper(), "zeros": "0" * 32}
    for file in (file.format(**known) for file in FILES):
        for way in (file, str(attacked.place / file), file.replace("/", "%2f"), file.replace("..", "%2e%2e")):
            status, text = sent(attacked, "GET", f"/gradio_api/file={way}", more=OURS)

            assert 400 <= status < 500, way
            assert theirs not in text
            assert not any(word in text for word in ("merge_method", "nobody may read this"))
    own = f"/gradio_api/file={home / 'own'}/mergescope.yaml"
    assert "merge_method" in sent(attacked, "GET", own, more=OURS)[1]
    for link in ("link.txt", "out"):
        (home / link).unlink()


def test_the_folder_of_a_visitor_is_told_to_nobody(attacked: App, visitor: Visitor, another: Visiting) -> None:
    home = merged(visitor, "bible")
    written = (attacked.place / "merges" / home / "bible/mergescope.yaml").read_text()
    assert "is there already" in visitor.merges("bible")
    assert "which is bible of this visit" in visitor.drops(written)
    visitor.asks("And God said", **{"sample-length": 2})
    listed(visitor)
    visitor["history-one"] = visitor["history-other"] = 1
    for button in ("history-report", "history-repeat", "history-compare", "recipe-save", "recipe-link"):
        assert not visitor.does(button, "click").error
    other = another()
    assert merged(other, "other") != home

    told = [other.http.get("/config").text, *other.news, claimed(other, attacked.place / "merges" / home / "bible")]
    told += [other.http.get(f"/gradio_api/{path}").text for path in ("queue/status", "startup-events", "info")]
    own = re.sub(r'gradio_api/file=[^"\\]+', "", "".join(visitor.news))
    assert f"merges/{home}/bible/model.safetensors" in "".join(visitor.news)
    assert home not in own
    assert not [text for text in told if home in text or visitor.hash in text]
    assert home not in attacked.printed

    visitor.chooses(ZOO / "base", ZOO / "bible", f"merges/{home}/bible")
    assert "Merged." in visitor.merges("second")
    kept = [file for file in attacked.place.glob(f"merges/{home}/second/*") if file.suffix in (".json", ".yaml")]
    assert not [file for file in kept if home in file.read_text()]  # which may be published


def test_claims_of_other_visits_are_not_believed(attacked: App, visitor: Visitor, another: Visiting) -> None:
    folder = attacked.place / "merges" / merged(visitor, "precious") / "precious"

    told = claimed(another(), folder)

    assert "precious" not in told.replace(str(folder), "")
    assert (folder / "model.safetensors").is_file()
    assert "precious" in listed(visitor)


def test_a_space_is_reached_by_its_name_and_from_its_own_page(attacked: App, visitor: Visitor) -> None:
    body = json.dumps({"fn_index": visitor.on("stop", "click")["id"], "data": [], "session_hash": "a"}).encode()
    kind = {"Content-Type": "application/json"}

    for origin in (OURS, OURS | {"Sec-Fetch-Site": "same-origin"}):
        assert sent(attacked, "POST", JOIN, body, {**origin, **kind})[0] == 200
    for headers in [headers for headers in FOREIGN.values() if "Host" not in headers]:
        for more in (kind, {}):
            assert sent(attacked, "POST", JOIN, body, {"Host": NAME, **more, **headers})[0] == 403
    assert sent(attacked, "POST", JOIN, None, {**OURS, **kind, "Content-Length": str(1 << 40)})[0] == 413
    assert sent(attacked, "POST", JOIN, None, {**OURS, **kind, "Transfer-Encoding": "chunked"})[0] == 411
    for path in UNUSED:
        takes_nothing(attacked, path)
    for url in (attacked.hub.url, "http://169.254.169.254/latest/meta-data", "https://huggingface.co/x"):
        for route in ("proxy=", "file=", "file/"):
            assert sent(attacked, "GET", f"/gradio_api/{route}{url}", more=OURS)[0] == 404
    frames = "frame-ancestors 'self' https://huggingface.co"
    assert visitor.http.get("/").headers["content-security-policy"] == frames


def test_no_path_is_a_model_wherever_it_is_told(attacked: App, visitor: Visitor, another: Visiting) -> None:
    home, other = merged(visitor, "own"), merged(another(), "theirs")
    link = attacked.place / "merges" / home / "link"
    link.symlink_to(attacked.around)
    known = {"home": home, "other": other[:-1], "zeros": "0" * 32, "root": ROOT, "place": attacked.place}
    assert "problem" not in visitor.chooses(ZOO / "base", f"merges/{home}/own")

    for path in [path.format(**known) for path in PATHS]:
        said = visitor.chooses(path, ZOO / "bible") + visitor.chooses(ZOO / "base", path)
        assert said.count(NO_PATH) == 2, path
        assert not any(word in said for word in SECRETS), path
    for path in [path.format(**known) for path in GUESSES]:
        said = visitor.chooses(ZOO / "base", path)
        assert "problem" in said, path
        assert other not in said
    for number, text in enumerate(
        text for path in (*PATHS[-5:], *GUESSES[-2:]) for text in recipes(path.format(**known))
    ):
        said = visitor.opens(linked(text)) if number % 2 else visitor.drops(text)
        if "notice error" not in said:
            assert "is open" in said
            visitor.does("base", "change")
            said = visitor.merges("of-a-recipe")
        assert "notice error" in said, text
        assert not any(word in said for word in (*SECRETS, other)), text
    kit = recipe(
        models=[{"model": {"model": str(ZOO / "base"), "lora": "PATH"}, "parameters": {"weight": 1.0}}]
    ).replace("mergescope: 1\n", "")
    said, nothing = (
        visitor.drops(kit.replace("PATH", path)).replace(path, "") for path in ("/etc/passwd", "/no/where")
    )
    assert said == nothing
    assert "puts an adapter on a model" in said
    link.unlink()
    assert not list(attacked.place.glob("merges/*/of-a-recipe"))


def test_no_function_takes_a_path_for_anything(attacked: App, visitor: Visitor, another: Visiting) -> None:
    other = merged(another(), "anothers")
    values = [
        f"{attacked.place}/merges/{other[:-1]}/anothers",
        "../mine.txt",
        "~/log.txt",
        str(attacked.around / "hub"),
    ]

    for one in different(visitor):
        given = cycle(values)
        said = visitor.call(one, [next(given) for _ in one["inputs"]]).text

        assert not any(word in said for word in (*SECRETS, other)), one["api_name"]


@pytest.mark.parametrize("event", ["run", "output"])
def test_a_merge_goes_nowhere_but_to_ones_own(event: str, attacked: App, visitor: Visitor) -> None:
    home = attacked.place / "merges" / merged(visitor, f"first-{event}")
    (home / "link").symlink_to(attacked.around)
    outputs = ["../x", "../../mine.txt", "/tmp/x", f"{home}/x", "merges/x", "..", ".", "~", "~root", ".hidden", "a/b"]
    outputs += ["a b", "a\0b", "a\nb", "x" * 101, "", "link/x", "C:\\x", "\u2025", "\uff0e\uff0e", "link"]

    for output in outputs:
        visitor["output"] = output
        said = visitor.does("output", "change").text if event == "output" else visitor.merges(output)

        assert "Merged." not in said
        assert event == "output" or "notice error" in said, output
        assert home.name not in said
    (home / "link").unlink()
    assert [path.name for path in home.iterdir()] == [f"first-{event}"]


def test_models_that_a_space_does_not_take_are_not_read(attacked: App, visitor: Visitor) -> None:
    refused = {"gated": "is gated or private", "private": "or it is private", "pickled": "PyTorch files only"}
    refused["large"] = "has 7.00 GB of weights, and this Space takes models of up to 6.87 GB"
    hub, names = attacked.hub, [f"some/{name}" for name in refused]

    table = visitor.chooses(ZOO / "base", *names, *(f"{name}@main" for name in names))
    assert all(table.count(words) == 2 for words in refused.values())
    for name in names:
        visitor.chooses(name, ZOO / "bible")
        assert "notice error" in visitor.merges("refused")
    files = [one.path for one in hub.sent() if one.path.startswith(tuple(f"/{name}/" for name in names))]
    assert not [file for file in files if file.endswith((".safetensors", ".bin"))]

    assert not list(attacked.place.glob("merges/*/refused"))


def test_crowds_of_experts_are_refused_before_the_hub_is_asked(attacked: App, visitor: Visitor) -> None:
    asked, nine = len(attacked.hub.asked), [f"some/expert-{number}" for number in range(9)]

    assert "A Space merges 8 experts at most. Remove 1." in visitor.chooses(ZOO / "base", *nine)
    assert "is open" in visitor.drops(recipe(models=[{"model": name} for name in nine]))
    visitor.does("base", "change")
    assert "A Space merges 8 experts at most. Remove 1." in str(visitor["models-table"])
    assert "notice error" in visitor.merges("of-nine")
    assert len(attacked.hub.asked) == asked
    assert not list(attacked.place.glob("merges/*/of-nine"))


def test_the_hub_is_asked_as_nobody_in_particular(attacked: App, visitor: Visitor) -> None:
    visitor["hub-search"] = "bible"
    assert "some/bible" in visitor.does("hub-go", "click").text
    assert "to download" in visitor.chooses(ZOO / "base", "some/bible")
    for far, words in (("stream", "were fetched from the Hub, and are not kept"), ("download", "Merged.")):
        visitor["far"] = far
        assert words in visitor.merges(f"by-{far}")

    assert {one.token for one in attacked.hub.asked} == {""}


def test_nobody_publishes_who_is_not_signed_in(attacked: App, visitor: Visitor) -> None:
    merged(visitor, "to-publish")
    listed(visitor)
    visitor["history-one"] = 1
    visitor.http.headers["Authorization"] = f"Bearer {TOKEN}x"
    visitor.http.cookies.set("session", "eyJvYXV0aF9pbmZvIjp7ImFjY2Vzc190b2tlbiI6IngifX0=")

    told = []
    for name in ("", "someone/stolen", "some/bible"):
        visitor["publish-name"] = name
        told.append(visitor.does("publish-prepare", "click").text + visitor.does("publish-run", "click").text)

    assert all("It is on the Hub" not in text for text in told)
    assert "Nobody is signed in to the Hub" in told[0]
    assert "Nobody is signed in to the Hub" in told[1]
    assert "There is a model `some/bible` already" in told[2].replace("<code>", "`").replace("</code>", "`")
    assert not [one for one in attacked.hub.asked if one.method not in ("GET", "HEAD")]
    assert not (attacked.around / "hub/someone/stolen").exists()


def test_twenty_visitors_wait_in_line_and_all_get_what_is_theirs(
    attacked: App, another: Visiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, over, working = len(attacked.printed), Event(), []
    first, last, visitors = another(), another(), [another() for _ in range(space.LINE)]
    first.chooses(ZOO / "base", "some/slow")
    monkeypatch.setattr(attacked.hub, "slow", 1.0)

    with ThreadPoolExecutor(space.LINE + 2) as pool:
        try:
            watched = pool.submit(at_once, attacked.place, over)
            slow = pool.submit(first.merges, "of-the-first")
            until(lambda: any("some/slow/resolve" in one.path and "model" in one.path for one in attacked.hub.sent()))
            working = [pool.submit(merge_own, visitor, number) for number, visitor in enumerate(visitors)]
            until(lambda: all("before yours" in "".join(visitor.news) for visitor in visitors))
            last.chooses(ZOO / "base", ZOO / "bible")
            assert "20 merges are waiting already. Nothing that you have set is lost" in last.merges("of-the-last")
        finally:
            attacked.hub.slow = 0.0
            every = [one.result() for one in working]
            over.set()
    assert "Merged." in slow.result()
    assert watched.result() == 1
    homes = {folder.name: folder.parent.name for folder in attacked.place.glob("merges/*/of-*")}
    assert len(homes) == len({*homes.values()}) == space.LINE + 1
    for number, (visitor, said) in enumerate(zip(visitors, every, strict=True)):
        home, news = homes[f"of-{number}"], "".join(visitor.news)
        written = visitor.http.get(f"/gradio_api/file={attacked.place}/merges/{home}/of-{number}/mergescope.yaml")
        expect_own(visitor, number, said, written.text, space.LINE)
        assert not [other for other in homes.values() if other != home and other in news]
    assert "Merged." in last.merges("of-the-last")
    assert "Traceback" not in attacked.printed[printed:]
    assert attacked.memory < 3 << 30
