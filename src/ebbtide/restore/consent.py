"""The owner's consent: making a cluster a target of restores, with an account that may write, and taking that back.

The account for backup cannot write, so consent needs a second one. It is proved here, before it is recorded (sealed,
never shown), and again before each restore. A sharded cluster is written by its keyfile, which is known since it was
registered: consent to that names no account. Crash: one write records all of it.
"""

from dataclasses import dataclass, field
from typing import Any

from pymongo import MongoClient

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.automated_restore import RESTORE_ROLES, missing_restore_roles
from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState
from ebbtide.domain.event import EventLevel
from ebbtide.errors import InvalidInput, Refused
from ebbtide.events import record_event
from ebbtide.mongod.deployment import Credentials, DeploymentError, Login, run_admin
from ebbtide.restore.target_access import TargetAccess, connect_writer
from ebbtide.sealing import ServiceKey

Document = dict[str, Any]

ANSWER_SECONDS = 10.0
"""How long the set may take to answer; an election on a healthy set is shorter."""


@dataclass(frozen=True, kw_only=True)
class RestoreAccount:
    """The account that may write, as a person gave it."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    auth_source: str = "admin"

    def credentials(self) -> Credentials | None:
        if self.username is None or self.password is None:
            return None
        return Credentials(username=self.username, password=self.password, auth_source=self.auth_source)


def allow_restores(
    cluster: Cluster,
    account: RestoreAccount,
    *,
    catalog: Catalog,
    service_key: ServiceKey,
    clock: Clock,
    actor: str,
) -> Cluster:
    """Make a cluster a target of restores. Asks its set, which takes seconds.

    Raises InvalidInput for an account that is missing or is the one for backup, Refused for one that the set does not
    accept or that may not do enough, Unreachable where the set has no primary that answers.
    """
    if cluster.state is not ClusterState.ACTIVE:
        raise Refused(f"{cluster.name} is not backed up (any more)")
    if cluster.parent_id is not None:
        raise Refused(
            f"{cluster.name} is a part of a sharded cluster: replaced alone it would not fit the others",
            hint="download it and its siblings as one batch instead",
        )
    _require_account(cluster, account)
    login: Login | None = account.credentials()
    if cluster.kind is ClusterKind.SHARDED:
        login = TargetAccess(cluster=cluster, service_key=service_key).login()
    prove_account(cluster, login, service_key=service_key)
    password = None
    if account.password is not None:
        password = service_key.seal(account.password.encode(), record_id=cluster.restore_secret_id)
    catalog.clusters.set_restore_target(
        cluster.id,
        restore_target=True,
        username=account.username,
        auth_source=account.auth_source,
        password=password,
    )
    who = f", as the user {account.username}" if account.username else ""
    _record(catalog, clock, cluster, actor, f"restores may replace the data of {cluster.name}{who}")
    return catalog.clusters.find(cluster.id) or cluster


def forbid_restores(cluster: Cluster, *, catalog: Catalog, clock: Clock, actor: str) -> Cluster:
    """Make a cluster no target any more, and forget its account.

    Raises Refused while a restore into it is not over: it needs the account, and be it to let writers go.
    """
    active = catalog.automated_restores.find_active(cluster.id)
    if active is not None:
        raise Refused(
            f"restore job {active.id} into {cluster.name} is not over",
            hint=f"ebbtide restores cancel {active.id}, or wait: ebbtide restores watch {active.id}",
        )
    if cluster.restore_target:
        catalog.clusters.set_restore_target(
            cluster.id, restore_target=False, username=None, auth_source="admin", password=None
        )
        _record(
            catalog, clock, cluster, actor, f"restores may not replace the data of {cluster.name} any more"
        )
    return catalog.clusters.find(cluster.id) or cluster


def prove_account(cluster: Cluster, login: Login | None, *, service_key: ServiceKey) -> None:
    """Log in and see that the account may do what a restore does. Raises Refused, Unreachable."""
    who = login.username if isinstance(login, Credentials) else "us" if login else "nobody"
    is_sharded = cluster.kind is ClusterKind.SHARDED
    with connect_writer(cluster, login, service_key, timeout_seconds=ANSWER_SECONDS) as client:
        try:
            hello = run_admin(client, "hello")
            # The server's own user may do everything, and shows no privileges.
            asks_roles = login is not None and not is_sharded
            missing = find_missing_roles(client) if asks_roles else []
        except DeploymentError as error:
            needs = "its keyfile" if is_sharded else f"the roles {', '.join(RESTORE_ROLES)} on admin"
            raise Refused(
                f"{cluster.name} does not let {who} in: {error.message}", hint=f"the account needs {needs}"
            ) from error
    if not is_sharded and hello.get("setName") != cluster.replica_set_name:
        raise Refused(f"what answers for {cluster.name} is {hello.get('setName')}, not its replica set")
    if missing:
        raise Refused(
            f"the account {who} of {cluster.name} lacks the roles {', '.join(missing)}",
            hint=f"db.getSiblingDB('admin').grantRolesToUser('{who}', {missing})",
        )


def find_missing_roles(client: "MongoClient[Document]") -> list[str]:
    """The roles that the client's account lacks for a restore."""
    status = run_admin(client, "connectionStatus", showPrivileges=True)
    return missing_restore_roles(status["authInfo"]["authenticatedUserPrivileges"])


def _require_account(cluster: Cluster, account: RestoreAccount) -> None:
    """A second account, where one is needed; none, where nothing would be done with it."""
    if cluster.kind is ClusterKind.SHARDED:
        if account.username is not None:
            raise InvalidInput(
                "restoreUsername",
                expected="none: a sharded cluster is written by its keyfile, as no account may",
            )
        return
    if cluster.username is None:
        if account.username is not None:
            raise InvalidInput("restoreUsername", expected="none: this set asks for no login")
        return
    if account.username is None or account.password is None:
        raise InvalidInput(
            "restoreUsername",
            expected="an account that may write, with its password",
            hint=f"one with the roles {', '.join(RESTORE_ROLES)} on admin",
        )
    if (account.username, account.auth_source) == (cluster.username, cluster.auth_source):
        raise InvalidInput(
            "restoreUsername",
            expected="a second account: the one for backup should not be able to write",
            got=account.username,
        )


def _record(catalog: Catalog, clock: Clock, cluster: Cluster, actor: str, message: str) -> None:
    record_event(
        catalog,
        clock,
        level=EventLevel.WARNING,
        kind="cluster.restore_target",
        message=message,
        group_id=cluster.group_id,
        cluster_id=cluster.id,
        actor=actor,
    )
