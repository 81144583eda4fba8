"""API keys: what they look like, and what is kept of them.

A public key is 8 lower-case characters, a private key a UUID, as in the hosted service. Only HA1, the digest hash of
both, is kept (sealed, as it is as good as the password for digest).
"""

import hashlib
import secrets
import uuid

from ebbtide.clock import Clock
from ebbtide.domain.access import AccessEntry, ApiKey, Grant
from ebbtide.domain.ids import new_id
from ebbtide.sealing import ServiceKey

REALM = "MMS Public API"
PUBLIC_KEY_LENGTH = 8
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
    )
    return key, private_key
