"""The API as an ASGI application: routes from the table of operations, error documents for everything else.

Handlers are synchronous and run in threads over the synchronous catalog
(docs/decisions/0003-sync-handlers.md). The event loop itself does no more than read requests and move bytes.
"""

import time
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ebbtide.api.access import Gate
from ebbtide.api.audit import record_refusal
from ebbtide.api.bodies import Body
from ebbtide.api.context import ApiContext
from ebbtide.api.downloads import V2_PATH, V3_PATH, Downloads
from ebbtide.api.front import Front, trusted_proxies
from ebbtide.api.health import LIVE_PATH, READY_PATH, Health
from ebbtide.api.lending import find_connection
from ebbtide.api.metrics import METRICS_PATH, Metrics, RequestCounts
from ebbtide.api.oauth import REVOKE_PATH, TOKEN_PATH, Oauth
from ebbtide.api.openapi.pages import DOCS_PATH, OPENAPI_PATH, STYLE_PATH, Pages
from ebbtide.api.operations import Call, Operation, prepare_call
from ebbtide.api.queries import guess_presentation, parse_query
from ebbtide.api.rate_limits import Limits
from ebbtide.api.redaction import loggable_path
from ebbtide.api.refusals import Refusal, refusal, refuse_fields, violation
from ebbtide.api.responses import render, render_refusal
from ebbtide.api.table import OPERATIONS, aliases_of
from ebbtide.api.tokens import Tokens
from ebbtide.domain.access import Caller
from ebbtide.domain.access_list import read_address
from ebbtide.errors import EbbtideError, InvalidInput, NotFound, Refused, Unreachable

CALL_THREADS = 48
"""Calls at once, below PyMongo's pool of 100 connections; more wait their turn."""

SLOW_CALL_THREADS = 8
"""Of calls that ask other machines (registering a cluster), so that they cannot hold up the quick ones."""

_WATCHING = frozenset({LIVE_PATH, READY_PATH, METRICS_PATH})

_log = structlog.get_logger("ebbtide.api")


def create_app(context: ApiContext) -> FastAPI:
    """The application. Stopping it (the lifespan's end) closes its reader threads, not the catalog.

    `state.cut_downloads`, called in the event loop, ends every download under way.
    """
    downloads = Downloads(context)
    tokens, limits = Tokens(context), Limits(context.settings)
    gate, oauth = Gate(context, tokens, limits), Oauth(context, tokens, limits)
    health, metrics, pages = Health(context), Metrics(context, gate), Pages(context.external_url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        try:
            yield
        finally:
            downloads.close()
            gate.close()

    app = FastAPI(
        title="Ebbtide",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A redirect would be built from the Host header.
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.cut_downloads = downloads.cut_all
    app.router.routes[:] = [
        *_operation_routes(context, gate, limits),
        _fixed_route(LIVE_PATH, health.live),
        _fixed_route(READY_PATH, health.ready),
        _fixed_route(METRICS_PATH, metrics.show),
        _fixed_route(OPENAPI_PATH, pages.openapi),
        _fixed_route(DOCS_PATH, pages.docs),
        _fixed_route(STYLE_PATH, pages.style),
        _fixed_route(V2_PATH, downloads.v2),
        _fixed_route(V3_PATH, downloads.v3),
        Route(TOKEN_PATH, oauth.token, methods=["POST"]),
        Route(REVOKE_PATH, oauth.revoke, methods=["POST"]),
    ]
    app.add_exception_handler(HTTPException, _refuse_route)
    app.add_exception_handler(Exception, _refuse_unexpected)
    app.add_middleware(RequestLog, counts=metrics.requests)
    # Added last, so it comes first: the log shows the caller's address, not its proxy's.
    app.add_middleware(Front, trusted=trusted_proxies(context.settings))
    return app


def _operation_routes(context: ApiContext, gate: Gate, limits: Limits) -> Iterable[Route]:
    calls = anyio.CapacityLimiter(CALL_THREADS)
    slow_calls = anyio.CapacityLimiter(SLOW_CALL_THREADS)
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    for path, operations in by_path.items():
        resource = Resource(context, gate, limits, operations, calls=calls, slow_calls=slow_calls)
        for spelling in (path, *aliases_of(path)):
            yield Route(spelling, resource)


def _fixed_route(path: str, endpoint: Any) -> Route:
    return Route(path, endpoint, methods=["GET", "HEAD"])


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (unknown path, wrong method) as error documents."""
    presentation = guess_presentation(parse_query(request.scope["query_string"].decode("latin-1")))
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 405:
        methods = (error.headers or {}).get("Allow", "GET, HEAD").split(", ")
        return render_refusal(method_not_allowed(request.method, ", ".join(sorted(methods))), presentation)
    if error.status_code == 404:
        return render_refusal(refusal("RESOURCE_NOT_FOUND", loggable_path(request.url.path)), presentation)
    return render_refusal(Refusal(status=error.status_code, detail=str(error.detail)), presentation)


async def _refuse_unexpected(request: Request, error: Exception) -> Response:  # noqa: ARG001
    presentation = guess_presentation(parse_query(request.scope["query_string"].decode("latin-1")))
    return render_refusal(refusal("UNEXPECTED_ERROR", "The service's log says more."), presentation)


def method_not_allowed(method: str, allowed: str) -> Refusal:
    return refusal("METHOD_NOT_ALLOWED", method, allowed, headers={"Allow": allowed})


class Resource:
    """One path with all its operations. HEAD is answered like GET; the server drops the body."""

    def __init__(
        self,
        context: ApiContext,
        gate: Gate,
        limits: Limits,
        operations: Mapping[str, Operation],
        *,
        calls: anyio.CapacityLimiter,
        slow_calls: anyio.CapacityLimiter,
    ) -> None:
        self._context = context
        self._gate = gate
        self._limits = limits
        self._operations = dict(operations)
        self._family = next(iter(operations.values())).family
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self._calls = calls
        self._slow_calls = slow_calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        query = parse_query(scope["query_string"].decode("latin-1"))
        try:
            response = await self._respond(request)
        except ClientDisconnect:
            return
        except Refusal as refused:
            response = render_refusal(refused, guess_presentation(query), family=self._family)
        except EbbtideError as error:
            response = render_refusal(_translate(error), guess_presentation(query), family=self._family)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        operation = self._operations.get(request.method)
        if operation is None:
            raise method_not_allowed(request.method, ", ".join(sorted(self._operations)))
        limiter = self._slow_calls if operation.slow else self._calls
        body = Body(content=b"", content_type="", bytes_max=0)
        if operation.takes_body:
            # Known first, read afterwards: nobody unknown makes us hold a body.
            admitted = await anyio.to_thread.run_sync(self._admit, request, operation, limiter=self._calls)
            body = await self._read_body(request)
            return await anyio.to_thread.run_sync(
                self._handle, request, operation, body, admitted, limiter=limiter
            )

        def both() -> Response:
            return self._handle(request, operation, body, self._admit(request, operation))

        return await anyio.to_thread.run_sync(both, limiter=limiter)

    def _admit(self, request: Request, operation: Operation) -> Caller:
        scope = request.scope
        target = scope["raw_path"]
        if scope["query_string"]:
            target = target + b"?" + scope["query_string"]
        return self._gate.admit(
            authorization=request.headers.get("authorization"),
            method=request.method,
            target=target.decode("latin-1"),
            address=read_address(request.client.host if request.client else None),
            needs_listed_address=operation.needs_listed_address,
        )

    async def _read_body(self, request: Request) -> Body:
        bytes_max = self._context.settings.count("api.body_bytes_max")
        content: bytearray | None = bytearray()
        async for chunk in request.stream():
            if content is not None:
                content += chunk
                if len(content) > bytes_max:
                    # The rest is read and dropped: a client that still sends would not see the answer.
                    content = None
        return Body(
            content=None if content is None else bytes(content),
            content_type=request.headers.get("content-type", ""),
            bytes_max=bytes_max,
            family=self._family,
        )

    def _handle(self, request: Request, operation: Operation, body: Body, caller: Caller) -> Response:
        query = parse_query(request.scope["query_string"].decode("latin-1"))
        call = Call(
            context=self._context,
            method=request.method,
            path=request.url.path,
            path_values=request.path_params,
            query=query,
            body=body,
            address=read_address(request.client.host if request.client else None),
            caller=caller,
            now=self._context.clock.now(),
        )
        try:
            call = prepare_call(operation, call)
            if call.found_group is not None:
                # Not before membership is known: a stranger must not use up a group's allowance.
                self._limits.admit_to_group(call.found_group.id)
            answer = operation.handler(call)
        except Refusal as refused:
            record_refusal(call, operation, refused)
            raise
        return render(answer, guess_presentation(query), media_type=self._family.media_type)


def _translate(error: EbbtideError) -> Refusal:
    """The answer for an error that no handler turned into its own."""
    if isinstance(error, InvalidInput):
        return refuse_fields([violation("INVALID_ATTRIBUTE", error.field, f"expected {error.expected}")])
    if isinstance(error, NotFound):
        return refusal("RESOURCE_NOT_FOUND", str(error))
    if isinstance(error, Refused):
        return refusal("REFUSED", str(error))
    _log.error("api.call_failed", problem=str(error))
    # Hosts and paths are in the log; the caller may be nobody that is known.
    if isinstance(error, Unreachable):
        return refusal("UNEXPECTED_ERROR", "A server that is needed does not answer; try again.")
    return refusal("UNEXPECTED_ERROR", "The service's log says more.")


class RequestLog:
    """One line per request: method, path without keys, status, milliseconds, bytes. Never a header or a body."""

    def __init__(self, app: ASGIApp, counts: RequestCounts) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        seen: MutableMapping[str, int] = {"status": 0, "bytes": 0}

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            elif message["type"] == "http.response.body":
                seen["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counting_send)
        finally:
            client = scope.get("client")
            connection = find_connection(scope)
            if connection is not None:
                seen["bytes"] += connection.lent_bytes
            self._counts.count(method=scope["method"], status=seen["status"], sent_bytes=seen["bytes"])
            # Who watches asks every few seconds, and would fill the log with it.
            log = _log.debug if scope["path"] in _WATCHING else _log.info
            log(
                "api.request",
                method=scope["method"],
                path=loggable_path(scope["path"]),
                status=seen["status"],
                milliseconds=round((time.monotonic() - started) * 1000, 1),
                bytes=seen["bytes"],
                address=client[0] if client else "",
            )
