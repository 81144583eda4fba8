"""A certificate authority for tests: made in memory, trusted by nobody else.

What it issues is good for both sides of a connection, as the members of a set need it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ORGANIZATION = "Ebbtide Lab"
MEMBER_UNIT = "members"
CLIENT_UNIT = "clients"
LIFETIME = timedelta(days=365)


def _name(common_name: str, unit: str, organization: str = ORGANIZATION) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None) -> str:
    text = certificate.public_bytes(Encoding.PEM)
    if key is not None:
        text += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


@dataclass(frozen=True)
class Authority:
    """One authority with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, common_name: str = "Ebbtide Lab CA") -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(common_name, "authority")
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + 10 * LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @property
    def ca(self) -> str:
        """The authority's certificate, PEM."""
        return _pem(self.certificate)

    def issue(
        self,
        *names: str,
        unit: str = MEMBER_UNIT,
        organization: str = ORGANIZATION,
        lifetime: timedelta = LIFETIME,
        server_only: bool = False,
    ) -> str:
        """A certificate with its private key, PEM, for host names and addresses; the first is its common name."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        uses = [ExtendedKeyUsageOID.SERVER_AUTH]
        if not server_only:
            uses.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(names[0], unit, organization))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # A lifetime below zero is of a certificate that has expired.
            .not_valid_before(now + min(timedelta(), lifetime) - timedelta(days=1))
            .not_valid_after(now + lifetime)
            .add_extension(x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        )
        return _pem(builder.sign(self.key, hashes.SHA256()), key)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
