"""`/api/oauth/token` and `/api/oauth/revoke`: a service account's secret for a token, and a token's end.

Source: contract section 4.2, RFC 6749 (client credentials) and RFC 7009 (revocation). Their errors have OAuth's own
shape. The access list is not asked here: it governs what is done with a token. Nothing of a secret or a token is ever
logged. A crash between listing a token and sending it leaves one that nobody knows, until it expires.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import anyio
import anyio.to_thread
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ebbtide.api.context import ApiContext
from ebbtide.api.queries import Presentation, guess_presentation, parse_query
from ebbtide.api.rate_limits import Limits, retry_headers
from ebbtide.api.responses import Answer, render
from ebbtide.api.tokens import Tokens
from ebbtide.credentials import REALM, is_account_secret
from ebbtide.domain.access_list import Address, read_address
from ebbtide.domain.ids import is_id
from ebbtide.domain.service_account import (
    CLIENT_ID_PREFIX,
    SECRET_PREFIX,
    TOKEN_LIFE,
    ServiceAccount,
    ServiceAccountSecret,
)
from ebbtide.errors import EbbtideError

TOKEN_PATH = "/api/oauth/token"
REVOKE_PATH = "/api/oauth/revoke"

THREADS = 4
BODY_BYTES_MAX = 8192
FORM_FIELDS_MAX = 20

_BAD_CREDENTIALS = "The provided credentials are not valid."
_FORM_TYPE = "application/x-www-form-urlencoded"

_log = structlog.get_logger("ebbtide.api")


class OauthError(Exception):
    """An answer in OAuth's shape; `code` is its `error`."""

    def __init__(
        self, status: int, code: str, description: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(description)
        self.status = status
        self.code = code
        self.description = description
        self.headers = dict(headers or {})

    def render(self, presentation: Presentation) -> Response:
        document = {"error": self.code, "error_description": self.description}
        return render(Answer(document=document, status=self.status, headers=self.headers), presentation)


@dataclass(frozen=True, kw_only=True)
class ClientCredentials:
    """What the `Authorization: Basic` header says."""

    client_id: str
    secret: str


class Oauth:
    """The two endpoints."""

    def __init__(self, context: ApiContext, tokens: Tokens, limits: Limits) -> None:
        self._context = context
        self._tokens = tokens
        self._limits = limits
        self._threads = anyio.CapacityLimiter(THREADS)

    async def token(self, request: Request) -> Response:
        """A new token for `grant_type=client_credentials`."""
        return await self._answer(request, self._issue)

    async def revoke(self, request: Request) -> Response:
        """200 without a body, whatever the token was."""
        return await self._answer(request, self._revoke)

    async def _answer(self, request: Request, act: Any) -> Response:
        presentation = guess_presentation(parse_query(request.scope["query_string"].decode("latin-1")))
        try:
            form = await _read_form(request)
            return await anyio.to_thread.run_sync(act, request, form, presentation, limiter=self._threads)
        except ClientDisconnect:
            return Response(status_code=400)
        except OauthError as error:
            return error.render(presentation)
        except EbbtideError as error:
            _log.error("api.call_failed", problem=str(error))
            return OauthError(500, "server_error", "The service's log says more.").render(presentation)

    def _issue(self, request: Request, form: Mapping[str, str], presentation: Presentation) -> Response:
        account = self._authenticate(request)
        grant_type = form.get("grant_type")
        if not grant_type:
            raise OauthError(400, "invalid_request", "The parameter grant_type is missing.")
        if grant_type != "client_credentials":
            raise OauthError(400, "unsupported_grant_type", "The grant type must be client_credentials.")
        token = self._tokens.issue(account, now=self._context.clock.now())
        if token is None:
            raise OauthError(403, "access_denied", "The service account has too many live tokens.")
        document = {
            "access_token": token,
            "expires_in": int(TOKEN_LIFE.total_seconds()),
            "token_type": "Bearer",
        }
        return render(Answer(document=document, headers={"Pragma": "no-cache"}), presentation)

    def _revoke(self, request: Request, form: Mapping[str, str], _: Presentation) -> Response:
        account = self._authenticate(request)
        token = form.get("token")
        if not token:
            raise OauthError(400, "invalid_request", "The parameter token is missing.")
        self._tokens.revoke(token, account, now=self._context.clock.now())
        return Response(status_code=200, headers={"Cache-Control": "no-store"})

    def _authenticate(self, request: Request) -> ServiceAccount:
        """The account whose secret was sent. Raises invalid_client, or invalid_grant for an expired secret."""
        credentials = parse_basic(request.headers.get("authorization"))
        address = read_address(request.client.host if request.client else None)
        wait_seconds = self._limits.failed_logins.wait_seconds(address, credentials.client_id)
        if wait_seconds:
            raise OauthError(
                429,
                "temporarily_unavailable",
                "Too many failed attempts; try again later.",
                headers=retry_headers(wait_seconds),
            )
        return self._check_secret(credentials, address)

    def _check_secret(self, credentials: ClientCredentials, address: Address) -> ServiceAccount:
        now = self._context.clock.now()
        account = self._find_account(credentials.client_id)
        kept = find_secret(account, credentials.secret)
        if account is None or kept is None:
            self._limits.failed_logins.note(address, credentials.client_id)
            raise _invalid_client()
        if kept.is_expired(now):
            raise OauthError(400, "invalid_grant", "Invalid grant.")
        self._context.catalog.service_accounts.record_secret_use(account.id, kept.id, now=now)
        return account

    def _find_account(self, client_id: str) -> ServiceAccount | None:
        account_id = client_id.removeprefix(CLIENT_ID_PREFIX).lower()
        if not client_id.startswith(CLIENT_ID_PREFIX) or not is_id(account_id):
            return None
        return self._context.catalog.service_accounts.find(account_id)


def find_secret(account: ServiceAccount | None, text: str) -> ServiceAccountSecret | None:
    """The account's secret that `text` is. Each is compared, so the time taken tells nothing."""
    found = None
    for kept in account.secrets if account is not None else ():
        if is_account_secret(text, kept):
            found = kept
    return found


def parse_basic(header: str | None) -> ClientCredentials:
    """Read `Basic base64(id:secret)`, both form-urlencoded as RFC 6749 2.3.1 has it.

    Raises invalid_client without such a header, invalid_request for one that cannot be a service account's.
    """
    scheme, _, encoded = (header or "").strip().partition(" ")
    if scheme.lower() != "basic":
        raise _invalid_client()
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise OauthError(400, "invalid_request", _BAD_CREDENTIALS) from None
    client_id, colon, secret = text.partition(":")
    client_id, secret = unquote_plus(client_id), unquote_plus(secret)
    if not colon or not client_id.startswith(CLIENT_ID_PREFIX) or not secret.startswith(SECRET_PREFIX):
        raise OauthError(400, "invalid_request", _BAD_CREDENTIALS)
    return ClientCredentials(client_id=client_id, secret=secret)


def parse_form(content: bytes) -> dict[str, str]:
    """The fields of a form; one given twice is refused (RFC 6749 3.2)."""
    try:
        pairs = parse_qsl(
            content.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=FORM_FIELDS_MAX
        )
    except ValueError:
        raise OauthError(400, "invalid_request", "The body is not a form in UTF-8.") from None
    if len(dict(pairs)) < len(pairs):
        raise OauthError(400, "invalid_request", "A parameter was given twice.")
    return dict(pairs)


async def _read_form(request: Request) -> dict[str, str]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    content: bytearray = bytearray()
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        # The rest is read and dropped: a client that still sends would not see the answer.
        content += chunk if length <= BODY_BYTES_MAX else b""
    if length > BODY_BYTES_MAX:
        raise OauthError(413, "invalid_request", f"The body is larger than {BODY_BYTES_MAX} bytes.")
    if media_type != _FORM_TYPE:
        raise OauthError(400, "invalid_request", f"The body must be {_FORM_TYPE}.")
    return parse_form(bytes(content))


def _invalid_client() -> OauthError:
    return OauthError(
        401,
        "invalid_client",
        _BAD_CREDENTIALS,
        headers={"WWW-Authenticate": f'Basic realm="{REALM}"'},
    )
