"""Sealing secrets under the service key, so that a stolen catalog logs nobody in.

The key is 32 random bytes in a file of mode 0600, never inside catalog or repository. Each sealed value names the
key's id and is bound to the record that it belongs to (associated data): it cannot be moved to another record.
A crash while the key is created leaves a temporary file or the whole key.
"""

import hashlib
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ebbtide.domain.sealed import Sealed
from ebbtide.errors import EbbtideError

KEY_BYTES = 32
NONCE_BYTES = 12


class SealBroken(EbbtideError):
    """A sealed value cannot be opened with the service key at hand."""


class ServiceKey:
    """The key that seals every secret of one installation."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a service key has {KEY_BYTES} bytes")
        self._cipher = AESGCM(key)
        self.id = hashlib.blake2b(key, digest_size=8, person=b"ebbtide-key-id").hexdigest()

    @classmethod
    def load_or_create(cls, path: Path) -> "ServiceKey":
        """The key in `path`; a new one, with mode 0600, where there is none yet.

        Raises SealBroken for a file that is no key or that others may read.
        """
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            return cls._create(path)
        if path.stat().st_mode & 0o077:
            raise SealBroken(f"others may read the service key {path}", hint=f"chmod 600 {path}")
        if len(key) != KEY_BYTES:
            raise SealBroken(
                f"{path} is not a service key of {KEY_BYTES} bytes", hint="put back the right file"
            )
        return cls(key)

    @classmethod
    def _create(cls, path: Path) -> "ServiceKey":
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_bytes(KEY_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            # A link, not a rename: whoever comes second finds the first one's key instead of replacing it.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        # Before anything is sealed: a key that a power cut takes back would leave secrets that nobody can open.
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return cls(path.read_bytes())

    def seal(self, secret: bytes, *, record_id: str) -> Sealed:
        """`secret`, readable only with this key and as part of the record `record_id`."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        ciphertext = self._cipher.encrypt(nonce, secret, record_id.encode())
        return Sealed(key_id=self.id, nonce=nonce, ciphertext=ciphertext)

    def open(self, sealed: Sealed, *, record_id: str) -> bytes:
        """The secret. Raises SealBroken where key, record or bytes are not the ones that it was sealed with."""
        if sealed.key_id != self.id:
            raise SealBroken(
                f"this secret was sealed with service key {sealed.key_id}, and the key at hand is {self.id}",
                hint="put back the right secret.key, or give the credentials again: ebbtide clusters credentials NAME",
            )
        try:
            return self._cipher.decrypt(sealed.nonce, sealed.ciphertext, record_id.encode())
        except (InvalidTag, ValueError):
            # ValueError: a nonce of a length that the cipher does not take.
            raise SealBroken("a sealed secret was changed or moved to another record") from None
