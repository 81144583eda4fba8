"""Where the API listens, and whether that may be: a pure rule."""

import ipaddress
from dataclasses import dataclass

from ebbtide.domain.replica_set import join_host_port
from ebbtide.errors import InvalidInput, Refused
from ebbtide.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Listen:
    """An address to listen on; `host` is an address or a name of this machine, `port` 0 asks for a free one."""

    host: str
    port: int
    has_tls: bool

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """The base URL at this very address. Listening everywhere is reached, from here, by loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"{'https' if self.has_tls else 'http'}://{join_host_port(host, self.port)}"


def parse_listen(text: str, *, has_tls: bool) -> Listen:
    """`HOST:PORT`, with brackets around an IPv6 address. Raises InvalidInput."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(
            "api.listen", expected="HOST:PORT, such as 127.0.0.1:27080 or [::1]:27080", got=text
        )
    return Listen(host=host.strip("[]"), port=int(port), has_tls=has_tls)


def resolve_listen(settings: Settings) -> Listen:
    """The address of the settings. Raises Refused for plain HTTP that leaves the machine."""
    certificate, key = settings.text("api.tls_certificate_file"), settings.text("api.tls_key_file")
    if (certificate is None) != (key is None):
        raise InvalidInput("api.tls_key_file", expected="a certificate and its key together, or neither")
    listen = parse_listen(str(settings["api.listen"]), has_tls=certificate is not None)
    if not listen.is_loopback and not listen.has_tls and not settings.flag("api.insecure_http"):
        raise Refused(
            f"plain HTTP on {listen.host} would show the backups to anyone on the way",
            hint="give --tls-certificate and --tls-key, listen on 127.0.0.1 behind a TLS proxy, "
            "or say --insecure-http if this network is yours alone",
        )
    return listen


def plain_http_warning(listen: Listen) -> str | None:
    """What whoever starts this must know, where plain HTTP leaves the machine."""
    if listen.is_loopback or listen.has_tls:
        return None
    return (
        f"PLAIN HTTP ON {listen.host}: anyone on the way can read the backups, and take over what is logged in. "
        "Give --tls-certificate and --tls-key, or listen on 127.0.0.1 behind a TLS proxy"
    )


def external_url(settings: Settings, listen: Listen) -> str:
    """What links begin with, without a slash at the end."""
    return (settings.text("api.external_url") or listen.url).rstrip("/")
