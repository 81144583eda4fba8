"""The command line of a mongod, as tables."""

import json
from pathlib import Path
from typing import Any

import pytest

from ebbtide.domain.replica_set import ClusterAuthMode, TlsMode
from ebbtide.errors import InvalidInput
from ebbtide.mongod.options import (
    SOCKET_PATH_BYTES_MAX,
    ClusterRole,
    Listen,
    MongodOptions,
    Tcp,
    TlsFiles,
    UnixSocket,
    connection_uri,
    options_from_document,
    options_to_document,
    render_arguments,
)

LOOPBACK = Tcp(host="127.0.0.1", port=20001)
TLS = TlsFiles(mode=TlsMode.REQUIRE, ca_file=Path("/ca"), certificate_file=Path("/certificate"))


def options(**changes: Any) -> MongodOptions:
    values: dict[str, Any] = {
        "dbpath": Path("/d/data"),
        "log_path": Path("/d/log"),
        "listen": LOOPBACK,
        "cache_gb": 0.25,
    }
    return MongodOptions(**(values | changes))


def test_whole_command_line_of_a_plain_mongod() -> None:
    assert render_arguments(options()) == [
        *("--dbpath", "/d/data", "--logpath", "/d/log", "--logappend"),
        *("--bind_ip", "127.0.0.1", "--port", "20001", "--nounixsocket"),
        *("--wiredTigerCacheSizeGB", "0.25"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"listen": UnixSocket(path=Path("/s/m.sock"))}, ["--bind_ip", "/s/m.sock", "--nounixsocket"]),
        (
            {"listen": Tcp(host="::1", port=5)},
            ["--bind_ip", "::1", "--port", "5", "--nounixsocket", "--ipv6"],
        ),
        ({"cache_gb": 8}, ["--wiredTigerCacheSizeGB", "8"]),
        ({"replica_set_name": "rs0"}, ["--replSet", "rs0"]),
        ({"cluster_role": ClusterRole.SHARD}, ["--shardsvr"]),
        ({"cluster_role": ClusterRole.CONFIG}, ["--configsvr"]),
        ({"keyfile": Path("/k")}, ["--keyFile", "/k"]),
        (
            {"tls": TLS},
            [*("--tlsMode", "requireTLS", "--tlsCAFile", "/ca"), "--tlsCertificateKeyFile", "/certificate"],
        ),
        (
            {"tls": TLS, "cluster_auth_mode": ClusterAuthMode.X509},
            ["--tlsCertificateKeyFile", "/certificate", "--clusterAuthMode", "x509"],
        ),
        ({"authorization": True}, ["--auth"]),
        ({"oplog_size_mb": 990}, ["--oplogSize", "990"]),
        ({"read_only": True}, ["--queryableBackupMode"]),
        ({"set_parameters": {"ttlMonitorEnabled": False}}, ["--setParameter", "ttlMonitorEnabled=false"]),
        ({"set_parameters": {"a": 3}}, ["--setParameter", "a=3"]),
        (
            {"set_parameters": {"recoverToOplogTimestamp": {"timestamp": {"t": 1, "i": 2}}}},
            ["--setParameter", 'recoverToOplogTimestamp={"timestamp":{"t":1,"i":2}}'],
        ),
        ({"extra_flags": ("--syncdelay", "5")}, ["--syncdelay", "5"]),
    ],
)
def test_each_option_makes_its_arguments(changes: dict[str, Any], expected: list[str]) -> None:
    rendered = render_arguments(options(**changes))
    places = [i for i in range(len(rendered)) if rendered[i : i + len(expected)] == expected]
    assert len(places) == 1


def test_a_parameter_of_the_caller_replaces_ours() -> None:
    rendered = render_arguments(options(set_parameters={"diagnosticDataCollectionEnabled": True}))
    assert "diagnosticDataCollectionEnabled=true" in rendered
    assert "diagnosticDataCollectionEnabled=false" not in rendered


@pytest.mark.parametrize(
    ("listen", "uri"),
    [
        (LOOPBACK, "mongodb://127.0.0.1:20001/?directConnection=true"),
        (Tcp(host="0.0.0.0", port=1), "mongodb://127.0.0.1:1/?directConnection=true"),
        (Tcp(host="::1", port=1), "mongodb://[::1]:1/?directConnection=true"),
        (UnixSocket(path=Path("/s p/m.sock")), "mongodb://%2Fs%20p%2Fm.sock/?directConnection=true"),
    ],
)
def test_connection_uri(listen: Listen, uri: str) -> None:
    assert connection_uri(listen) == uri


def test_socket_path_may_have_107_bytes_and_no_more() -> None:
    longest = "/" + "é" * 53
    assert len(longest.encode()) == SOCKET_PATH_BYTES_MAX
    UnixSocket(path=Path(longest))
    with pytest.raises(InvalidInput, match="107 bytes"):
        UnixSocket(path=Path(longest + "x"))


@pytest.mark.parametrize(
    "changes",
    [
        {"dbpath": Path("relative")},
        {"log_path": Path("relative")},
        {"keyfile": Path("relative")},
        {"cache_gb": 0.1},
        {"cache_gb": float("nan")},
        {"oplog_size_mb": 0},
        {"replica_set_name": ""},
        {"set_parameters": {"a=1 --b": 2}},
    ],
)
def test_what_cannot_be_rendered_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        options(**changes)


@pytest.mark.parametrize(("host", "port"), [("", 1), ("a,b", 1), ("a/b", 1), ("a", 0), ("a", 65536)])
def test_impossible_addresses_are_refused(host: str, port: int) -> None:
    with pytest.raises(InvalidInput):
        Tcp(host=host, port=port)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "listen": UnixSocket(path=Path("/s/m.sock")),
            "replica_set_name": "rs0",
            "cluster_role": ClusterRole.CONFIG,
            "keyfile": Path("/k"),
            "oplog_size_mb": 100,
            "read_only": True,
            "set_parameters": {"a": {"b": 1}, "c": False},
            "extra_flags": ("--syncdelay", "5"),
            "tls": TLS,
            "cluster_auth_mode": ClusterAuthMode.SEND_X509,
            "authorization": True,
        },
    ],
)
def test_options_survive_json(changes: dict[str, Any]) -> None:
    before = options(**changes)
    assert options_from_document(json.loads(json.dumps(options_to_document(before)))) == before


def test_options_that_were_stored_before_there_was_tls_are_read() -> None:
    document = options_to_document(options())
    for name in ("tls", "cluster_auth_mode", "authorization"):
        del document[name]
    assert options_from_document(document) == options()


def test_members_that_know_each_other_by_certificates_need_some() -> None:
    with pytest.raises(InvalidInput, match="certificates"):
        options(cluster_auth_mode=ClusterAuthMode.X509)
