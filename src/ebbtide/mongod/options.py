"""The options of a mongod that Ebbtide runs, and the command line they make. Pure: nothing is read or started.

Invariants
  * nothing secret is an option: a command line can be read by every local user. Keyfile and certificates are named,
    not quoted
  * with TLS, both ends of every connection prove their names: no option that allows less is ever rendered
  * all paths are absolute
  * the cache size is always said: the server's own default is half of the memory, for each mongod
  * no mongod opens a socket that was not asked for: without `--nounixsocket` it would also listen in /tmp, where
    clients look for the machine's own mongod
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ebbtide.domain.replica_set import ClusterAuthMode, TlsMode
from ebbtide.errors import InvalidInput

SOCKET_PATH_BYTES_MAX = 107
"""Linux: `sockaddr_un.sun_path` holds 108 bytes with the ending zero."""

CACHE_GB_MIN = 0.25
"""The least that mongod takes."""

QUIESCE_MILLIS = 100
"""How long a member that is told to stop (SIGTERM) lets clients find another one; the server's default is 15 s."""

_PARAMETER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")

ParameterValue = str | int | float | bool | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class UnixSocket:
    """Listen on a Unix socket and nothing else. `path` is of the socket itself, at most 107 bytes long."""

    path: Path

    def __post_init__(self) -> None:
        _check_absolute("socket path", self.path)
        length = len(os.fsencode(self.path))
        if length > SOCKET_PATH_BYTES_MAX:
            raise InvalidInput(
                "socket path",
                expected=f"at most {SOCKET_PATH_BYTES_MAX} bytes",
                got=str(self.path),
                hint=f"it has {length}: use a directory with a shorter path",
            )
        # mongod takes a name for a socket if it has a slash, and splits the list at commas.
        if "," in str(self.path):
            raise InvalidInput("socket path", expected="a path without a comma", got=str(self.path))


@dataclass(frozen=True, kw_only=True)
class Tcp:
    """Listen on one TCP address. `host` is a name or address; `port` 1 … 65535."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not self.host or any(c in self.host for c in ",/ @?"):
            raise InvalidInput("host", expected="one host name or address", got=self.host)
        if not 1 <= self.port <= 65535:
            raise InvalidInput("port", expected="1 … 65535", got=self.port)


Listen = UnixSocket | Tcp


class ClusterRole(StrEnum):
    """What part of a sharded cluster a member belongs to."""

    SHARD = "shardsvr"
    CONFIG = "configsvr"


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """TLS on TCP. `certificate_file` holds the certificate and its private key; `ca_file` whom to believe."""

    mode: TlsMode
    ca_file: Path
    certificate_file: Path

    def __post_init__(self) -> None:
        _check_absolute("CA file", self.ca_file)
        _check_absolute("certificate file", self.certificate_file)
        if self.mode is TlsMode.DISABLED:
            raise InvalidInput("TLS mode", expected="one that uses TLS", got=self.mode.value)


@dataclass(frozen=True, kw_only=True)
class MongodOptions:
    """How to run one mongod.

    `cache_gb` is WiredTiger's cache. `keyfile` switches authentication on; so does `authorization`, which members
    need that know each other by certificates alone. `cluster_auth_mode` None is the server's default, the keyfile.
    `read_only` is the server's `--queryableBackupMode`. `set_parameters` are server parameters by name; a mapping is passed as JSON.
    `extra_flags` are passed as they are, last.
    """

    dbpath: Path
    log_path: Path
    listen: Listen
    cache_gb: float
    replica_set_name: str | None = None
    cluster_role: ClusterRole | None = None
    keyfile: Path | None = None
    tls: TlsFiles | None = None
    cluster_auth_mode: ClusterAuthMode | None = None
    authorization: bool = False
    oplog_size_mb: int | None = None
    read_only: bool = False
    set_parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    extra_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_absolute("dbpath", self.dbpath)
        _check_absolute("log path", self.log_path)
        if self.keyfile is not None:
            _check_absolute("keyfile", self.keyfile)
        if self.cluster_auth_mode is not None and self.cluster_auth_mode.uses_certificates and not self.tls:
            raise InvalidInput("TLS", expected="it, for members that know each other by certificates")
        if not self.cache_gb >= CACHE_GB_MIN:
            raise InvalidInput("cache_gb", expected=f"at least {CACHE_GB_MIN}", got=self.cache_gb)
        if self.replica_set_name is not None and not self.replica_set_name:
            raise InvalidInput("replica set name", expected="a name", got=self.replica_set_name)
        if self.oplog_size_mb is not None and self.oplog_size_mb < 1:
            raise InvalidInput("oplog_size_mb", expected="at least 1", got=self.oplog_size_mb)
        for name in self.set_parameters:
            if not _PARAMETER_NAME.fullmatch(name):
                raise InvalidInput("server parameter", expected="a name", got=name)


def render_arguments(options: MongodOptions) -> list[str]:
    """The command line after the name of the binary."""
    arguments = ["--dbpath", str(options.dbpath), "--logpath", str(options.log_path), "--logappend"]
    arguments += _render_listen(options.listen)
    arguments += ["--wiredTigerCacheSizeGB", f"{options.cache_gb:g}"]
    if options.replica_set_name is not None:
        arguments += ["--replSet", options.replica_set_name]
    if options.cluster_role is not None:
        arguments.append(f"--{options.cluster_role.value}")
    if options.keyfile is not None:
        arguments += ["--keyFile", str(options.keyfile)]
    if options.tls is not None:
        arguments += ["--tlsMode", options.tls.mode.value, "--tlsCAFile", str(options.tls.ca_file)]
        arguments += ["--tlsCertificateKeyFile", str(options.tls.certificate_file)]
    if options.cluster_auth_mode is not None:
        arguments += ["--clusterAuthMode", options.cluster_auth_mode.value]
    if options.authorization:
        arguments.append("--auth")
    if options.oplog_size_mb is not None:
        arguments += ["--oplogSize", str(options.oplog_size_mb)]
    if options.read_only:
        arguments.append("--queryableBackupMode")
    for name, value in (OWN_PARAMETERS | dict(options.set_parameters)).items():
        arguments += ["--setParameter", f"{name}={_render_value(value)}"]
    return arguments + list(options.extra_flags)


OWN_PARAMETERS: dict[str, ParameterValue] = {
    "diagnosticDataCollectionEnabled": False,  # writes to the disk every second, for support cases only
    "shutdownTimeoutMillisForSignaledShutdown": QUIESCE_MILLIS,
}
"""What every mongod of ours gets unless `set_parameters` says otherwise."""


def connection_uri(listen: Listen) -> str:
    """A connection string to exactly this mongod, without credentials."""
    match listen:
        case UnixSocket(path=path):
            address = quote(str(path), safe="")
        case Tcp(port=port):
            host = connect_host(listen)
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"mongodb://{address}/?directConnection=true"


def connect_host(listen: Tcp) -> str:
    """Where this machine reaches what listens there: the loopback address for the "any" addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)


def options_to_document(options: MongodOptions) -> dict[str, Any]:
    """The options as JSON can hold them."""
    match options.listen:
        case UnixSocket(path=path):
            listen: dict[str, Any] = {"socket": str(path)}
        case Tcp(host=host, port=port):
            listen = {"host": host, "port": port}
    return {
        "dbpath": str(options.dbpath),
        "log_path": str(options.log_path),
        "listen": listen,
        "cache_gb": options.cache_gb,
        "replica_set_name": options.replica_set_name,
        "cluster_role": options.cluster_role.value if options.cluster_role else None,
        "keyfile": str(options.keyfile) if options.keyfile else None,
        "tls": _tls_to_document(options.tls) if options.tls else None,
        "cluster_auth_mode": options.cluster_auth_mode.value if options.cluster_auth_mode else None,
        "authorization": options.authorization,
        "oplog_size_mb": options.oplog_size_mb,
        "read_only": options.read_only,
        "set_parameters": dict(options.set_parameters),
        "extra_flags": list(options.extra_flags),
    }


def options_from_document(document: Mapping[str, Any]) -> MongodOptions:
    """The inverse of `options_to_document`. Raises KeyError, TypeError, ValueError or InvalidInput for another shape."""
    listen, role, keyfile = document["listen"], document["cluster_role"], document["keyfile"]
    # Heads outlive the Ebbtide that started them, so an identity file may be of one that knew no TLS.
    tls, auth_mode = document.get("tls"), document.get("cluster_auth_mode")
    return MongodOptions(
        dbpath=Path(document["dbpath"]),
        log_path=Path(document["log_path"]),
        listen=(
            UnixSocket(path=Path(listen["socket"]))
            if "socket" in listen
            else Tcp(host=listen["host"], port=int(listen["port"]))
        ),
        cache_gb=float(document["cache_gb"]),
        replica_set_name=document["replica_set_name"],
        cluster_role=ClusterRole(role) if role else None,
        keyfile=Path(keyfile) if keyfile else None,
        tls=_tls_from_document(tls) if tls else None,
        cluster_auth_mode=ClusterAuthMode(auth_mode) if auth_mode else None,
        authorization=bool(document.get("authorization", False)),
        oplog_size_mb=document["oplog_size_mb"],
        read_only=bool(document["read_only"]),
        set_parameters=dict(document["set_parameters"]),
        extra_flags=tuple(document["extra_flags"]),
    )


def _tls_to_document(tls: TlsFiles) -> dict[str, str]:
    return {
        "mode": tls.mode.value,
        "ca_file": str(tls.ca_file),
        "certificate_file": str(tls.certificate_file),
    }


def _tls_from_document(document: Mapping[str, str]) -> TlsFiles:
    return TlsFiles(
        mode=TlsMode(document["mode"]),
        ca_file=Path(document["ca_file"]),
        certificate_file=Path(document["certificate_file"]),
    )


def _render_listen(listen: Listen) -> list[str]:
    match listen:
        case UnixSocket(path=path):
            return ["--bind_ip", str(path), "--nounixsocket"]
        case Tcp(host=host, port=port):
            ipv6 = ["--ipv6"] if ":" in host else []
            return ["--bind_ip", host, "--port", str(port), "--nounixsocket", *ipv6]


def _render_value(value: ParameterValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return json.dumps(value, separators=(",", ":"))
    return str(value)


def _check_absolute(name: str, path: Path) -> None:
    if not path.is_absolute():
        raise InvalidInput(name, expected="an absolute path", got=str(path))
