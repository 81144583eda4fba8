"""The API's certificate: which pairs are used, and when its files are read again."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ebbtide.api.tls import ApiCertificate, CertificatePair, CertificateRefused, load_pair
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.domain.event import Event
from ebbtide.errors import InvalidSetting
from ebbtide.testing.certificates import Authority

AUTHORITY = Authority.create()
DAY = timedelta(days=1)


@pytest.fixture
def pair(tmp_path: Path) -> CertificatePair:
    pair = CertificatePair(certificate=tmp_path / "chain.pem", key=tmp_path / "key.pem")
    put(pair, AUTHORITY.issue("127.0.0.1"))
    return pair


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def catalog(events: list[Event]) -> Catalog:
    """Stands in for the catalog, and keeps what is recorded."""
    return cast(Catalog, SimpleNamespace(events=SimpleNamespace(insert=events.append)))


def put(pair: CertificatePair, text: str) -> None:
    for path in (pair.certificate, pair.key):
        path.write_text(text)


def in_use(certificate: ApiCertificate) -> Any:
    """What the next connection gets."""
    connection = SimpleNamespace(context=None)
    certificate.context.sni_callback(connection, None, certificate.context)  # type: ignore[misc,arg-type]
    return connection.context


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def test_a_pair_that_changed_is_read_once_it_stays_the_same(
    pair: CertificatePair, catalog: Catalog, events: list[Event]
) -> None:
    certificate = ApiCertificate(pair, catalog, SystemClock())
    first = in_use(certificate)
    for _ in range(3):
        certificate.look()
    put(pair, AUTHORITY.issue("127.0.0.1", "one.more"))
    certificate.look()
    assert (in_use(certificate) is first, events) == (True, [])
    certificate.look()
    assert in_use(certificate) is not first
    certificate.look()
    assert kinds(events) == ["api.certificate_changed"]


def test_a_bad_pair_leaves_the_one_before_and_is_told_once(
    pair: CertificatePair, catalog: Catalog, events: list[Event]
) -> None:
    certificate = ApiCertificate(pair, catalog, SystemClock())
    first = in_use(certificate)
    pair.certificate.unlink()
    for _ in range(4):
        certificate.look()
    assert in_use(certificate) is first
    assert kinds(events) == ["api.certificate_refused"]
    assert "cannot be read" in events[0].message
    put(pair, AUTHORITY.issue("127.0.0.1"))
    certificate.look(at_once=True)
    assert in_use(certificate) is not first
    assert kinds(events) == ["api.certificate_refused", "api.certificate_changed"]


@pytest.mark.parametrize(
    ("certificate", "key", "at", "why"),
    [
        (AUTHORITY.issue("a"), AUTHORITY.issue("a"), timedelta(0), "KEY VALUES MISMATCH"),
        ("no PEM", "no PEM", timedelta(0), "cannot be used together"),
        ("", AUTHORITY.issue("a"), timedelta(0), "cannot be used together"),
        (AUTHORITY.issue("a"), None, 1000 * DAY, "are valid from"),
        (AUTHORITY.issue("a"), None, -1000 * DAY, "are valid from"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(
    pair: CertificatePair, certificate: str, key: str | None, at: timedelta, why: str
) -> None:
    pair.certificate.write_text(certificate)
    pair.key.write_text(certificate if key is None else key)
    with pytest.raises(CertificateRefused, match=why):
        load_pair(pair, now=datetime.now(UTC) + at)


def test_a_start_with_a_pair_that_cannot_be_used_names_the_setting(
    pair: CertificatePair, catalog: Catalog
) -> None:
    put(pair, "no PEM")
    with pytest.raises(InvalidSetting, match=r"api\.tls_certificate_file"):
        ApiCertificate(pair, catalog, SystemClock())
