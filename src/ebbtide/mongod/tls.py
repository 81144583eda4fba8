"""Certificates for talking to a set that uses TLS, and for the head that joins it: read, checked, tried out.

Everything is PEM text in memory. OpenSSL and PyMongo want file names: they get those of anonymous memory files, so a
private key is on a disk only where a mongod must read it.

Invariants
  * whoever is talked to proves its name and its chain up to the CA given; nothing here switches that off
  * no error quotes what it read: a private key may be in it
"""

import os
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ebbtide.errors import InvalidInput

SubjectAttributes = tuple[tuple[str, str], ...]

_MEMBERSHIP = {NameOID.ORGANIZATION_NAME: "O", NameOID.ORGANIZATIONAL_UNIT_NAME: "OU"}
_MEMBERSHIP |= {NameOID.DOMAIN_COMPONENT: "DC"}
_HANDSHAKE_ROUNDS_MAX = 20


@dataclass(frozen=True, kw_only=True)
class TlsMaterial:
    """PEM texts: `ca` holds the certificates of the authorities, `certificate` a certificate with its private key."""

    ca: str = field(repr=False)
    certificate: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class CertificateFacts:
    """What a certificate says of itself. `names` are host names and addresses, `membership` its O, OU and DC, sorted.

    `for_both_sides`: it may be shown by a server as well as by a client, as a member of a set must.
    """

    names: tuple[str, ...]
    membership: SubjectAttributes
    not_before: datetime
    not_after: datetime
    for_both_sides: bool

    def covers(self, host: str) -> bool:
        """Whether a peer that looks for `host` accepts it. A wildcard stands for one label, the first."""
        wanted = host.lower()
        return any(_name_matches(name.lower(), wanted) for name in self.names)


def _name_matches(name: str, host: str) -> bool:
    try:
        return ip_address(name) == ip_address(host)
    except ValueError:
        pass
    if name.startswith("*."):
        label, dot, rest = host.partition(".")
        return bool(label and dot) and rest == name[2:]
    return name == host


def read_material(*, ca: str, certificate: str) -> tuple[TlsMaterial, CertificateFacts]:
    """Judge both texts. Raises InvalidInput, naming `tlsCa` or `tlsCertificate`, for what no mongod could use."""
    try:
        x509.load_pem_x509_certificates(ca.encode())
    except ValueError:
        raise InvalidInput("tlsCa", expected="certificates in PEM form") from None
    facts = read_certificate(certificate)
    try:
        key = load_pem_private_key(certificate.encode(), password=None)
    except TypeError:
        raise InvalidInput(
            "tlsCertificate",
            expected="a private key without a pass phrase",
            hint="openssl pkey -in FILE takes the pass phrase off; Ebbtide seals the key with its own",
        ) from None
    except ValueError:
        raise InvalidInput(
            "tlsCertificate", expected="a certificate and its private key, both in PEM form, in one file"
        ) from None
    if x509.load_pem_x509_certificates(certificate.encode())[0].public_key() != key.public_key():
        raise InvalidInput("tlsCertificate", expected="the private key of the first certificate in the file")
    return TlsMaterial(ca=ca, certificate=certificate), facts


def read_certificate(certificate: str) -> CertificateFacts:
    """The first certificate of a PEM text. Raises InvalidInput."""
    try:
        return _facts(x509.load_pem_x509_certificates(certificate.encode())[0])
    except ValueError:
        raise InvalidInput(
            "tlsCertificate", expected="a certificate and its private key, both in PEM form, in one file"
        ) from None


def _facts(certificate: x509.Certificate) -> CertificateFacts:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [
            *alternatives.get_values_for_type(x509.DNSName),
            *map(str, alternatives.get_values_for_type(x509.IPAddress)),
        ]
    except x509.ExtensionNotFound:
        names = []
    try:
        uses = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for_both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= uses
    except x509.ExtensionNotFound:
        for_both = True
    return CertificateFacts(
        names=tuple(names),
        membership=_membership(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        for_both_sides=for_both,
    )


def _membership(certificate: x509.Certificate) -> SubjectAttributes:
    """What a mongod compares to tell its fellow members from mere clients."""
    return tuple(
        sorted((_MEMBERSHIP[a.oid], str(a.value)) for a in certificate.subject if a.oid in _MEMBERSHIP)
    )


def show_membership(attributes: SubjectAttributes) -> str:
    """`O=Example, OU=databases`; `nothing` for none."""
    return ", ".join(f"{name}={value}" for name, value in attributes) or "nothing"


@contextmanager
def as_files(texts: Sequence[str]) -> Iterator[list[str]]:
    """Names under which this process can read the texts, for as long as the block lasts."""
    descriptors: list[int] = []
    try:
        for text in texts:
            descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
            descriptors.append(descriptor)
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(text.encode())
        yield [f"/proc/self/fd/{descriptor}" for descriptor in descriptors]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@contextmanager
def client_options(material: TlsMaterial | None) -> Iterator[Mapping[str, Any]]:
    """PyMongo's options for `material`. A client reads them while it is made, so make it within the block."""
    if material is None:
        yield {}
        return
    with as_files([material.ca, material.certificate]) as (ca, certificate):
        yield {"tls": True, "tlsCAFile": ca, "tlsCertificateKeyFile": certificate}


def find_trouble_among_themselves(material: TlsMaterial, host: str) -> str:
    """Empty where the certificate would serve a head at `host`, shown to a peer with the same CA; else why not.

    A handshake in memory, with the library that the servers use: chain, dates, name, use for either side, and that
    the private key belongs to it.
    """
    try:
        with as_files([material.ca, material.certificate]) as (ca, certificate):
            server, client = _contexts(ca, certificate)
    except ssl.SSLError as error:
        return _reason(error)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(sides)
    for _ in range(_HANDSHAKE_ROUNDS_MAX):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return _reason(error)
        if not waiting:
            return ""
    return "the handshake does not end"


def _contexts(ca: str, certificate: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    for context in (server, client):
        # Private authorities often lack what the stricter rules of public ones ask for; mongod does not ask for it.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.load_cert_chain(certificate)
    return server, client


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or "the handshake fails").replace("_", " ").lower()


def membership_of(
    material: TlsMaterial, *, host: str, port: int, timeout_seconds: float
) -> SubjectAttributes:
    """O, OU and DC of the certificate that a member shows. Raises OSError (ssl.SSLError is one)."""
    with as_files([material.ca, material.certificate]) as (ca, certificate):
        _, context = _contexts(ca, certificate)
    with (
        socket.create_connection((host, port), timeout=timeout_seconds) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    if shown is None:
        raise OSError("it shows no certificate")
    return _membership(x509.load_der_x509_certificate(shown))


def answers_with_tls(host: str, port: int, *, timeout_seconds: float) -> bool | None:
    """Whether what listens there speaks TLS; None where nothing listens.

    Nobody's name is proven, so nothing is sent but a greeting, and nothing that is answered is believed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        plain = socket.create_connection((host, port), timeout=timeout_seconds)
    except OSError:
        return None
    try:
        with plain, context.wrap_socket(plain, server_hostname=host):
            return True
    except ssl.SSLError as error:
        # It refuses in TLS's own words: that is TLS too.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
