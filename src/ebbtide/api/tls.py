"""The API's certificate and key: checked before they are used, and read again when their files change.

A pair becomes the one in use only if it was read, belongs together and is valid now; else the one before stays, and an
event says why. Connections under way keep the certificate that they began with. Files are often replaced one after the
other, so a pair that changed is not judged until it stayed the same between two looks; whoever sends SIGHUP says that it
is whole. Nothing is kept on disk, so a crash leaves nothing: the next start reads the files.
"""

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.event import EventLevel
from ebbtide.errors import InvalidSetting
from ebbtide.events import record_event
from ebbtide.settings import Settings

LOOK_SECONDS = 5.0
"""Between two looks at the files."""

_CERTIFICATE_BYTES_MAX = 1024 * 1024

# What tells whether the two files are the ones of the last look.
_Stamp = tuple[tuple[int, int, int], ...]


class CertificateRefused(ValueError):
    """A pair that cannot be used. The message is a sentence without its subject."""


@dataclass(frozen=True, kw_only=True)
class CertificatePair:
    """Paths of a certificate chain and of its private key, PEM."""

    certificate: Path
    key: Path


def find_pair(settings: Settings) -> CertificatePair | None:
    """The pair that the settings name; None for plain HTTP."""
    certificate, key = settings.text("api.tls_certificate_file"), settings.text("api.tls_key_file")
    if certificate is None or key is None:
        return None
    return CertificatePair(certificate=Path(certificate), key=Path(key))


def load_pair(pair: CertificatePair, *, now: datetime) -> tuple[ssl.SSLContext, datetime]:
    """A context for servers that uses the pair, and when its certificate ends. Raises CertificateRefused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A password, though there is none: without it OpenSSL asks for one, on a terminal that nobody looks at.
        context.load_cert_chain(pair.certificate, pair.key, password="")
        certificate = _read_certificate(pair.certificate)
    except ssl.SSLError as error:
        reason = (error.reason or "no PEM").replace("_", " ")
        raise CertificateRefused(f"cannot be used together ({reason})") from error
    except OSError as error:
        raise CertificateRefused(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CertificateRefused("hold no certificate") from error
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        raise CertificateRefused(f"are valid from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC only")
    return context, certificate.not_valid_after_utc


def open_pair(pair: CertificatePair, *, now: datetime) -> ssl.SSLContext:
    """The context of a pair to begin with. Raises InvalidSetting for one that cannot be used."""
    try:
        return load_pair(pair, now=now)[0]
    except CertificateRefused as error:
        raise InvalidSetting(
            "api.tls_certificate_file",
            expected="a certificate chain that is valid now, its private key in api.tls_key_file, both in PEM",
            got=f"{pair.certificate} and {pair.key} {error}",
        ) from error


def _read_certificate(path: Path) -> x509.Certificate:
    with path.open("rb") as file:
        return x509.load_pem_x509_certificates(file.read(_CERTIFICATE_BYTES_MAX))[0]


class ApiCertificate:
    """The pair in use. One thread looks; connections may begin in another meanwhile."""

    def __init__(self, pair: CertificatePair, catalog: Catalog, clock: Clock) -> None:
        """Raises InvalidSetting for a pair that cannot be used."""
        self._pair = pair
        self._catalog = catalog
        self._clock = clock
        self._seen = self._judged = _stamp(pair)
        # A context of its own for the listener: it only hands each connection to the one in use.
        self.context = open_pair(pair, now=clock.now())
        self._in_use = open_pair(pair, now=clock.now())
        # Called for clients that name no server as well; see SSL_CTX_set_tlsext_servername_callback.
        self.context.sni_callback = self._hand_over

    def look(self, *, at_once: bool = False) -> None:
        """Read the files again if they changed and have stayed the same since the last look; `at_once`: in any case."""
        stamp = _stamp(self._pair)
        is_settled, self._seen = stamp == self._seen, stamp
        if at_once or (is_settled and stamp != self._judged):
            self._judged = stamp
            self._take()

    def _take(self) -> None:
        try:
            self._in_use, ends = load_pair(self._pair, now=self._clock.now())
        except CertificateRefused as error:
            self._tell(
                EventLevel.ERROR,
                "api.certificate_refused",
                f"{self._pair.certificate} and {self._pair.key} {error}; the API goes on with the ones before",
            )
            return
        self._tell(
            EventLevel.INFO,
            "api.certificate_changed",
            f"the API uses the certificate in {self._pair.certificate}, valid until {ends:%Y-%m-%d %H:%M} UTC",
        )

    def _tell(self, level: EventLevel, kind: str, message: str) -> None:
        record_event(self._catalog, self._clock, level=level, kind=kind, message=message)

    def _hand_over(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = self._in_use


def _stamp(pair: CertificatePair) -> _Stamp:
    """Changes whenever either file does; one that is not there is all zeros."""
    found = []
    for path in (pair.certificate, pair.key):
        try:
            status = path.stat()
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return tuple(found)
