"""Reaching a cluster's set and its head with the secrets that the catalog holds sealed."""

from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient

from ebbtide.domain.cluster import Cluster
from ebbtide.domain.replica_set import ClusterAuthMode, join_host_port
from ebbtide.mongod.deployment import (
    Credentials,
    Login,
    MemberCertificate,
    connect_to_member,
    connect_to_set,
    keyfile_credentials,
)
from ebbtide.mongod.tls import TlsMaterial
from ebbtide.sealing import ServiceKey

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ClusterAccess:
    """How to reach one cluster. Made anew whenever the cluster's record changes."""

    cluster: Cluster
    service_key: ServiceKey

    def credentials(self) -> Credentials | None:
        """Who to log in as; None where the set asks for nobody. Raises SealBroken."""
        cluster = self.cluster
        if cluster.username is None or cluster.password is None:
            return None
        password = self.service_key.open(cluster.password, record_id=cluster.id).decode()
        return Credentials(username=cluster.username, password=password, auth_source=cluster.auth_source)

    def keyfile(self) -> str | None:
        """The keyfile's contents, where the set has one. Raises SealBroken."""
        if self.cluster.keyfile is None:
            return None
        return self.service_key.open(self.cluster.keyfile, record_id=self.cluster.id).decode()

    def tls(self) -> TlsMaterial | None:
        """What to show and whom to believe, where the set uses TLS. Raises SealBroken."""
        cluster = self.cluster
        if cluster.tls_ca is None or cluster.tls_certificate is None:
            return None
        certificate = self.service_key.open(cluster.tls_certificate, record_id=cluster.id).decode()
        return TlsMaterial(ca=cluster.tls_ca, certificate=certificate)

    def set_client(self, *, timeout_seconds: float = 10.0) -> MongoClient[Document]:
        return connect_to_set(
            self.cluster.uri, self.credentials(), tls=self.tls(), timeout_seconds=timeout_seconds
        )

    def system_client(self, *, timeout_seconds: float = 10.0) -> MongoClient[Document]:
        """The whole set, as the server's own user: what the parts of a sharded cluster ask of each other."""
        login = member_login(self.keyfile(), self.cluster.cluster_auth_mode)
        return connect_to_set(self.cluster.uri, login, tls=self.tls(), timeout_seconds=timeout_seconds)

    def member_client(
        self, host_port: str, *, login: bool = True, timeout_seconds: float = 10.0
    ) -> MongoClient[Document]:
        """One member alone. `login=False` before the head has the set's users."""
        credentials = self.credentials() if login else None
        return connect_to_member(host_port, credentials, tls=self.tls(), timeout_seconds=timeout_seconds)

    def arbiter_client(self, host_port: str, *, timeout_seconds: float = 10.0) -> MongoClient[Document]:
        """A member that may not know our user (an arbiter knows none): to it we are a fellow member, as we can prove."""
        login = member_login(self.keyfile(), self.cluster.cluster_auth_mode)
        return connect_to_member(host_port, login, tls=self.tls(), timeout_seconds=timeout_seconds)

    def head_client(self, *, login: bool = True, timeout_seconds: float = 10.0) -> MongoClient[Document]:
        address = join_host_port(self.cluster.head_host, self.cluster.head_port)
        return self.member_client(address, login=login, timeout_seconds=timeout_seconds)


def member_login(keyfile: str | None, mode: ClusterAuthMode) -> Login | None:
    """How a fellow member logs in; None where members ask nothing of each other."""
    if mode is ClusterAuthMode.X509:
        return MemberCertificate()
    return keyfile_credentials(keyfile) if keyfile is not None else None
