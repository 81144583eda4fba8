"""Where the API listens, and when that is refused."""

from typing import Any

import pytest

from ebbtide.errors import InvalidInput, Refused
from ebbtide.listen import Listen, external_url, parse_listen, plain_http_warning, resolve_listen
from ebbtide.settings import Settings, resolve_settings


def settings(**flags: Any) -> Settings:
    named = {f"api.{name}": value for name, value in flags.items()}
    return resolve_settings(flags=named, environment={}, file=None)


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback", "url"),
    [
        ("127.0.0.1:27080", "127.0.0.1", 27080, True, "http://127.0.0.1:27080"),
        ("127.8.8.8:0", "127.8.8.8", 0, True, "http://127.8.8.8:0"),
        ("localhost:80", "localhost", 80, True, "http://localhost:80"),
        ("[::1]:27080", "::1", 27080, True, "http://[::1]:27080"),
        ("0.0.0.0:27080", "0.0.0.0", 27080, False, "http://127.0.0.1:27080"),
        ("[::]:27080", "::", 27080, False, "http://[::1]:27080"),
        ("backup.example:443", "backup.example", 443, False, "http://backup.example:443"),
        ("192.0.2.7:65535", "192.0.2.7", 65535, False, "http://192.0.2.7:65535"),
    ],
)
def test_an_address_is_parsed(text: str, host: str, port: int, is_loopback: bool, url: str) -> None:
    listen = parse_listen(text, has_tls=False)
    assert (host, port, is_loopback, url) == (listen.host, listen.port, listen.is_loopback, listen.url)


@pytest.mark.parametrize(
    "text", ["", "27080", ":27080", "host:", "host:x", "host:65536", "host:-1", "host:²"]
)
def test_anything_else_is_bad_input(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"api\.listen"):
        parse_listen(text, has_tls=False)


def test_with_tls_links_begin_with_https() -> None:
    assert Listen(host="a", port=1, has_tls=True).url == "https://a:1"


@pytest.mark.parametrize(
    ("flags", "is_allowed"),
    [
        ({}, True),
        ({"listen": "[::1]:1"}, True),
        ({"listen": "0.0.0.0:1"}, False),
        ({"listen": "[::]:1"}, False),
        ({"listen": "db.example:1"}, False),
        ({"listen": "0.0.0.0:1", "insecure_http": True}, True),
        ({"listen": "0.0.0.0:1", "tls_certificate_file": "c.pem", "tls_key_file": "k.pem"}, True),
    ],
)
def test_plain_http_does_not_leave_the_machine_unless_told_so(
    flags: dict[str, Any], is_allowed: bool
) -> None:
    if is_allowed:
        resolve_listen(settings(**flags))
    else:
        with pytest.raises(Refused, match="--insecure-http"):
            resolve_listen(settings(**flags))


@pytest.mark.parametrize(
    ("host", "has_tls", "is_warned"),
    [("127.0.0.1", False, False), ("::1", False, False), ("0.0.0.0", False, True), ("0.0.0.0", True, False)],
)
def test_plain_http_that_leaves_the_machine_is_warned_of(host: str, has_tls: bool, is_warned: bool) -> None:
    warning = plain_http_warning(Listen(host=host, port=1, has_tls=has_tls))
    assert (warning is not None and host in warning) is is_warned


@pytest.mark.parametrize("flags", [{"tls_certificate_file": "c.pem"}, {"tls_key_file": "k.pem"}])
def test_a_certificate_without_its_key_is_bad_input(flags: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="together"):
        resolve_listen(settings(**flags))


@pytest.mark.parametrize(
    ("external", "expected"),
    [
        (None, "http://127.0.0.1:27080"),
        ("https://backup.example/", "https://backup.example"),
        ("https://backup.example/ebb", "https://backup.example/ebb"),
    ],
)
def test_links_begin_with_the_external_url(external: str | None, expected: str) -> None:
    named = settings(external_url=external)
    assert expected == external_url(named, resolve_listen(named))
