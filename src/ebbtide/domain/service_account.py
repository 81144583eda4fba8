"""Service accounts: callers that log in with OAuth's client credentials instead of digest.

An account has one or two secrets, so that a new one can be put everywhere before the old one is deleted. A secret is 256
random bits and kept as its SHA-256: what random bits of that number hash to tells nobody anything. Tokens are
short-lived; each is listed while it lives, so that it can be revoked. Source: contract section 4.2.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from ebbtide.domain.access import Caller, CallerKind, Grant
from ebbtide.domain.access_list import AccessEntry

CLIENT_ID_PREFIX = "mdb_sa_id_"
SECRET_PREFIX = "mdb_sa_sk_"

TOKEN_LIFE = timedelta(seconds=3600)
LIVE_TOKENS_MAX = 100
SECRETS_MAX = 2

SECRET_HOURS_MIN = 8
SECRET_HOURS_MAX = 8760
"""A year. Both bounds and the default are those of the hosted service."""
SECRET_HOURS = SECRET_HOURS_MAX

SHOWN_LETTERS = 4
"""Of a masked secret: enough to tell two apart, and 24 of its 256 bits."""


@dataclass(frozen=True, kw_only=True)
class ServiceAccountSecret:
    """What is kept of one secret: `sha256` of all of it in hex, and its last letters in clear."""

    id: str
    sha256: str
    last_letters: str
    created: datetime
    expires: datetime
    last_used: datetime | None = None

    def is_expired(self, now: datetime) -> bool:
        return now >= self.expires

    @property
    def masked(self) -> str:
        """How it is shown after the one time."""
        return f"{SECRET_PREFIX}{'*' * 8}{self.last_letters}"


@dataclass(frozen=True, kw_only=True)
class ServiceAccount:
    """A caller with secrets; its client id is made of `id`."""

    id: str
    name: str
    description: str
    grants: tuple[Grant, ...]
    access_list: tuple[AccessEntry, ...]
    secrets: tuple[ServiceAccountSecret, ...]
    created: datetime

    @property
    def client_id(self) -> str:
        return f"{CLIENT_ID_PREFIX}{self.id}"

    @property
    def caller(self) -> Caller:
        """Who calls with a token of this account."""
        return Caller(
            kind=CallerKind.SERVICE_ACCOUNT,
            id=self.id,
            name=self.client_id,
            grants=self.grants,
            access_list=self.access_list,
        )


@dataclass(frozen=True, kw_only=True)
class LiveToken:
    """A token that was issued and not revoked. `id` is random; the token itself is not kept."""

    id: str
    expires: datetime
