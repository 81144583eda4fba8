"""API keys and service accounts: what their credentials look like, and what is kept of them.

A public key is 8 lower-case characters, a private key a UUID, as in the hosted service. Only HA1, the digest hash of
both, is kept (sealed, as it is as good as the password for digest). Of a service account's secret only the SHA-256 is.
"""

import hashlib
import hmac
import secrets
import uuid
from datetime import datetime, timedelta

from ebbtide.clock import Clock
from ebbtide.domain.access import ApiKey, Grant
from ebbtide.domain.access_list import AccessEntry
from ebbtide.domain.ids import new_id
from ebbtide.domain.service_account import SECRET_PREFIX, SHOWN_LETTERS, ServiceAccountSecret
from ebbtide.sealing import ServiceKey

REALM = "MMS Public API"
PUBLIC_KEY_LENGTH = 8
_SECRET_BYTES = 32
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def digest_ha1(public_key: str, private_key: str) -> bytes:
    """HA1 of RFC 7616 with MD5, as 32 hex digits in ASCII."""
    text = f"{public_key}:{REALM}:{private_key}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().encode()


def new_private_key() -> str:
    """122 random bits, written as a UUID."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


def new_api_key(
    *,
    description: str,
    grants: tuple[Grant, ...],
    access_list: tuple[AccessEntry, ...],
    owner: bool,
    expires: datetime | None = None,
    service_key: ServiceKey,
    clock: Clock,
) -> tuple[ApiKey, str]:
    """A new key, not stored yet, and its private key: the only time that it is known."""
    key_id = new_id()
    public_key = "".join(secrets.choice(_LETTERS) for _ in range(PUBLIC_KEY_LENGTH))
    private_key = new_private_key()
    key = ApiKey(
        id=key_id,
        public_key=public_key,
        description=description,
        ha1=service_key.seal(digest_ha1(public_key, private_key), record_id=key_id),
        grants=grants,
        access_list=access_list,
        created=clock.now(),
        owner=owner,
        expires=expires,
    )
    return key, private_key


def new_account_secret(*, now: datetime, life: timedelta) -> tuple[ServiceAccountSecret, str]:
    """A new secret of a service account, not stored yet, and its text: the only time that it is known."""
    text = SECRET_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    kept = ServiceAccountSecret(
        id=new_id(),
        sha256=_sha256(text),
        last_letters=text[-SHOWN_LETTERS:],
        created=now,
        expires=now + life,
    )
    return kept, text


def is_account_secret(text: str, kept: ServiceAccountSecret) -> bool:
    """Whether `text` is that secret; takes the same time whatever it is."""
    return hmac.compare_digest(_sha256(text), kept.sha256)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
