"""A provider of sign-ins on this machine, as Hugging Face is one for Spaces: OpenID, with one account."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

CLIENT, SECRET = "a-space", "known-to-the-space-and-to-us-alone"
SCOPES = "openid profile write-repos manage-repos"


def _letters(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _signed(claims: dict[str, Any]) -> str:
    """A token in three parts, signed with the secret."""
    parts = [_letters(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT", "kid": "one"}, claims)]
    digest = hmac.new(SECRET.encode(), ".".join(parts).encode(), hashlib.sha256).digest()
    return ".".join([*parts, _letters(digest)])


@contextmanager
def signing_in(token: str) -> Iterator[dict[str, str]]:
    """What a Space is told, so that whoever signs in there is `someone`, and has that token."""

    class Handler(BaseHTTPRequestHandler):
        nonces: dict[str, str] = {}  # noqa: RUF012 - one for the server's life

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is logged."""

        def do_GET(self) -> None:
            path, asked = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            if path == "/oauth/authorize":
                self.nonces["code"] = asked["nonce"][0]
                back = urlencode({"code": "code", "state": asked["state"][0]})
                self.send_response(302)
                self.send_header("Location", f"{asked['redirect_uri'][0]}&{back}")
                self.end_headers()
            elif path == "/jwks":
                self._json({"keys": [{"kty": "oct", "kid": "one", "alg": "HS256", "k": _letters(SECRET.encode())}]})
            else:
                self._json(_configuration(url))

        def do_POST(self) -> None:
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            now = int(time.time())
            claims = {"iss": url, "aud": CLIENT, "sub": "1", "iat": now, "exp": now + 600, "name": "Someone"}
            claims |= {"preferred_username": "someone", "profile": url, "picture": url}
            signed = _signed(claims | {"nonce": self.nonces.pop(asked["code"][0])})
            told = {"access_token": token, "token_type": "bearer", "expires_in": 600, "scope": SCOPES}
            self._json(told | {"id_token": signed})

        def _json(self, content: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    told = {"OAUTH_CLIENT_ID": CLIENT, "OAUTH_CLIENT_SECRET": SECRET, "OAUTH_SCOPES": SCOPES}
    try:
        yield {"SYSTEM": "spaces", **told, "OPENID_PROVIDER_URL": url}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _configuration(url: str) -> dict[str, Any]:
    return {
        "issuer": url,
        "authorization_endpoint": f"{url}/oauth/authorize",
        "token_endpoint": f"{url}/oauth/token",
        "jwks_uri": f"{url}/jwks",
        "id_token_signing_alg_values_supported": ["HS256"],
    }
