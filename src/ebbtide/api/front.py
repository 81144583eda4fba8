"""What is judged of every request before any route: how large its head is, and where it comes from.

The head (request line and headers) is bounded twice: `BoundedHttp` ends a connection whose head goes on and on, `Front`
refuses what came whole and is still too large. Where it comes from is the connection's other end, unless that is a proxy
of `api.trusted_proxies`: then `X-Forwarded-For` says, as far as trusted proxies vouch for it. Everything behind here sees
that address as the client's.
"""

import ipaddress
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from ebbtide.api.families import JSON_TYPE
from ebbtide.api.lending import LendingHttp
from ebbtide.api.queries import Presentation
from ebbtide.api.refusals import Refusal, refusal
from ebbtide.api.responses import encode, render_refusal
from ebbtide.domain.access_list import Network, client_address, parse_network, read_address
from ebbtide.errors import InvalidInput, InvalidSetting
from ebbtide.settings import Settings

HEAD_BYTES_MAX = 64 * 1024
"""Several times what browsers and proxies send."""

_FORWARDED_FOR = b"x-forwarded-for"


def head_too_large() -> Refusal:
    """The refusal of a head that is larger than HEAD_BYTES_MAX."""
    return refusal("REQUEST_HEAD_TOO_LARGE", str(HEAD_BYTES_MAX), headers={"Connection": "close"})


class BoundedHttp(LendingHttp):
    """uvicorn's HTTP, for whose parser the head of a request has no end."""

    _in_head = False
    _began = False
    _head_bytes = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._began = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        self._began = False
        super().data_received(data)
        # What a head began in may be the end of a body before it, so only what came after that is counted.
        if self._in_head and not self._began:
            self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._end_with(head_too_large())

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 — ours says no less
        self._end_with(refusal("MALFORMED_REQUEST"))

    def _end_with(self, refused: Refusal) -> None:
        """Answer for what never became a request, and hang up."""
        body = encode(refused.document(), pretty=False)
        head = (
            f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}\r\n"
            f"Content-Type: {JSON_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class Front:
    """Refuses too large a head, and puts the caller's address into the request."""

    def __init__(self, app: ASGIApp, trusted: tuple[Network, ...]) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if head_bytes(scope) > HEAD_BYTES_MAX:
            await render_refusal(head_too_large(), Presentation())(scope, receive, send)
            return
        if self._trusted and scope.get("client"):
            host, port = scope["client"]
            address = client_address(read_address(host), forwarded_for(scope), self._trusted)
            scope = {**scope, "client": (str(address), port)}
        await self._app(scope, receive, send)


def head_bytes(scope: Scope) -> int:
    """About the bytes of a request's head."""
    headers = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return headers + len(scope["raw_path"]) + len(scope["query_string"])


def forwarded_for(scope: Scope) -> list[str]:
    """The addresses of `X-Forwarded-For` as sent, of several headers in their order."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == _FORWARDED_FOR]
    return [text.strip() for value in values for text in value.split(",")]


def trusted_proxies(settings: Settings) -> tuple[Network, ...]:
    """The setting `api.trusted_proxies`. Raises InvalidSetting."""
    name = "api.trusted_proxies"
    try:
        return tuple(ipaddress.ip_network(parse_network(text, field=name)) for text in settings[name])
    except InvalidInput as error:
        raise InvalidSetting(name, expected=error.expected, got=str(error)) from error
