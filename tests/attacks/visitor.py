"""A visitor without a browser: sends what a page would send, or what no page ever would."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from ui.page import PACK

CONFIGS: dict[str, dict[str, Any]] = {}  # of apps by their addresses, which is the same for all visitors


@dataclass
class Told:
    """What the app answered: the values of the outputs, or an error."""

    data: list[Any] = field(default_factory=list)
    error: str = ""
    status: int = 200

    @property
    def text(self) -> str:
        """All of it, to look for words in."""
        return f"{json.dumps(self.data, ensure_ascii=False)} {self.error}"


class Visitor:
    """Holds what the components of one visitor's page hold, and calls what is behind them."""

    def __init__(self, url: str, hash: str = "") -> None:
        self.hash = hash or secrets.token_hex(8)
        self.http = httpx.Client(base_url=url, timeout=300, trust_env=False)
        if url not in CONFIGS:
            CONFIGS[url] = self.http.get("/config").raise_for_status().json()
        self.config = CONFIGS[url]
        self.held = {one["id"]: one["props"].get("value") for one in self.config["components"]}
        self.news: list[str] = []  # all that was told, also meanwhile, as it came

    @cached_property
    def named(self) -> dict[str, int]:
        """The numbers of components by their names."""
        told = ((one["props"].get("elem_id"), one["id"]) for one in self.config["components"])
        return {name: number for name, number in told if name}

    @cached_property
    def kinds(self) -> dict[int, str]:
        return {one["id"]: one["type"] for one in self.config["components"]}

    @property
    def listening(self) -> list[dict[str, Any]]:
        """All that the app does when something happens on the page."""
        return [one for one in self.config["dependencies"] if one["backend_fn"]]

    def __setitem__(self, name: str, value: Any) -> None:
        self.held[self.named[name]] = value

    def __getitem__(self, name: str) -> Any:
        return self.held[self.named[name]]

    def on(self, name: str, event: str) -> dict[str, Any]:
        """What listens first to an event of a component."""
        target = [self.named[name], event]
        return next(one for one in self.config["dependencies"] if target in [[*told] for told in one["targets"]])

    def call(
        self,
        one: dict[str, Any],
        values: list[Any] | None = None,
        event: Any = None,
        query: dict[str, str] | None = None,
    ) -> Told:
        """Call one of `listening`, with what the components hold, or with other values; keep what they are told.

        `query` is what stands in the page's address.
        """
        data = [self.held[number] for number in one["inputs"]] if values is None else values
        asked = {
            "fn_index": one["id"],
            "data": data,
            "event_data": event,
            "session_hash": self.hash,
            "trigger_id": None,
        }
        answer = self.http.post("/gradio_api/queue/join", json=asked, params=query)
        if answer.status_code != 200:
            return Told(error=answer.text, status=answer.status_code)
        told = self._heard(answer.json()["event_id"])
        for number, value in zip(one["outputs"], told.data, strict=False):
            if isinstance(value, dict) and value.get("__type__") == "update":
                self.held[number] = value.get("value", self.held.get(number))
            else:
                self.held[number] = value
        return told

    def _heard(self, event: str) -> Told:
        """What comes of an event; to the end of the stream, or what is left in it is lost for the next."""
        found = Told(error="the answer ended")
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.hash}) as lines:
            for line in lines.iter_lines():
                told = json.loads(line[5:]) if line.startswith("data:") else {}
                if "output" in told:
                    self.news.append(json.dumps(told, ensure_ascii=False))
                if told.get("msg") == "process_completed" and told.get("event_id") == event:
                    output = told["output"]
                    found = Told(output.get("data") or [], "" if told["success"] else str(output))
                if told.get("msg") == "unexpected_error":
                    found = Told(error=str(told))
                if told.get("msg") == "close_stream":
                    break
        return found

    def does(self, name: str, what: str, event: Any = None, most: int = 9) -> Told:
        """Let an event happen, and call what follows it, one after the other; all that was told."""
        one = self.on(name, what)
        every = Told()
        for _ in range(most):
            if one["js"] == PACK:
                self.held[one["outputs"][0]] = [self.held[number] for number in one["inputs"]]
            if one["backend_fn"]:
                told = self.call(one, event=event)
                every = Told([*every.data, *told.data], every.error or told.error, told.status)
            after = [
                other
                for other in self.config["dependencies"]
                if other.get("trigger_after") == one["id"] and not other.get("trigger_only_on_failure")
            ]
            if not after or (every.error and one["backend_fn"]):
                break
            one = after[0]
        return every

    def chooses(self, base: Path | str, *experts: Path | str, most: int = 1) -> str:
        """Choose models; the table of them. With `most` 3 their weights are read and drawn, too."""
        self["base"], self["experts"] = str(base), [str(path) for path in experts]
        self.does("base", "change", most=most)
        return str(self["models-table"])

    def merges(self, output: Path | str) -> str:
        """Merge into that folder; what is said in the end."""
        self["output"] = str(output)
        told = self.does("run", "click", most=4)
        return f"{self['merge-status']} {told.error}"

    def asks(self, prompt: str, **fields: Any) -> str:
        """Sample; the answers."""
        self["prompt"] = prompt
        for name, value in fields.items():
            self[name] = value
        told = self.does("sample-run", "click", most=3)
        return f"{self['answers']} {told.error}"

    def drops(self, text: Any, name: Any = "mine.yaml") -> str:
        """Drop a recipe; what is said of it."""
        told = self.does("recipe-drop", "dropped", {"name": name, "text": text})
        return told.text

    def opens(self, letters: str) -> str:
        """Open the page by a link with a recipe; what is said of it."""
        linked = next(one for one in self.listening if one["api_name"] == "on_linked")
        visited = next(one for one in self.listening if one["outputs"] == linked["inputs"])
        self.call(visited, query={"recipe": letters})
        return self.call(linked).text
