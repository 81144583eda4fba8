"""Bearer tokens of service accounts: signing, judging, revoking.

A token is a JWT (HS256) that names its account, its own random id and when it ends. It counts while its signature is
right, it has not ended, *and* the catalog lists it: so it can be revoked, and whoever stole the catalog can neither
make one nor find one. The signing key is in the catalog, sealed under the service key; every API process uses the same.

A lost service key costs the signing key too: a new one is made with the next token, and older tokens are dead.
"""

import secrets
import threading
from datetime import datetime
from typing import Any

import jwt
import structlog

from ebbtide.api.context import ApiContext
from ebbtide.catalog.tokens import SigningKey
from ebbtide.domain.ids import is_id, new_id
from ebbtide.domain.service_account import CLIENT_ID_PREFIX, TOKEN_LIFE, LiveToken, ServiceAccount
from ebbtide.sealing import SealBroken

TOKEN_LENGTH_MAX = 2048

_ALGORITHM = "HS256"
_KEY_BYTES = 32
_TOKEN_ID_BYTES = 16
# By our own clock, not by the library's; what a token must name is looked at by `_claims`.
_UNCHECKED = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "require": ["sub", "jti", "exp"]}

_log = structlog.get_logger("ebbtide.api")


class DeadToken(ValueError):
    """Not a token of ours, or one that has ended or was revoked."""


class Tokens:
    """Signs and judges tokens. Safe to use from many threads."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._opened: dict[str, bytes] = {}

    def issue(self, account: ServiceAccount, *, now: datetime) -> str | None:
        """A new token; None where the account has as many live ones as it may."""
        token = LiveToken(id=secrets.token_hex(_TOKEN_ID_BYTES), expires=now + TOKEN_LIFE)
        key_id, key = self._current_key(now)
        if not self._context.catalog.tokens.add(account.id, token, now=now):
            return None
        claims = {
            "sub": account.client_id,
            "jti": token.id,
            "iat": int(now.timestamp()),
            "exp": int(token.expires.timestamp()),
        }
        return jwt.encode(claims, key, algorithm=_ALGORITHM, headers={"kid": key_id})

    def judge(self, text: str, *, now: datetime) -> ServiceAccount:
        """The account of a live token. Raises DeadToken for anything else."""
        account_id, token_id = self._read(text, now=now)
        catalog = self._context.catalog
        account = (
            catalog.service_accounts.find(account_id)
            if catalog.tokens.is_live(account_id, token_id, now=now)
            else None
        )
        if account is None:
            raise DeadToken("revoked")
        return account

    def revoke(self, text: str, account: ServiceAccount, *, now: datetime) -> None:
        """End a token of the account. One that is dead already, or another account's, is left as it is."""
        try:
            account_id, token_id = self._read(text, now=now)
        except DeadToken:
            return
        if account_id == account.id:
            self._context.catalog.tokens.revoke(account_id, token_id)

    def _read(self, text: str, *, now: datetime) -> tuple[str, str]:
        """(account id, token id) of a token that we signed and that has not ended."""
        if len(text) > TOKEN_LENGTH_MAX:
            raise DeadToken("too long")
        try:
            key = self._find_key(jwt.get_unverified_header(text).get("kid"))
            claims = jwt.decode(text, key, algorithms=[_ALGORITHM], options=_UNCHECKED)  # type: ignore[arg-type]
        except (jwt.PyJWTError, ValueError, RecursionError):
            # RecursionError: JSON may be nested however deeply the length allows.
            raise DeadToken("not a token of ours") from None
        return _claims(claims, now=now)

    def _find_key(self, key_id: Any) -> bytes:
        if not is_id(key_id):
            raise DeadToken("no key of ours")
        with self._lock:
            opened = self._opened.get(key_id)
        if opened is not None:
            return opened
        kept = self._context.catalog.signing_keys.find(key_id)
        if kept is None:
            raise DeadToken("no key of ours")
        try:
            return self._open(kept)
        except SealBroken:
            raise DeadToken("its key was sealed under another service key") from None

    def _current_key(self, now: datetime) -> tuple[str, bytes]:
        """The newest signing key; a new one where there is none that can be opened."""
        kept = self._context.catalog.signing_keys.newest()
        if kept is not None:
            try:
                return kept.id, self._open(kept)
            except SealBroken as error:
                _log.warning("api.signing_key_lost", problem=str(error))
        key_id = new_id()
        sealed = self._context.service_key.seal(secrets.token_bytes(_KEY_BYTES), record_id=key_id)
        made = SigningKey(id=key_id, key=sealed, created=now)
        self._context.catalog.signing_keys.insert(made)
        return key_id, self._open(made)

    def _open(self, kept: SigningKey) -> bytes:
        key = self._context.service_key.open(kept.key, record_id=kept.id)
        with self._lock:
            self._opened[kept.id] = key
        return key


def _claims(claims: dict[str, Any], *, now: datetime) -> tuple[str, str]:
    subject, token_id, ends = claims["sub"], claims["jti"], claims["exp"]
    if not isinstance(subject, str) or not isinstance(token_id, str) or not isinstance(ends, int):
        raise DeadToken("not a token of ours")
    if now.timestamp() >= ends:
        raise DeadToken("ended")
    return subject.removeprefix(CLIENT_ID_PREFIX), token_id
