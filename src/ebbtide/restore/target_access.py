"""Reaching the target of an automated restore: as the account that may write, and as the one that looks.

The writing client retries nothing by itself, so its writes carry no transaction numbers: that is how the target's oplog
tells them from everybody else's (`domain.automated_restore.is_foreign_write`).

What rebuilds a sharded cluster is allowed to no account: it is written as the server's own user.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pymongo import MongoClient

from ebbtide.backup.head_connection import ClusterAccess, member_login
from ebbtide.domain.cluster import Cluster, ClusterKind
from ebbtide.domain.sharding import CONFIG_PART, check_versions
from ebbtide.errors import Refused
from ebbtide.mongod import sharding
from ebbtide.mongod.deployment import Credentials, Login, connect_to_set
from ebbtide.sealing import ServiceKey

Document = dict[str, Any]

WRITER_OPTIONS: Mapping[str, Any] = {
    "retryWrites": False,
    "readPreference": "primary",
    "w": "majority",
    "appname": "ebbtide restore",
    # Building the indexes of a large collection is one command.
    "socketTimeoutMS": None,
}


@dataclass(frozen=True, kw_only=True)
class TargetAccess:
    """How to reach one target. Made anew whenever the cluster's record changes."""

    cluster: Cluster
    service_key: ServiceKey

    def login(self) -> Login | None:
        """Who writes; None where the set asks for nobody. Raises SealBroken, Refused where an account is missing."""
        cluster = self.cluster
        if cluster.kind is ClusterKind.SHARDED:
            return self._system_login()
        if cluster.username is None:
            return None
        if cluster.restore_username is None or cluster.restore_password is None:
            raise Refused(f"{cluster.name} has no account that may write")
        password = self.service_key.open(cluster.restore_password, record_id=cluster.restore_secret_id)
        return Credentials(
            username=cluster.restore_username,
            password=password.decode(),
            auth_source=cluster.restore_auth_source,
        )

    def _system_login(self) -> Login:
        login = member_login(self.looking.keyfile(), self.cluster.cluster_auth_mode)
        if login is None:
            raise Refused(
                f"{self.cluster.name} has no keyfile here, and a sharded cluster is written with nothing else",
                hint=f"ebbtide clusters credentials {self.cluster.name} --keyfile FILE",
            )
        return login

    def writer(self, *, uri: str | None = None, timeout_seconds: float = 30.0) -> "MongoClient[Document]":
        """A new client, as who may write, of the whole set; of a sharded cluster, of its config server, or of the part
        that `uri` names."""
        cluster = self.cluster if uri is None else replace(self.cluster, uri=uri)
        return connect_writer(cluster, self.login(), self.service_key, timeout_seconds=timeout_seconds)

    @contextmanager
    def parts(self) -> "Iterator[dict[str, MongoClient[Document]]]":
        """Clients of all parts of a sharded cluster as it is now, by name, as who may write.

        Raises Refused for a version whose commands were not tried, Unreachable, DeploymentError.
        """
        with ExitStack() as stack:
            config = stack.enter_context(self.writer())
            topology = sharding.read_topology(config)
            clients = {CONFIG_PART: config} | {
                shard.name: stack.enter_context(self.writer(uri=shard.uri)) for shard in topology.shards
            }
            check_versions(sharding.read_versions(clients))
            yield clients

    def reader(self, *, timeout_seconds: float = 10.0) -> "MongoClient[Document]":
        """A new client of the whole set as the account for backup, which cannot write and reads the oplog."""
        return self.looking.set_client(timeout_seconds=timeout_seconds)

    @property
    def looking(self) -> ClusterAccess:
        return ClusterAccess(cluster=self.cluster, service_key=self.service_key)


def connect_writer(
    cluster: Cluster, login: Login | None, service_key: ServiceKey, *, timeout_seconds: float
) -> "MongoClient[Document]":
    """A new client of a cluster's set that writes as `login`."""
    tls = ClusterAccess(cluster=cluster, service_key=service_key).tls()
    return connect_to_set(
        cluster.uri, login, tls=tls, timeout_seconds=timeout_seconds, options=WRITER_OPTIONS
    )
