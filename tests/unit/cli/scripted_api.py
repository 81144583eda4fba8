"""A small API that says what it is told to: a real HTTP server in a thread, with the real digest challenge.

It serves canned documents by (method, path) and one archive with Range, If-Range and cut connections.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PUBLIC_KEY = "zmmrboas"
PRIVATE_KEY = "c0ffee00-1111-4222-8333-444455556666"
REALM = "MMS Public API"
NONCE = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"

Answer = tuple[int, Any]


@dataclass
class Archive:
    """What a download link gives. `cuts` are lengths after which the next answers break off."""

    data: bytes
    etag: str = '"v1"'
    key: str = "00112233445566778899aabbccddeeff"
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)

    @property
    def sha1(self) -> str:
        return hashlib.sha1(self.data).hexdigest()


class ScriptedApi:
    """`answers` maps (method, path without query) to an Answer, a list of them (the last stays), or a function."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.requests: list[tuple[str, str, dict[str, list[str]], Any]] = []
        self.archives: dict[str, Archive] = {}
        self.base_url = ""

    def answer(self, method: str, path: str, *documents: Any, status: int = 200) -> None:
        self.answers[method, path] = [(status, document) for document in documents]

    def compute(self, method: str, path: str, function: Callable[[Any], Answer]) -> None:
        self.answers[method, path] = function

    def bodies(self, method: str, path: str) -> list[Any]:
        return [body for m, p, _, body in self.requests if (m, p) == (method, path)]


def error(status: int, code: str | None, detail: str) -> Any:
    document: dict[str, Any] = {"error": status, "reason": "…", "detail": detail}
    if code is not None:
        document["errorCode"] = code
    return document


def listing(*results: Any) -> Any:
    return {"results": list(results), "links": []}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ScriptedApi

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path in self.api.archives:
            self._archive(self.api.archives[path])
        else:
            self._api("GET")

    def do_POST(self) -> None:
        self._api("POST")

    def do_PATCH(self) -> None:
        self._api("PATCH")

    def do_PUT(self) -> None:
        self._api("PUT")

    def do_DELETE(self) -> None:
        self._api("DELETE")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _api(self, method: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._logged_in(method):
            self._json(
                401, {"error": 401, "reason": "Unauthorized", "detail": "not authorized"}, challenge=True
            )
            return
        parts = urlsplit(self.path)
        body = json.loads(raw) if raw else None
        self.api.requests.append((method, parts.path, parse_qs(parts.query), body))
        scripted = self.api.answers.get((method, parts.path))
        if scripted is None:
            status, document = 404, error(404, "RESOURCE_NOT_FOUND", f"no {method} {parts.path}")
        elif callable(scripted):
            status, document = scripted(body)
        else:
            status, document = scripted.pop(0) if len(scripted) > 1 else scripted[0]
        self._json(status, document)

    def _logged_in(self, method: str) -> bool:
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', self.headers.get("Authorization", "")))
        if given.get("username") != PUBLIC_KEY:
            return False
        ha1 = _md5(f"{PUBLIC_KEY}:{REALM}:{PRIVATE_KEY}")
        ha2 = _md5(f"{method}:{self.path}")
        expected = _md5(f"{ha1}:{NONCE}:{given.get('nc')}:{given.get('cnonce')}:auth:{ha2}")
        return given.get("response") == expected

    def _json(self, status: int, document: Any, *, challenge: bool = False) -> None:
        raw = json.dumps(document).encode() if not isinstance(document, bytes) else document
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if challenge:
            self.send_header(
                "WWW-Authenticate",
                f'Digest realm="{REALM}", domain="", nonce="{NONCE}", algorithm=MD5, qop="auth", stale=false',
            )
        self.end_headers()
        self.wfile.write(raw)

    def _archive(self, archive: Archive) -> None:
        archive.requests.append({name.lower(): value for name, value in self.headers.items()})
        if self.headers.get("Authorization") != f"Bearer {archive.key}":
            self._json(404, error(404, None, "no such download"))
            return
        if archive.refusals:
            status = archive.refusals.pop(0)
            self._json(status, error(status, None, "not now"))
            return
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        partial = asked is not None and self.headers.get("If-Range") == archive.etag
        if asked is not None and partial:
            start = int(asked[1])
        body = archive.data[start:]
        self.send_response(206 if partial else 200)
        self.send_header("ETag", archive.etag)
        self.send_header("Content-Length", str(len(body)))
        if partial:
            total = len(archive.data)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        if archive.cuts:
            self.wfile.write(body[: archive.cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what some tests are about; standard error is looked at by others."""


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


@contextmanager
def running_api() -> Iterator[ScriptedApi]:
    """A scripted API on a free loopback port."""
    api = ScriptedApi()
    handler = type("Handler", (_Handler,), {"api": api})
    server = _QuietServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    api.base_url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
