"""The server itself: TLS, where it may listen, and what it refuses to begin with."""

import ipaddress
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ebbtide.sealing import ServiceKey
from ebbtide.testing.certificates import Authority


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate of its own for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = directory / "cert.pem", directory / "key.pem"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate_path, key_path


def test_tls_and_links_that_say_so(start_service: Callable[..., Any], tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    service = start_service(api__tls_certificate_file=str(certificate), api__tls_key_file=str(key))
    assert service.url.startswith("https://127.0.0.1:")
    answer = service.call("GET", "/api/atlas/v1.0/groups", verify=str(certificate))
    assert answer.json()["links"][0]["href"].startswith(f"{service.url}/api/")
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(service.url.replace("https", "http"), timeout=60)


def test_a_new_certificate_is_used_without_a_restart_and_a_bad_one_never(
    start_service: Callable[..., Any], tmp_path: Path
) -> None:
    authority = Authority.create()
    certificate, key, ca = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    ca.write_text(authority.ca)

    def put(pair: str, *, its_key: str | None = None) -> None:
        certificate.write_text(pair)
        key.write_text(its_key or pair)
        service.reload()

    def shown(name: str) -> str:
        port = int(service.url.rsplit(":", 1)[1])
        return ssl.get_server_certificate((name, port)).strip()

    def told(kind: str) -> bool:
        found = service.call("GET", "/api/ebbtide/v1/events", verify=str(ca)).json()["results"]
        return any(event["kind"] == kind for event in found)

    first, second = authority.issue("127.0.0.1"), authority.issue("127.0.0.1")
    for path in (certificate, key):
        path.write_text(first)
    service = start_service(api__tls_certificate_file=str(certificate), api__tls_key_file=str(key))
    assert shown("127.0.0.1") in first
    put(second, its_key=first)
    service.wait_until(lambda: told("api.certificate_refused"))
    assert shown("127.0.0.1") in first
    put(second)
    service.wait_until(lambda: shown("127.0.0.1") in second)
    # By name as well: clients that name the server and those that do not take different ways through OpenSSL.
    assert shown("localhost") in second
    assert told("api.certificate_changed")


def test_the_external_url_is_what_links_begin_with(start_service: Callable[..., Any]) -> None:
    service = start_service(
        api__external_url="https://backup.example.org/", downloads__links_for_readers=True
    )
    document = service.call("GET", "/api/atlas/v1.0/groups").json()
    assert document["links"][0]["href"].startswith("https://backup.example.org/api/")


def test_jobs_are_still_shown_after_the_service_key_was_lost(start_service: Callable[..., Any]) -> None:
    service = start_service()
    job = service.ready_job(service.new_snapshot(), archive_bytes=10)
    key = service.download_key(job)
    foreign = ServiceKey(bytes(range(32))).seal(key.encode(), record_id=job.id)
    service.catalog._database.restore_jobs.update_one(
        {"_id": job.id},
        {
            "$set": {
                "download_key": {
                    "key_id": foreign.key_id,
                    "nonce": foreign.nonce,
                    "ciphertext": foreign.ciphertext,
                }
            }
        },
    )
    answer = service.call("GET", f"{service.base}/restoreJobs")
    (shown,) = answer.json()["results"]
    assert (answer.status_code, "url" in shown["delivery"]) == (200, False)
    link = f"{service.url}/backup/restore/v3/pull/{job.id}/{job.file_name}"
    refused = requests.get(link, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert (refused.status_code, refused.json()["errorCode"]) == (500, "UNEXPECTED_ERROR")
