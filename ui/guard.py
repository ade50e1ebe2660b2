"""What the server answers: what the page itself asks for, and nothing that other pages send, or that is too large."""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from merging import space
from ui.merges import used

LARGEST = 32 << 20  # bytes of a request: a recipe of four million characters, however they are written
FILE = "/gradio_api/file="
READING = ("GET", "HEAD", "OPTIONS")
LOOPBACK = ("127.0.0.1", "::1")
HERE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
# What Gradio offers and the page does without: files from visitors, and other servers' pages.
UNUSED = re.compile(
    r"/gradio_api/(upload|upload_progress|process_recording|component_server|stream|proxy=.*|file[=/]https?:.*|deep_link|runs"
    r"|run-history|(undo-)?vibe-[a-z-]+)(/.*)?|/monitoring(/.*)?"
)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Who may show the page within another one, where a click could be meant for something else; a Space is shown so.
FRAMES = b"frame-ancestors 'self'"
FRAMES_OF_A_SPACE = FRAMES + b" https://huggingface.co"


class Guard:
    """Stands before the app, and answers in its place what is refused."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answered = self.app
        if space.here() and scope["type"] == "http" and scope["path"].startswith(FILE):
            used(scope["path"].removeprefix(FILE))
        if scope["type"] == "http" and (found := refusal(scope)):
            answered = PlainTextResponse(found[1], found[0])
        await answered(scope, receive, framed(send))


def framed(send: Any) -> Any:
    """`send`, which also says with every answer whose frames may show it."""

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            policy = FRAMES_OF_A_SPACE if space.here() else FRAMES
            message = {**message, "headers": [*message["headers"], (b"content-security-policy", policy)]}
        await send(message)

    return sent


def refusal(scope: Any) -> tuple[int, str] | None:
    """The status and the words with which a request is refused; None where it is not."""
    method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
    host, server = headers.get("host", ""), scope.get("server") or ("",)
    # A name that a stranger lets lead to this machine; a Space goes by one, and its proxy may be on its machine.
    if server[0] in LOOPBACK and not space.here() and not HERE.fullmatch(host):
        return 403, "This app answers on this machine only, as 127.0.0.1 or localhost."
    if CONTROL.search(path) or UNUSED.fullmatch(path):  # a line's end counts for nothing where routes are looked up
        return 404, "There is nothing here."
    if method in READING:
        return None
    origin = headers.get("origin", "")
    known = not origin or origin.partition("://")[2] == host
    site = headers.get("sec-fetch-site") or ("same-origin" if known else "cross-site")
    if site not in ("same-origin", "none"):
        return 403, "Another page asked for this, and only this app's own page may."
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return 411, "How long the request is must be said."
    return (413, "This is too large.") if int(length) > LARGEST else None
