"""What it means that a call of the API failed: every failure is one of our errors, with what to do next.

An exit code comes from the HTTP status, a hint from the API's own error code. Nothing secret is in a message.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import httpx

from ebbtide.errors import AccessDenied, EbbtideError, InvalidInput, NotFound, Refused, Unreachable

Document = dict[str, Any]

NOT_OURS = "is this URL that of an Ebbtide API?"

STATUS_KINDS: dict[int, type[EbbtideError]] = {
    400: InvalidInput,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    405: InvalidInput,
    409: Refused,
    410: Refused,
    413: InvalidInput,
    415: InvalidInput,
    429: Unreachable,
}
"""What an HTTP status means to a script."""


def error_kind(status: int) -> type[EbbtideError]:
    """The class of error whose exit code `status` gets."""
    if status >= 500:
        return Unreachable
    return STATUS_KINDS.get(status, Refused)


class ApiRefusal(EbbtideError):
    """The API answered with an error document. Exit code and retryability are those of `kind`."""

    def __init__(self, *, status: int, document: Mapping[str, Any], hint: str = "") -> None:
        self.status = status
        self.document = dict(document)
        self.error_code = _text(document.get("errorCode"))
        self.detail = _text(document.get("detail")) or _reason(status)
        self.kind = error_kind(status)
        self.exit_code = self.kind.exit_code
        self.retryable = self.kind.retryable
        code = f" [{self.error_code}]" if self.error_code else f" [HTTP {status}]"
        super().__init__(f"{self.detail}{code}", hint=hint or _hint(self))

    @property
    def details(self) -> Document:
        """What `-o json` adds to the error document."""
        found: Document = {"status": self.status, "detail": self.detail}
        if self.error_code:
            found["errorCode"] = self.error_code
        for extra in ("badRequestDetail", "checks"):
            if extra in self.document:
                found[extra] = self.document[extra]
        return found


@contextmanager
def translated(base_url: str) -> Iterator[None]:
    """httpx's errors as ours."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise Unreachable(
            f"nothing answers at {base_url}", hint="is the address reachable from here?"
        ) from error
    except httpx.ConnectError as error:
        if "CERTIFICATE" in str(error) or "SSL" in str(error):
            raise Unreachable(
                f"{base_url}: the TLS connection failed: {error}",
                hint="set SSL_CERT_FILE to the certificate of the authority that signed the API's",
            ) from error
        raise Unreachable(
            f"nothing answers at {base_url}", hint=f"is `ebbtide serve` running at {base_url}?"
        ) from error
    except httpx.TimeoutException as error:
        raise Unreachable(
            f"{base_url} took the request and did not answer in time; whether it was carried out is not known"
        ) from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise InvalidInput("URL", expected=f"one that can be used ({error})") from error
    except httpx.HTTPError as error:
        raise Unreachable(
            f"the connection to {base_url} broke ({type(error).__name__}); whether the request was carried out is not "
            "known"
        ) from error


def read_refusal(response: httpx.Response, base_url: str) -> ApiRefusal:
    """The refusal in an answer that is not what was asked for."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        answer = f"{base_url} answered {response.status_code} {_reason(response.status_code)}"
        return ApiRefusal(status=response.status_code, document={"detail": answer}, hint=NOT_OURS)
    return ApiRefusal(status=response.status_code, document=document)


def _hint(refusal: ApiRefusal) -> str:
    """What to do about a refusal, where more can be said than the API did."""
    if refusal.status == 401 and not refusal.error_code:
        return (
            "the key was not accepted: check public and private key, or `ebbtide keys reset-owner --data DIR`"
        )
    return _HINTS.get(refusal.error_code, "")


_HINTS = {
    "IP_ADDRESS_NOT_ON_ACCESS_LIST": "from an address that is on it: `ebbtide keys allow KEY ADDRESS`",
    "USER_UNAUTHORIZED": "this key's role does not allow it: use one that is an owner of the project",
    "NOT_IN_GROUP": "this key sees no such project: `ebbtide keys list` shows what it may use",
    "CLUSTER_NAME_NOT_FOUND": "`ebbtide clusters list` shows those that are there",
    "CLUSTER_NOT_FOUND": "`ebbtide clusters list` shows those that are there",
    "CHECKPOINT_NOT_FOUND": "`ebbtide checkpoints list CLUSTER` shows those that are there",
    "SNAPSHOT_NOT_FOUND": "`ebbtide snapshots list CLUSTER` shows those that are there",
    "RESTORE_JOB_NOT_FOUND": "`ebbtide restores list CLUSTER` shows those that are there",
    "CLUSTER_NAME_TAKEN": "choose another name, or `ebbtide clusters show` that one",
    "SNAPSHOT_IN_PROGRESS": "`ebbtide snapshots watch CLUSTER` waits for it",
    "HEAD_NOT_READY": "`ebbtide clusters watch CLUSTER` waits until it is",
    "CANNOT_REMOVE_CALLER_FROM_ACCESS_LIST": "do it from another address that is on the list",
}


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"status {status}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
