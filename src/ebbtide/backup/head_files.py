"""What a head's mongod reads besides its data, and the options that name it.

    heads/<cluster id>/keyfile           0600, where members prove with a keyfile that they belong together
    heads/<cluster id>/ca.pem            0600, where the set uses TLS: whom to believe
    heads/<cluster id>/certificate.pem   0600, the head's own certificate and its private key

The catalog has all of it sealed; these are copies that only a mongod needs.
Crash: a file is there whole or not at all, and is written again at the next start.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.domain.cluster import Cluster, Head
from ebbtide.mongod.options import ClusterRole, MongodOptions, Tcp, TlsFiles

KEYFILE = "keyfile"
CA_FILE = "ca.pem"
CERTIFICATE_FILE = "certificate.pem"


def write_secrets(directory: Path, access: ClusterAccess) -> None:
    """Write what the head needs into its directory. Raises SealBroken, OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in _secrets(access).items():
        _write_private(directory / name, text)


def secrets_are_current(directory: Path, access: ClusterAccess) -> bool:
    """Whether the files hold what the catalog holds. Raises SealBroken."""
    try:
        return all((directory / name).read_text() == text for name, text in _secrets(access).items())
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def keyfile_is_current(directory: Path, access: ClusterAccess) -> bool:
    """Whether the keyfile there is the one that the catalog holds. Raises SealBroken."""
    path = directory / KEYFILE
    return access.keyfile() == (path.read_text() if path.exists() else None)


def _secrets(access: ClusterAccess) -> Mapping[str, str]:
    keyfile, tls = access.keyfile(), access.tls()
    texts = {} if keyfile is None else {KEYFILE: keyfile}
    return texts if tls is None else texts | {CA_FILE: tls.ca, CERTIFICATE_FILE: tls.certificate}


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def head_options(
    cluster: Cluster, head: Head, *, directory: Path, cache_gb: float, sync_preference: str
) -> MongodOptions:
    """How to run the head's mongod: as its fellow members run, as far as they have to agree. Pure.

    `sync_preference` is where initial sync reads, should there be one. A config server has no members that do not say
    they are of one.
    """
    tls = None
    if cluster.tls_certificate is not None:
        tls = TlsFiles(
            mode=cluster.tls_mode,
            ca_file=directory / CA_FILE,
            certificate_file=directory / CERTIFICATE_FILE,
        )
    return MongodOptions(
        dbpath=directory / "db",
        log_path=directory / "mongod.log",
        listen=Tcp(host=head.host, port=head.port),
        cache_gb=cache_gb,
        replica_set_name=cluster.replica_set_name,
        cluster_role=_cluster_role(cluster),
        keyfile=directory / KEYFILE if cluster.keyfile is not None else None,
        tls=tls,
        cluster_auth_mode=cluster.cluster_auth_mode if cluster.cluster_auth_mode.uses_certificates else None,
        authorization=cluster.authorization,
        oplog_size_mb=max(1, cluster.oplog_bytes // 1024**2) if cluster.oplog_bytes else None,
        set_parameters={"initialSyncSourceReadPreference": sync_preference},
    )


def _cluster_role(cluster: Cluster) -> ClusterRole | None:
    if cluster.is_config_server:
        return ClusterRole.CONFIG
    return None if cluster.shard_name is None else ClusterRole.SHARD
