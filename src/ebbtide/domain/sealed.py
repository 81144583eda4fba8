"""A secret as it is stored: sealed under the service key, useless without it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """AES-256-GCM: `key_id` names the service key, `nonce` is 12 random bytes, `ciphertext` ends with the tag."""

    key_id: str
    nonce: bytes
    ciphertext: bytes
