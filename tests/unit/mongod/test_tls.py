"""Certificates: what they say, what is refused, and what OpenSSL would say of them."""

import os
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from ebbtide.errors import InvalidInput
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.tls import (
    answers_with_tls,
    as_files,
    find_trouble_among_themselves,
    read_certificate,
    read_material,
    show_membership,
)
from ebbtide.testing.certificates import Authority

AUTHORITY = Authority.create()
STRANGER = Authority.create("Stranger")


def test_a_certificate_tells_names_membership_and_end() -> None:
    facts = read_certificate(AUTHORITY.issue("db1.example.org", "192.0.2.7", "::1"))
    assert facts.names == ("db1.example.org", "192.0.2.7", "::1")
    assert facts.membership == (("O", "Ebbtide Lab"), ("OU", "members"))
    assert show_membership(facts.membership) == "O=Ebbtide Lab, OU=members"
    assert show_membership(()) == "nothing"
    assert facts.not_before < facts.not_after
    assert facts.for_both_sides
    assert not read_certificate(AUTHORITY.issue("x", server_only=True)).for_both_sides


@pytest.mark.parametrize(
    ("host", "is_covered"),
    [
        ("DB1.example.org", True),
        ("db2.example.org", False),
        ("a.wild.example.org", True),
        ("a.b.wild.example.org", False),
        ("wild.example.org", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("0:0:0:0:0:0:0:1", True),
    ],
)
def test_which_hosts_a_certificate_covers_is_what_openssl_says_too(host: str, is_covered: bool) -> None:
    certificate = AUTHORITY.issue("db1.example.org", "*.wild.example.org", "192.0.2.7", "::1")
    material, facts = read_material(ca=AUTHORITY.ca, certificate=certificate)
    assert is_covered is facts.covers(host)
    assert is_covered is (find_trouble_among_themselves(material, host) == "")


@pytest.mark.parametrize(
    ("certificate", "trouble"),
    [
        (AUTHORITY.issue("head"), ""),
        (AUTHORITY.issue("other"), "Hostname mismatch"),
        (STRANGER.issue("head"), "unable to get local issuer"),
        (AUTHORITY.issue("head", lifetime=-timedelta(days=1)), "expired"),
        (AUTHORITY.issue("head", server_only=True), "purpose"),
    ],
    ids=["good", "another name", "another authority", "ended", "for servers only"],
)
def test_the_trial_finds_what_a_peer_would_find(certificate: str, trouble: str) -> None:
    material, _ = read_material(ca=AUTHORITY.ca, certificate=certificate)
    found = find_trouble_among_themselves(material, "head")
    assert trouble in found
    assert bool(trouble) is bool(found)


def encrypted(certificate: str) -> str:
    head, _, _ = certificate.partition("-----BEGIN PRIVATE KEY")
    key = load_pem_private_key(certificate.encode(), password=None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"phrase"))
    return head + locked.decode()


def other_key(certificate: str) -> str:
    head, _, _ = certificate.partition("-----BEGIN PRIVATE KEY")
    _, begin, key = AUTHORITY.issue("y").partition("-----BEGIN PRIVATE KEY")
    return head + begin + key


GOOD = AUTHORITY.issue("x")


@pytest.mark.parametrize(
    ("ca", "certificate", "field"),
    [
        ("nonsense s3cret", GOOD, "tlsCa"),
        (AUTHORITY.ca, "nonsense s3cret", "tlsCertificate"),
        (AUTHORITY.ca, AUTHORITY.ca, "tlsCertificate"),
        (AUTHORITY.ca, other_key(GOOD), "tlsCertificate"),
        (AUTHORITY.ca, encrypted(GOOD), "tlsCertificate"),
    ],
    ids=["no authority", "no certificate", "no key", "another key", "a pass phrase"],
)
def test_what_no_mongod_could_use_is_refused_and_not_quoted(ca: str, certificate: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_material(ca=ca, certificate=certificate)
    assert field == refused.value.field
    assert "s3cret" not in str(refused.value)
    assert "BEGIN" not in str(refused.value)


def test_a_private_key_is_in_no_repr_and_on_no_disk() -> None:
    material, _ = read_material(ca=AUTHORITY.ca, certificate=GOOD)
    assert "PRIVATE" not in repr(material)
    with as_files(["one", "two"]) as names:
        for name, text in zip(names, ("one", "two"), strict=True):
            assert os.readlink(name).startswith("/memfd:")
            with open(name) as file:
                assert file.read() == text
    # Each by its name: what else this process has open is the business of other threads too.
    for name in names:
        assert not (os.path.lexists(name) and os.readlink(name).startswith("/memfd:"))


def test_where_nothing_listens_nothing_is_said_of_tls() -> None:
    assert answers_with_tls("127.0.0.1", free_port(), timeout_seconds=1) is None
