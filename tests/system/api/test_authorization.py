"""Every route x every role x own and foreign project, compared with a table that is written out here.

A route without a row fails, and so does a row without a route. What is tried never gets as far as changing anything: the
bodies are wrong and the clusters unknown, so a caller who may is told of that, and one who may not is told so first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from ebbtide.api.app import create_app
from ebbtide.api.context import ApiContext
from ebbtide.api.operations import Need, Operation
from ebbtide.api.table import OPERATIONS, aliases_of
from ebbtide.credentials import new_account_secret, new_api_key
from ebbtide.domain.access import Grant, Role
from ebbtide.domain.access_list import AccessEntry
from ebbtide.domain.group import Group
from ebbtide.domain.ids import GroupId, new_id
from ebbtide.domain.service_account import TOKEN_LIFE, ServiceAccount
from ebbtide.settings import resolve_settings

TABLE: dict[str, str] = {
    # Who may (see MAY), and whether only from a listed address.
    "listGroups": "any",
    "getGroup": "read",
    "listClusters": "read",
    "getCluster": "read",
    "listLegacyBackupRestoreJobs": "read",
    "createLegacyBackupRestoreJob": "own listed",
    "getLegacyBackupRestoreJob": "read",
    "listLegacySnapshots": "read",
    "getLegacySnapshot": "read",
    "updateLegacySnapshotRetention": "own listed",
    "deleteLegacySnapshot": "own listed",
    "updateOwnSnapshot": "own listed",
    "undeleteSnapshot": "own listed",
    "getLegacySnapshotSchedule": "read",
    "updateLegacySnapshotSchedule": "own",
    "getOwnSnapshotSchedule": "read",
    "updateOwnSnapshotSchedule": "own",
    "listLegacyBackupCheckpoints": "read",
    "getLegacyBackupCheckpoint": "read",
    "listGroupsV2": "any",
    "getGroupV2": "read",
    "listClustersV2": "read",
    "getClusterV2": "read",
    "listClusterRestoreJobs": "read",
    "createClusterRestoreJob": "own listed",
    "getClusterRestoreJob": "read",
    "listClusterSnapshots": "read",
    "getClusterSnapshot": "read",
    "updateClusterSnapshot": "own listed",
    "deleteClusterSnapshot": "own listed",
    "getClusterSnapshotSchedule": "read",
    "updateClusterSnapshotSchedule": "own",
    "listClusterBackupCheckpoints": "read",
    "getClusterBackupCheckpoint": "read",
    "listProjects": "any",
    "getProject": "read",
    "listDeployments": "read",
    "getDeployment": "read",
    "listRestoreJobs": "read",
    "createRestoreJob": "write listed",
    "getRestoreJob": "read",
    "listCheckpoints": "read",
    "getCheckpoint": "read",
    "createOnDemandSnapshot": "write",
    "listRestorableTimeRanges": "survey",
    "listBackupConfigs": "read",
    "getBackupConfig": "read",
    "changeBackupConfig": "write",
    "listHostRestoreJobs": "read",
    "createHostRestoreJob": "write listed",
    "getHostRestoreJob": "read",
    "listHostSnapshots": "read",
    "getHostSnapshot": "read",
    "listSnapshots": "read",
    "getSnapshot": "read",
    "changeSnapshot": "write",
    "deleteSnapshot": "write listed",
    "getSnapshotSchedule": "read",
    "changeSnapshotSchedule": "write",
    "listOwnProjects": "any",
    "createProject": "service listed",
    "getOwnProject": "read",
    "renameProject": "own listed",
    "listMembers": "own",
    "setMemberRoles": "own listed",
    "listOwnClusters": "read",
    "registerCluster": "own listed",
    "getOwnCluster": "read",
    "changeCluster": "rule listed",
    "removeCluster": "own listed",
    "rejoinHead": "own listed",
    "detachCluster": "own listed",
    "pauseCluster": "write listed",
    "resumeCluster": "write listed",
    "renewCertificate": "own listed",
    "setCredentials": "own listed",
    "listOwnSnapshots": "read",
    "createSnapshot": "write listed",
    "getOwnSnapshot": "read",
    "listOwnCheckpoints": "read",
    "createCheckpoint": "write listed",
    "getOwnCheckpoint": "read",
    "getOwnRestoreJob": "read",
    "cancelRestoreJob": "write listed",
    "createPointInTimeRestore": "own listed",
    "setRestoreTarget": "own listed",
    "listHosts": "read",
    "declareHost": "own listed",
    "getHost": "read",
    "removeHost": "own listed",
    "listOwnHostSnapshots": "read",
    "createHostSnapshot": "write listed",
    "getOwnHostSnapshot": "read",
    "deleteHostSnapshot": "write listed",
    "createAutomatedRestore": "own listed",
    "undoAutomatedRestore": "own listed",
    "listKeys": "any",
    "createKey": "owners listed",
    "getKey": "holder",
    "changeKey": "holder listed",
    "rotateKey": "holder listed",
    "revokeKey": "holder listed",
    "listAccessListEntriesOfKey": "holder",
    "addAccessListEntriesOfKey": "holder",
    "getAccessListEntryOfKey": "holder",
    "removeAccessListEntryOfKey": "holder",
    "listServiceAccounts": "any",
    "createServiceAccount": "owners listed",
    "getServiceAccount": "holder",
    "changeServiceAccount": "holder listed",
    "removeServiceAccount": "holder listed",
    "addServiceAccountSecret": "holder listed",
    "removeServiceAccountSecret": "holder listed",
    "listAccessListEntriesOfServiceAccount": "holder",
    "addAccessListEntriesOfServiceAccount": "holder",
    "getAccessListEntryOfServiceAccount": "holder",
    "removeAccessListEntryOfServiceAccount": "holder",
    "getOplogRanges": "read",
    "startPrune": "service listed",
    "getPrune": "service",
    "listEvents": "read",
    "listAllEvents": "service",
    "getStatus": "any",
}

OPEN = {
    "/health/live",
    "/health/ready",
    "/metrics",  # to the addresses of metrics.allow; see test_metrics
    "/backup/restore/v2/pull/{jobId}/{key}/{fileName}",  # the link is the right
    "/backup/restore/v3/pull/{jobId}/{fileName}",
    "/api/docs",  # the same for everybody, of no installation
    "/api/docs.css",
    "/api/openapi.json",
    "/api/oauth/token",  # by secret; see test_service_accounts
    "/api/oauth/revoke",
}
"""Routes that no login of the table's kind guards, each for its reason."""

HERE, THERE, EVERYWHERE = "here", "there", "everywhere"

Who = tuple[Role | None, str]
"""A caller's one role, and where it has it."""

WHO: tuple[Who, ...] = (
    (None, HERE),
    (Role.GROUP_READ_ONLY, HERE),
    (Role.GROUP_BACKUP_ADMIN, HERE),
    (Role.GROUP_OWNER, HERE),
    (Role.GROUP_READ_ONLY, THERE),
    (Role.GROUP_BACKUP_ADMIN, THERE),
    (Role.GROUP_OWNER, THERE),
    (Role.GLOBAL_READ_ONLY, EVERYWHERE),
    (Role.GLOBAL_BACKUP_ADMIN, EVERYWHERE),
    (Role.GLOBAL_OWNER, EVERYWHERE),
)

MEMBERS = {who for who in WHO if who[0] is not None and who[1] != THERE}
OWNERS = {(Role.GROUP_OWNER, HERE), (Role.GLOBAL_OWNER, EVERYWHERE)}

MAY: dict[str, set[Who]] = {
    "any": set(WHO),
    "read": MEMBERS,
    "write": OWNERS | {(Role.GROUP_BACKUP_ADMIN, HERE), (Role.GLOBAL_BACKUP_ADMIN, EVERYWHERE)},
    "survey": OWNERS
    | {
        (Role.GROUP_BACKUP_ADMIN, HERE),
        (Role.GLOBAL_BACKUP_ADMIN, EVERYWHERE),
        (Role.GLOBAL_READ_ONLY, EVERYWHERE),
    },
    "own": OWNERS,
    "holder": OWNERS,  # of a key or account with a role here; it may itself too, see below
    "owners": OWNERS | {(Role.GROUP_OWNER, THERE)},  # of anything: the body says of what
    "service": {(Role.GLOBAL_OWNER, EVERYWHERE)},
    "rule": {(Role.GLOBAL_OWNER, EVERYWHERE)},  # as `service`, about something in a project
}


@dataclass(frozen=True)
class Callers:
    """Bearer tokens by role, and what paths may name."""

    service: Any
    session: requests.Session
    foreign: Group
    tokens: dict[Who, str]
    without_list: str
    from_elsewhere: str

    def call(self, operation: Operation, token: str | None, *, path: str | None = None) -> requests.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        address = f"{self.service.url}{path or self.path(operation)}"
        body = {"x": 1} if operation.takes_body else None
        return self.session.request(operation.method, address, headers=headers, json=body, timeout=60)

    def path(self, operation: Operation) -> str:
        """Here, about nothing that is there; keys and accounts are made anew, as some calls would end them."""
        values = {
            "groupId": self.service.group.id,
            "clusterName": "nothing",
            "memberName": "nobody",
            "runId": "nothing",
            "entry:path": "10.9.9.9",
            "publicKey": self.new_key() if "{publicKey}" in operation.path else "",
            "clientId": self.new_account() if "{clientId}" in operation.path else "",
        }
        path = operation.path
        for segment, value in values.items():
            path = path.replace(f"{{{segment}}}", value)
        for segment in ("clusterId", "hostId", "jobId", "snapshotId", "checkpointId", "secretId"):
            path = path.replace(f"{{{segment}}}", new_id() + ("f" * 8 if segment == "hostId" else ""))
        return path

    def new_key(self) -> str:
        key, _ = new_api_key(
            description="",
            grants=(Grant(role=Role.GROUP_READ_ONLY, group_id=self.service.group.id),),
            access_list=(),
            owner=False,
            service_key=self.service.service_key,
            clock=self.service.clock,
        )
        self.service.catalog.api_keys.insert(key)
        return key.public_key

    def new_account(self) -> str:
        account, _ = new_account(
            self.service, Grant(role=Role.GROUP_READ_ONLY, group_id=self.service.group.id), allow=()
        )
        return account.client_id


def new_account(service: Any, grant: Grant | None, *, allow: tuple[str, ...]) -> tuple[ServiceAccount, str]:
    now = service.clock.now()
    secret, text = new_account_secret(now=now, life=TOKEN_LIFE)
    account = ServiceAccount(
        id=new_id(),
        name="caller",
        description="",
        grants=() if grant is None else (grant,),
        access_list=tuple(AccessEntry(cidr=cidr, created=now) for cidr in allow),
        secrets=(secret,),
        created=now,
    )
    service.catalog.service_accounts.insert(account)
    return account, text


@pytest.fixture(scope="module")
def callers(start_service: Callable[..., Any]) -> Iterator[Callers]:
    service = start_service()
    foreign = Group(id=GroupId(new_id()), name="Foreign", created=service.clock.now())
    service.catalog.groups.insert(foreign)
    groups = {HERE: service.group.id, THERE: foreign.id, EVERYWHERE: None}

    with requests.Session() as session:

        def token(who: Who, allow: tuple[str, ...]) -> str:
            role, where = who
            grant = None if role is None else Grant(role=role, group_id=groups[where])
            account, secret = new_account(service, grant, allow=allow)
            answer = session.post(
                f"{service.url}/api/oauth/token",
                data={"grant_type": "client_credentials"},
                auth=(account.client_id, secret),
                timeout=60,
            )
            return str(answer.json()["access_token"])

        owner = (Role.GLOBAL_OWNER, EVERYWHERE)
        yield Callers(
            service=service,
            session=session,
            foreign=foreign,
            tokens={who: token(who, ("127.0.0.1/32",)) for who in WHO},
            without_list=token(owner, ()),
            from_elsewhere=token(owner, ("192.0.2.0/24",)),
        )


def verdict(answer: requests.Response) -> str:
    """ "may", or the code of the refusal that has to do with the caller."""
    code = answer.json().get("errorCode", "") if answer.content else ""
    if answer.status_code == 401:
        return str(code) or "unknown caller"
    return str(code) if code == "IP_ADDRESS_NOT_ON_ACCESS_LIST" else "may"


def expected_verdict(row: str, who: Who) -> str:
    if who in MAY[row]:
        return "may"
    about_the_group = row in ("read", "write", "survey", "own", "rule")
    return "NOT_IN_GROUP" if about_the_group and who not in MEMBERS else "USER_UNAUTHORIZED"


def test_every_operation_has_a_row_and_every_row_an_operation() -> None:
    assert sorted(TABLE) == sorted(operation.name for operation in OPERATIONS)


def test_every_route_is_an_operation_or_open_for_a_reason(service: Any) -> None:
    context = ApiContext(
        settings=resolve_settings(flags={}, environment={}, file=None),
        catalog=service.catalog,
        service_key=service.service_key,
        clock=service.clock,
        repository_path=service.repository_path,
        external_url="http://here",
        data_dir=None,
        open_archive=service.archives.open,
    )
    routes = {getattr(route, "path", "") for route in create_app(context).router.routes}
    known = {spelling for o in OPERATIONS for spelling in (o.path, *aliases_of(o.path))}
    assert routes - known <= OPEN


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_route_lets_in_whom_the_table_says(callers: Callers, operation: Operation) -> None:
    row, _, listed = TABLE[operation.name].partition(" ")
    found = {who: verdict(callers.call(operation, callers.tokens[who])) for who in WHO}
    assert found == {who: expected_verdict(row, who) for who in WHO}

    assert verdict(callers.call(operation, None)) == "unknown caller"
    refused = "IP_ADDRESS_NOT_ON_ACCESS_LIST"
    assert verdict(callers.call(operation, callers.without_list)) == (refused if listed else "may")
    assert verdict(callers.call(operation, callers.from_elsewhere)) == refused


def test_what_is_another_projects_is_not_found_under_ones_own(callers: Callers) -> None:
    """An owner here names clusters, snapshots and jobs of another project in paths of this one."""
    service = callers.service
    cluster = service.new_cluster("Elsewhere", group_id=callers.foreign.id)
    snapshot = service.new_snapshot(
        group_id=callers.foreign.id, cluster_id=cluster.id, cluster_name=cluster.name
    )
    job = service.new_job(snapshot)
    service.catalog._client["ebbtide"].restore_jobs.update_one(
        {"_id": job.id}, {"$set": {"group_id": callers.foreign.id, "cluster_id": cluster.id}}
    )
    token = callers.tokens[Role.GROUP_OWNER, HERE]
    before, tried = service.job(job.id), 0
    for operation in OPERATIONS:
        mine = {"clusterName": service.cluster.name, "clusterId": service.cluster.id}
        theirs = {
            "clusterName": cluster.name,
            "clusterId": cluster.id,
            "snapshotId": snapshot.id,
            "jobId": job.id,
        }
        for clusters in (mine, {}):
            path = operation.path.replace("{groupId}", service.group.id)
            for segment, value in {**theirs, **clusters}.items():
                path = path.replace(f"{{{segment}}}", value)
            names_theirs = any(value in path for value in theirs.values())
            if "{" in path or not names_theirs or "{groupId}" not in operation.path:
                continue
            tried += 1
            answer = callers.call(operation, token, path=path)
            if operation.need is Need.RULE:
                assert answer.status_code == 401, (operation.name, path, answer.text)
                continue
            assert answer.status_code in (400, 404), (operation.name, path, answer.text)
            assert answer.status_code == 404 or operation.takes_body, (operation.name, path)
    assert tried > 50
    assert service.job(job.id) == before
    assert service.catalog.clusters.find(cluster.id) == cluster


def test_a_key_and_an_account_see_and_rotate_themselves_and_nobody_else(callers: Callers) -> None:
    service = callers.service
    key = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    other = service.new_key(Role.GROUP_READ_ONLY, group_id=service.group.id)
    keys = "/api/ebbtide/v1/keys"
    assert [k["publicKey"] for k in service.call("GET", keys, key=key).json()["results"]] == [key[0]]
    assert service.call("GET", f"{keys}/{other[0]}", key=key).status_code == 401
    unknown = service.call("GET", f"{keys}/zzzzzzzz", key=key)
    assert service.call("GET", f"{keys}/{other[0]}", key=key).content == unknown.content
    rotated = service.call("POST", f"{keys}/{key[0]}/rotate", key=key).json()
    assert service.call("GET", keys, key=key).status_code == 401
    assert service.call("GET", keys, key=(key[0], rotated["privateKey"])).status_code == 200
    for method, path in (("POST", "/rotate"), ("DELETE", ""), ("PATCH", "")):
        refused = service.call(
            method, f"{keys}/{other[0]}{path}", key=(key[0], rotated["privateKey"]), json={}
        )
        assert (refused.status_code, refused.json()["errorCode"]) == (401, "USER_UNAUTHORIZED")


def test_nobody_gives_away_more_than_their_own(callers: Callers) -> None:
    service, foreign = callers.service, callers.foreign
    owner = service.new_key(Role.GROUP_OWNER, group_id=service.group.id)
    keys = "/api/ebbtide/v1/keys"

    def give(role: Role, group_id: str | None) -> tuple[int, str]:
        grant = {"role": role.value, **({} if group_id is None else {"groupId": group_id})}
        made = service.call("POST", keys, key=owner, json={"grants": [grant]})
        changed = service.call("PATCH", f"{keys}/{mine}", key=owner, json={"grants": [grant]})
        assert made.status_code == changed.status_code
        return made.status_code, str(made.json().get("errorCode", ""))

    mine = service.call(
        "POST", keys, key=owner, json={"grants": [{"role": "GROUP_READ_ONLY", "groupId": service.group.id}]}
    ).json()["publicKey"]
    assert give(Role.GROUP_OWNER, service.group.id) == (200, "")
    assert give(Role.GROUP_READ_ONLY, service.group.id) == (200, "")
    for role, group_id in (
        (Role.GROUP_READ_ONLY, foreign.id),
        (Role.GROUP_READ_ONLY, new_id()),
        (Role.GLOBAL_READ_ONLY, None),
        (Role.GLOBAL_OWNER, None),
    ):
        assert give(role, group_id) == (401, "USER_UNAUTHORIZED")
    # A key with a role elsewhere too is not this owner's to rule.
    both = [{"role": "GROUP_READ_ONLY", "groupId": g} for g in (service.group.id, foreign.id)]
    shared = service.call("POST", keys, json={"grants": both}).json()["publicKey"]
    assert service.call("POST", f"{keys}/{shared}/rotate", key=owner).status_code == 401
    assert service.call("DELETE", f"{keys}/{shared}", key=owner).status_code == 401
