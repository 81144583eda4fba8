"""HTTP Digest: reading the header, issuing nonces, judging answers.

A nonce is 24 bytes in base64 (32 characters): when it was issued (ms, 6 bytes), 8 random bytes, and 10 bytes
of an HMAC over both under a key that lives only in this process. So unasked-for challenges take no memory; a
nonce is remembered only once a right answer used it, with the highest count (`nc`) seen, and that at most
`NONCES_MAX` times.

Invariants: an answer is accepted once; nonces older than `NONCE_LIFE`, or than the oldest one forgotten for
lack of room, are stale. A restart makes every nonce stale: clients then answer the new challenge by
themselves. Sources: RFC 7616 and 2617; contract section 4.1 for the exact challenge.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from ebbtide.credentials import REALM

NONCE_LIFE = timedelta(seconds=300)
NONCES_MAX = 100_000
"""Nonces remembered at once: 333 new ones a second for their whole life, in about 20 MB."""

_TIME_BYTES = 6
_RANDOM_BYTES = 8
_MAC_BYTES = 10
_HEADER_LENGTH_MAX = 4096

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|$)')
_NC = re.compile(r"[0-9a-fA-F]{8}")
_RESPONSE = re.compile(r"[0-9a-fA-F]{32}")


class MalformedCredentials(ValueError):
    """The header is not an answer to our challenge."""


@dataclass(frozen=True, kw_only=True)
class DigestAnswer:
    """What the `Authorization` header says. `nc` is the count as a number, `nc_text` as it was sent."""

    username: str
    nonce: str
    uri: str
    response: str
    nc: int
    nc_text: str
    cnonce: str


def parse_digest(header: str) -> DigestAnswer:
    """Read an `Authorization: Digest …` header; parameters may be quoted or bare, unknown ones are skipped.

    Raises MalformedCredentials, and nothing else, for anything that is not a complete answer with MD5 and qop
    auth.
    """
    if len(header) > _HEADER_LENGTH_MAX:
        raise MalformedCredentials("too long")
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() != "digest":
        raise MalformedCredentials("not Digest")
    values = _parameters(rest)
    if values.get("algorithm", "MD5").upper() != "MD5":
        raise MalformedCredentials("not MD5")
    if values.get("realm") != REALM or values.get("qop") != "auth":
        raise MalformedCredentials("another realm or quality of protection")
    try:
        nc_text, response = values["nc"], values["response"]
        if not _NC.fullmatch(nc_text) or not _RESPONSE.fullmatch(response) or not values["cnonce"]:
            raise MalformedCredentials("a parameter of the wrong shape")
        return DigestAnswer(
            username=values["username"],
            nonce=values["nonce"],
            uri=values["uri"],
            response=response.lower(),
            nc=int(nc_text, 16),
            nc_text=nc_text,
            cnonce=values["cnonce"],
        )
    except KeyError as missing:
        raise MalformedCredentials(f"without {missing}") from None


def _parameters(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    place = 0
    while place < len(text):
        match = _PARAMETER.match(text, place)
        if match is None:
            raise MalformedCredentials("not a list of parameters")
        name, quoted, bare = match.groups()
        if name.lower() in values:
            raise MalformedCredentials("a parameter twice")
        values[name.lower()] = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        place = match.end()
    return values


def expected_response(answer: DigestAnswer, *, ha1: bytes, method: str) -> str:
    """The right `response`, in lower-case hex. `ha1` is 32 hex digits."""
    ha2 = _md5(f"{method}:{answer.uri}".encode("latin-1", "replace"))
    middle = f":{answer.nonce}:{answer.nc_text}:{answer.cnonce}:auth:{ha2}"
    return _md5(ha1 + middle.encode("latin-1", "replace"))


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def challenge(nonce: str, *, stale: bool) -> str:
    """The value of `WWW-Authenticate`, to the letter of contract 4.1: some clients give up on anything more."""
    return (
        f'Digest realm="{REALM}", domain="", nonce="{nonce}", algorithm=MD5, qop="auth", '
        f"stale={'true' if stale else 'false'}"
    )


class NonceVerdict(Enum):
    """What became of a nonce with a right answer."""

    FRESH = "fresh"  # not used with this count before
    STALE = "stale"  # expired, used up, or another process's


class Nonces:
    """Issues nonces and remembers which were used. Safe to use from many threads."""

    def __init__(self, *, key: bytes | None = None, nonces_max: int = NONCES_MAX) -> None:
        self._key = key or secrets.token_bytes(32)
        self._nonces_max = nonces_max
        self._lock = threading.Lock()
        self._highest_nc: OrderedDict[bytes, int] = OrderedDict()
        self._forgotten_until_ms = -1

    def issue(self, now: datetime) -> str:
        """A new nonce of 32 characters."""
        body = _to_ms(now).to_bytes(_TIME_BYTES, "big") + secrets.token_bytes(_RANDOM_BYTES)
        return base64.b64encode(body + self._mac(body)).decode()

    def use(self, nonce: str, nc: int, *, now: datetime) -> NonceVerdict:
        """Judge a nonce whose answer was right, and note its use."""
        issued_ms = self._read(nonce)
        now_ms = _to_ms(now)
        life_ms = int(NONCE_LIFE.total_seconds() * 1000)
        if issued_ms is None or not 0 <= now_ms - issued_ms < life_ms:
            return NonceVerdict.STALE
        body = base64.b64decode(nonce)[: _TIME_BYTES + _RANDOM_BYTES]
        with self._lock:
            if issued_ms <= self._forgotten_until_ms or nc <= self._highest_nc.get(body, 0):
                return NonceVerdict.STALE
            self._highest_nc[body] = nc
            self._forget_old(now_ms - life_ms)
        return NonceVerdict.FRESH

    def _read(self, nonce: str) -> int | None:
        """When the nonce was issued, in ms; None for one that is not ours."""
        try:
            raw = base64.b64decode(nonce, validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(raw) != _TIME_BYTES + _RANDOM_BYTES + _MAC_BYTES:
            return None
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)):
            return None
        return int.from_bytes(body[:_TIME_BYTES], "big")

    def _forget_old(self, expired_until_ms: int) -> None:
        # In order of first use, which is nearly the order of issue; what goes is refused from then on.
        while self._highest_nc:
            oldest_ms = int.from_bytes(next(iter(self._highest_nc))[:_TIME_BYTES], "big")
            if oldest_ms > expired_until_ms and len(self._highest_nc) <= self._nonces_max:
                return
            self._highest_nc.popitem(last=False)
            self._forgotten_until_ms = max(self._forgotten_until_ms, oldest_ms)

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_MAC_BYTES]


def _to_ms(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp() * 1000)
