"""A Hub on this machine that speaks the protocol of the Hugging Face Hub to its real client.

Everything under its folder is a model, `owner/name/files…`. Who may read what, and what was asked, is told beside.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

TOKEN = "hf_standin"
LARGE = (".safetensors", ".bin", ".pt")  # what is stored as LFS does
ELSEWHERE = "/elsewhere"
LICENCES = ("apache-2.0", "mit", "gpl-3.0", "cc-by-nc-4.0", "llama2", "gemma", "unknown", "other")  # some of the Hub's
FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/([^/]+))?(?:/(.*))?")
LFS = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Asked:
    """A request that came: its method, path and range of bytes, its token, and whether that is ours."""

    method: str
    path: str
    bytes: str = ""
    signed: bool = False
    host: str = ""
    token: str = ""


@dataclass
class Hub:
    """What the stand-in holds, and what it was asked."""

    folder: Path
    gated: set[str] = field(default_factory=set)  # models that are told of, but not read
    closed: set[str] = field(default_factory=set)  # gated models whose owner has let nobody in
    private: set[str] = field(default_factory=set)  # models that are not there without the token
    tags: set[str] = field(default_factory=set)  # revisions that every model has beside its main branch
    slow: float = 0.0  # seconds between two pieces of a file
    wait: float = 0.0  # seconds before each answer
    breaks: dict[str, int] = field(default_factory=dict)  # files, by name, that break off after so many bytes, once
    busy: list[int] = field(default_factory=list)  # how the next requests for parts of large files are answered
    elsewhere: bool = False  # whether large files are on another host, which knows nothing of commits and tokens
    lies: str = ""  # how parts of large files are wrong: `whole`, `short`, `shorter`, `long`, `changed` or `moved`
    asked: list[Asked] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)  # uploaded, and not committed yet
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)  # what model cards say, by model
    meanwhile: dict[str, str] = field(default_factory=dict)  # files that others put into a model as soon as it is made
    during: dict[str, str] = field(default_factory=dict)  # and those that others put into it while files are sent
    refuses: set[str] = field(default_factory=set)  # kinds of requests that are answered with an error: `commit`
    url: str = ""

    def commit(self, name: str) -> str:
        """The commit of a model: it follows from what its files hold."""
        digest = hashlib.sha1(name.encode())
        for file in self.files(name):
            digest.update(f"{file}:{_oid(self.folder / name / file)}".encode())
        return digest.hexdigest()

    def files(self, name: str) -> list[str]:
        root = self.folder / name
        return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())

    def sent(self) -> list[Asked]:
        """The requests for what files hold, which are not those for where they are."""
        return [one for one in self.asked if one.method == "GET" and "/resolve/" in one.path]


_KNOWN: dict[tuple[str, int, int], str] = {}


def known_as(file: Path, oid: str) -> None:
    """Let a file pass for one with that SHA-256."""
    _KNOWN[_key(file)] = oid


def _key(file: Path) -> tuple[str, int, int]:
    told = file.stat()
    return str(file), told.st_size, told.st_mtime_ns


def _oid(file: Path) -> str:
    key = _key(file)
    if key not in _KNOWN:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while part := stream.read(1 << 20):
                digest.update(part)
        _KNOWN[key] = digest.hexdigest()
    return _KNOWN[key]


@contextmanager
def standing_in(folder: Path) -> Iterator[Hub]:
    """A Hub of the models under that folder, while it is in use."""
    hub = Hub(folder)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def asking(hub: Hub, cache: Path, token: str = "") -> Iterator[None]:
    """The client in this process takes the stand-in for the Hub, with a cache of its own, while it is in use."""
    from huggingface_hub import constants

    known = {"ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}"}
    known |= {"HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": True}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in known.items():
            patch.setattr(constants, name, value)
        patch.setenv("HF_TOKEN", token)
        yield


def environment(hub: Hub, home: Path, token: str = "") -> dict[str, str]:
    """What a process must know to take the stand-in for the Hub, with a cache of its own."""
    told = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    told |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return told | ({"HF_TOKEN": token} if token else {})


class _Server(ThreadingHTTPServer):
    """Says nothing of clients that have heard enough."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or an answer's body waits for its head to be acknowledged

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: what was asked is kept."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).removeprefix(ELSEWHERE)
        body = self._body()
        time.sleep(self.hub.wait)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        signed, host = token == TOKEN, self.headers.get("Host", "").partition(":")[0]
        self.hub.asked.append(Asked(self.command, path, self.headers.get("Range", ""), signed, host, token))
        if path == "/api/whoami-v2":
            return self._whoami(signed)
        if path == "/api/models":
            return self._search()
        if path == "/api/repos/create":
            return self._create(signed, json.loads(body))
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if found := LFS.fullmatch(path):
            return self._batch(found[1], json.loads(body))
        if path.startswith("/uploads/"):
            self.hub.objects[path.rsplit("/", 1)[1]] = body
            return self._json({})
        if found := RESOLVE.fullmatch(path):
            return self._file(found[1], found[2], found[3], signed)
        if found := API.fullmatch(path):
            return self._model(found, signed, body)
        return self._missing("EntryNotFound")

    def _whoami(self, signed: bool) -> None:
        if not signed:
            return self._json({"error": "Invalid username or password."}, 401)
        role = {"accessToken": {"displayName": "standin", "role": "write"}}
        return self._json({"type": "user", "name": "someone", "fullname": "Someone", "orgs": [], "auth": role})

    def _validate(self, card: str) -> None:
        found = FRONT.match(card)
        told = yaml.safe_load(found[1]).get("license") if found else None
        if told is None or told in LICENCES:
            return self._json({"errors": [], "warnings": []})
        message = f'"license" must be one of [{", ".join(LICENCES)}, array]'
        return self._json({"errors": [{"message": message}], "warnings": []}, 400)

    def _search(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        word, limit = asked.get("search", [""])[0].lower(), int(asked.get("limit", ["20"])[0])
        names = sorted(f"{path.parent.name}/{path.name}" for path in self.hub.folder.glob("*/*") if path.is_dir())
        found = [name for name in names if word in name.lower() and name not in self.hub.private][:limit]
        return self._json([self._told(name) for name in found])

    def _told(self, name: str) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = [{"rfilename": file} for file in self.hub.files(name)]
        if "blobs" in parse_qs(urlsplit(self.path).query):
            for one in siblings:
                one["size"] = (self.hub.folder / name / one["rfilename"]).stat().st_size
        told = {"_id": "0" * 24, "id": name, "modelId": name, "sha": self.hub.commit(name), "tags": []}
        card = self.hub.cards.get(name, {})
        return told | {
            "private": name in self.hub.private,
            "gated": "manual" if name in self.hub.gated else False,
            "siblings": siblings,
            "cardData": card,
        }

    def _allowed(self, name: str, signed: bool) -> bool:
        """Whether the model is there for whoever asks; says so where it is not."""
        if not (self.hub.folder / name).is_dir() or (name in self.hub.private and not signed):
            self._missing("RepoNotFound", 404 if signed else 401)
            return False
        return True

    def _known(self, name: str, revision: str) -> bool:
        if revision in ("main", *self.hub.tags, self.hub.commit(name)):
            return True
        self._missing("RevisionNotFound")
        return False

    def _model(self, found: re.Match[str], signed: bool, body: bytes) -> None:
        name, kind, revision, rest = found.groups()
        if not self._allowed(name, signed) or (revision and not self._known(name, revision)):
            return None
        if kind == "preupload":
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return self._json({"files": modes})
        if kind in self.hub.refuses:
            return self._json({"error": "Internal Error"}, 500)
        if kind == "commit":
            return self._commit(name, body)
        if kind == "tree":
            return self._json([self._leaf(name, file) for file in self.hub.files(name) if file.startswith(rest or "")])
        return self._json(self._told(name))

    def _leaf(self, name: str, file: str) -> dict[str, Any]:
        path = self.hub.folder / name / file
        told: dict[str, Any] = {"type": "file", "path": file, "size": path.stat().st_size, "oid": _oid(path)[:40]}
        if file.endswith(LARGE):
            told["lfs"] = {"oid": _oid(path), "size": path.stat().st_size, "pointerSize": 134}
        return told

    def _create(self, signed: bool, asked: dict[str, Any]) -> None:
        if not signed:
            return self._json({"error": "Unauthorized"}, 401)
        owner = asked.get("organization") or "someone"
        name = f"{owner}/{asked['name']}"
        if owner != "someone":
            return self._forbid("You don't have the rights to create a model under this namespace")
        if (self.hub.folder / name).exists():
            return self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
        (self.hub.folder / name).mkdir(parents=True)
        if name in self.hub.meanwhile:
            (self.hub.folder / name / self.hub.meanwhile[name]).write_text("theirs")
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(name)
        return self._json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def _forbid(self, words: str) -> None:
        content = json.dumps({"error": words}).encode()
        self._head(403, len(content), {"X-Error-Message": words, "Content-Type": "application/json"})
        self.wfile.write(content)

    def _batch(self, name: str, asked: dict[str, Any]) -> None:
        if name in self.hub.during:
            (self.hub.folder / name / self.hub.during[name]).write_text("theirs")
        objects = []
        for one in asked["objects"]:
            told: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                told["actions"] = {"upload": {"href": f"{self.hub.url}/uploads/{one['oid']}"}}
            objects.append(told)
        return self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.decode().splitlines()]
        parents = {told["value"].get("parentCommit") for told in lines if told["key"] == "header"}
        if parents - {None, self.hub.commit(name)}:
            return self._json({"error": "A commit has happened since. Please refresh and try again."}, 412)
        for told in lines:
            if told["key"] not in ("file", "lfsFile"):
                continue
            value = told["value"]
            whole = base64.b64decode(value["content"]) if told["key"] == "file" else self.hub.objects[value["oid"]]
            path = self.hub.folder / name / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(whole)
        commit = self.hub.commit(name)
        url = f"{self.hub.url}/{name}/commit/{commit}"
        return self._json({"success": True, "commitOid": commit, "commitUrl": url})

    def _file(self, name: str, revision: str, file: str, signed: bool) -> None:
        if not self._allowed(name, signed) or not self._known(name, revision):
            return None
        there = self.path.startswith(ELSEWHERE)  # where only those are sent who may read it
        if not there and (name in self.hub.closed or (name in self.hub.gated and not signed)):
            return self._missing("GatedRepo", 403)
        path = self.hub.folder / name / file
        commit = {"X-Repo-Commit": self.hub.commit(name)}
        if not path.is_file():
            return self._missing("EntryNotFound", told=commit)
        size, part = path.stat().st_size, file.endswith(LARGE) and "Range" in self.headers
        start, stop, status = 0, size, 200
        headers = {**commit, "ETag": f'"{_oid(path)}"', "Accept-Ranges": "bytes", "X-Linked-Size": str(size)}
        if part and self.hub.busy:
            return self._head(self.hub.busy.pop(0), 0, {"Retry-After": "0"})
        if part and self.hub.elsewhere and not there:
            moved = {"Location": f"{self.hub.url}{ELSEWHERE}{self.path}".replace("127.0.0.1", "localhost")}
            return self._head(302, 0, {**commit, "X-Linked-ETag": headers["ETag"], **moved})
        if part and self.hub.lies:
            return self._lie(path, size, headers)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop, status = int(asked[1]), min(size, int(asked[2]) + 1 if asked[2] else size), 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._head(status, stop - start, {**headers, "Content-Type": "application/octet-stream"})
        if self.command == "GET":
            self._send(path, start, stop, file)
        return None

    def _lie(self, path: Path, size: int, headers: dict[str, str]) -> None:
        """Answer with something else than was asked for."""
        start, last = (int(number) for number in self.headers["Range"][6:].split("-"))
        last -= self.hub.lies == "short"
        last += self.hub.lies == "long"
        headers["Content-Range"] = f"bytes {start}-{last}/{size}"
        if self.hub.lies == "changed":
            headers["ETag"] = f'"{len(self.hub.asked)}"'
        if self.hub.lies == "moved":
            headers["X-Repo-Commit"] = "0" * 40
        if self.hub.lies == "whole":
            start, last = 0, size - 1
        length = last + 1 - start - (self.hub.lies == "shorter")
        self._head(200 if self.hub.lies == "whole" else 206, length, headers)
        self._send(path, start, start + length, path.name)

    def _send(self, path: Path, start: int, stop: int, file: str) -> None:
        breaks = self.hub.breaks.pop(file, None) if stop > self.hub.breaks.get(file, stop) else None
        with path.open("rb") as stream:
            stream.seek(start)
            while start < stop:
                part = stream.read(min(1 << 18, stop - start))
                if breaks is not None and start + len(part) > breaks:
                    self.wfile.write(part[: max(0, breaks - start)])
                    self.close_connection = True
                    return
                self.wfile.write(part)
                start += len(part)
                time.sleep(self.hub.slow)

    def _missing(self, code: str, status: int = 404, told: dict[str, str] | None = None) -> None:
        words = json.dumps({"error": code}).encode()
        headers = {"X-Error-Code": code, "X-Error-Message": code, "Content-Type": "application/json", **(told or {})}
        self._head(status, len(words), headers)
        if self.command != "HEAD":
            self.wfile.write(words)

    def _json(self, content: Any, status: int = 200) -> None:
        words = json.dumps(content).encode()
        self._head(status, len(words), {"Content-Type": "application/json"})
        if self.command != "HEAD":
            self.wfile.write(words)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            whole = bytearray()
            while size := int(self.rfile.readline().strip() or b"0", 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return bytes(whole)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))
