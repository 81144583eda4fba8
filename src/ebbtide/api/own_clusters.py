"""Ebbtide's own API: registering, showing and removing clusters.

Contents of files are taken, never a path on the server. Passwords, keyfiles and certificates with their private keys
are sealed before they are stored and are in no answer.
"""

from typing import Any

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.lists import slice_answer
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document
from ebbtide.api.wire_oplog import archive_document
from ebbtide.api.wire_own import (
    PartShown,
    checks_document,
    dry_run_document,
    own_cluster_document,
    sharded_dry_run_document,
)
from ebbtide.backup.head_requests import set_mongod
from ebbtide.backup.registration import check_registration, register_cluster
from ebbtide.backup.registration_checks import Check, RegistrationRequest
from ebbtide.backup.sharded_discovery import whole_cluster_request
from ebbtide.backup.sharded_registration import (
    check_sharded_registration,
    register_sharded_cluster,
    remove_registered,
)
from ebbtide.catalog.clusters import NameTaken
from ebbtide.domain.access import is_global_owner
from ebbtide.domain.bounds import waiting_for_space
from ebbtide.domain.cluster import CLUSTER_NAME, CLUSTER_NAME_LENGTH_MAX, Cluster, ClusterKind

PORT_MAX = 65535
_KNOWN = (
    "name",
    "uri",
    "username",
    "password",
    "authSource",
    "keyfile",
    "tlsCa",
    "tlsCertificate",
    "headHost",
    "headPort",
    "dryRun",
)


def parse_registration(values: dict[str, Any]) -> tuple[RegistrationRequest, bool]:
    """The request in a body, and whether it is a dry run. Raises one refusal that names every bad field."""
    fields = Fields(values)
    fields.require("name")
    name = fields.text("name")
    if name is not None and (not CLUSTER_NAME.fullmatch(name) or len(name) > CLUSTER_NAME_LENGTH_MAX):
        rule = f"letters, digits and hyphens only, at most {CLUSTER_NAME_LENGTH_MAX}, not beginning with a hyphen"
        fields.blame("INVALID_ATTRIBUTE", "name", rule)
    fields.require("uri")
    uri = fields.text("uri")
    port = fields.positive("headPort")
    if port is not None and port > PORT_MAX:
        fields.blame("INVALID_ATTRIBUTE", "headPort", f"it must be at most {PORT_MAX}")
    request = RegistrationRequest(
        name=name or "",
        uri=uri or "",
        username=fields.text("username"),
        password=fields.text("password"),
        auth_source=fields.text("authSource") or "admin",
        keyfile=fields.text("keyfile"),
        tls_ca=fields.text("tlsCa"),
        tls_certificate=fields.text("tlsCertificate"),
        head_host=fields.text("headHost"),
        head_port=port,
    )
    is_dry_run = fields.boolean("dryRun") or False
    fields.refuse_unknown(_KNOWN)
    raise_violations(fields.violations)
    return request, is_dry_run


def create_cluster(call: Call) -> Answer:
    """Check everything first; register only if all of it holds, and never in a dry run."""
    request, is_dry_run = parse_registration(parse_object(call.body))
    if not is_dry_run and _is_name_taken(call, request.name):
        # Before the checks, which take seconds.
        raise refusal("CLUSTER_NAME_TAKEN", request.name)
    whole = whole_cluster_request(request)
    try:
        if whole is not None:
            return _create_sharded(call, whole, is_dry_run=is_dry_run)
        return _create_replica_set(call, request, is_dry_run=is_dry_run)
    except NameTaken:
        raise refusal("CLUSTER_NAME_TAKEN", request.name) from None


def _create_replica_set(call: Call, request: RegistrationRequest, *, is_dry_run: bool) -> Answer:
    report = check_registration(
        request,
        settings=call.context.settings,
        catalog=call.context.catalog,
        group_id=call.group.id,
        data_dir=call.context.data_dir,
    )
    if is_dry_run:
        return Answer(document=dry_run_document(report))
    if not report.ok:
        raise _refuse_registration(report.checks)
    cluster = register_cluster(
        request,
        report,
        catalog=call.context.catalog,
        service_key=call.context.service_key,
        clock=call.context.clock,
        group_id=call.group.id,
        actor=call.actor,
    )
    return cluster_answer(call, cluster)


def _create_sharded(call: Call, request: RegistrationRequest, *, is_dry_run: bool) -> Answer:
    """The whole of it, a head for each part; `request` names the config server or a router."""
    report = check_sharded_registration(
        request,
        settings=call.context.settings,
        catalog=call.context.catalog,
        group_id=call.group.id,
        data_dir=call.context.data_dir,
    )
    if is_dry_run:
        return Answer(document=sharded_dry_run_document(report))
    if not report.ok:
        raise _refuse_registration(report.checks)
    cluster = register_sharded_cluster(
        request,
        report,
        catalog=call.context.catalog,
        service_key=call.context.service_key,
        clock=call.context.clock,
        group_id=call.group.id,
        actor=call.actor,
    )
    return cluster_answer(call, cluster)


def _is_name_taken(call: Call, name: str) -> bool:
    return any(c.name == name for c in call.context.catalog.clusters.list_in_group(call.group.id))


def _refuse_registration(checks: tuple[Check, ...]) -> Exception:
    problems = [f"{c.what} ({c.fix})" if c.fix else c.what for c in checks if not c.ok]
    return refusal("REGISTRATION_REFUSED", "; ".join(problems), extra=checks_document(checks))


def list_clusters(call: Call) -> Answer:
    """Clusters that have, or should have, a head; by name."""
    return slice_answer(
        call,
        href=f"{call.addresses.own_group(call.group.id)}/clusters",
        records=call.context.catalog.clusters.list_in_group(call.group.id),
        to_document=lambda cluster: _document(call, cluster),
    )


def get_cluster(call: Call) -> Answer:
    return cluster_answer(call, call.cluster)


def delete_cluster(call: Call) -> Answer:
    """Begin to remove: the head leaves the set, the last snapshot stays. Asking twice is harmless."""
    catalog = call.context.catalog
    removed = remove_registered(call.cluster, catalog=catalog, clock=call.context.clock, actor=call.actor)
    return cluster_answer(call, removed, status=202)


def change_cluster(call: Call) -> Answer:
    """Which mongod its head runs: a path on the server, so only who owns all of Ebbtide may say it."""
    fields = Fields(parse_object(call.body))
    mongod = fields.text("mongod")
    if not fields.mentions("mongod"):
        fields.blame("MISSING_ATTRIBUTE", "mongod")
    if mongod is not None and not mongod.startswith("/"):
        fields.blame("INVALID_ATTRIBUTE", "mongod", "it must be an absolute path, or null")
    fields.refuse_unknown(("mongod",))
    raise_violations(fields.violations)
    changed = set_mongod(
        call.cluster,
        mongod=mongod,
        catalog=call.context.catalog,
        clock=call.context.clock,
        actor=call.actor,
    )
    return cluster_answer(call, changed, status=202)


def cluster_answer(call: Call, cluster: Cluster, *, status: int = 200) -> Answer:
    """A cluster with its head, its oplog archive and its last snapshot."""
    return Answer(document=_document(call, cluster), status=status)


def _document(call: Call, cluster: Cluster) -> Document:
    catalog = call.context.catalog
    archive = catalog.archives.find(cluster.id)
    is_sharded = cluster.kind is ClusterKind.SHARDED
    return own_cluster_document(
        cluster,
        parts=[
            PartShown(part, catalog.heads.find(part.id)) for part in catalog.clusters.list_parts(cluster.id)
        ]
        if is_sharded
        else None,
        head=catalog.heads.find(cluster.id),
        last_snapshot=(catalog.cluster_snapshots if is_sharded else catalog.snapshots).newest_complete(
            cluster.id
        ),
        archive=None if archive is None else archive_document(archive, now=call.now),
        waits_for=waiting_for_space(catalog.repository_space.find()),
        shows_paths=is_global_owner(call.caller),
        addresses=call.addresses,
    )


_PATH = "/api/ebbtide/v1/groups/{groupId}/clusters"

OPERATIONS = (
    Operation(
        name="listOwnClusters",
        method="GET",
        path=_PATH,
        handler=list_clusters,
        scope=Scope.GROUP,
        is_list=True,
    ),
    Operation(
        name="registerCluster",
        method="POST",
        path=_PATH,
        handler=create_cluster,
        scope=Scope.GROUP,
        need=Need.OWN,
        needs_listed_address=True,
        slow=True,
    ),
    Operation(
        name="getOwnCluster",
        method="GET",
        path=f"{_PATH}/{{clusterName}}",
        handler=get_cluster,
        scope=Scope.CLUSTER,
    ),
    Operation(
        name="changeCluster",
        method="PATCH",
        path=f"{_PATH}/{{clusterName}}",
        handler=change_cluster,
        scope=Scope.CLUSTER,
        need=Need.RULE,
        needs_listed_address=True,
    ),
    Operation(
        name="removeCluster",
        method="DELETE",
        path=f"{_PATH}/{{clusterName}}",
        handler=delete_cluster,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
    ),
)
