"""Backup configurations of Cloud and Ops Manager: whether a cluster is backed up, and starting, stopping, ending it.

STOPPED is what Ebbtide calls paused: the head goes on following, so that starting again costs nothing. TERMINATING
takes the head out of the set; the last snapshot stays. Source: contract section 10.
"""

from typing import Any

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.entities import CLUSTER, GROUP, SCHEDULE, entity_answer
from ebbtide.api.lists import slice_answer
from ebbtide.api.operations import Call
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document
from ebbtide.api.wire_cloud import AUTH_NONE, AUTH_SCRAM, STORAGE_ENGINE, SYNC_SOURCE, backup_config_document
from ebbtide.backup.head_requests import set_paused
from ebbtide.backup.part_heads import deciding_head
from ebbtide.backup.revival import revive_cluster
from ebbtide.backup.sharded_registration import remove_registered
from ebbtide.catalog.clusters import NameTaken
from ebbtide.domain.backup_config import BackupStatus, StatusChange, backup_status, decide_change
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.replica_set import TlsMode
from ebbtide.errors import Refused

_SETTABLE = (BackupStatus.STARTED, BackupStatus.STOPPED, BackupStatus.TERMINATING)
_REFUSALS = {
    BackupStatus.STARTED: "CANNOT_START_BACKUP_INVALID_STATE",
    BackupStatus.STOPPED: "CANNOT_STOP_BACKUP_INVALID_STATE",
    BackupStatus.TERMINATING: "CANNOT_TERMINATE_BACKUP_INVALID_STATE",
}
_ENGINES = ("WIRED_TIGER", "MEMORY_MAPPED")
_AUTH_MECHANISMS = (AUTH_NONE, AUTH_SCRAM, "PLAIN")
_SYNC_SOURCES = ("PRIMARY", SYNC_SOURCE)
_READ_ONLY = ("provisioned", "links")
_KNOWN = (
    *("groupId", "clusterId", "statusName", "storageEngineName", "authMechanismName", "username", "password"),
    *("sslEnabled", "syncSource", "encryptionEnabled", "excludedNamespaces", "includedNamespaces"),
    *_READ_ONLY,
)


def list_configs(call: Call) -> Answer:
    """Of the clusters that are backed up, by name."""
    return slice_answer(
        call,
        href=f"{call.addresses.group(call.group.id)}/backupConfigs",
        records=call.context.catalog.clusters.list_in_group(call.group.id),
        to_document=lambda cluster: _document(call, cluster),
    )


def get_config(call: Call) -> Answer:
    return _answer(call, call.cluster)


def patch_config(call: Call) -> Answer:
    """Bring the backup into the status asked for. What the head decides by itself can be repeated, not changed."""
    wanted = parse_config(parse_object(call.body), cluster=call.cluster)
    if wanted is None:
        return _answer(call, call.cluster)
    return _answer(call, _bring_to(call, wanted))


def parse_config(values: dict[str, Any], *, cluster: Cluster) -> BackupStatus | None:
    """The status that a body asks for, if any. Raises one refusal that names every bad field."""
    fields = Fields(values)
    status = _parse_status(fields)
    _judge_ids(fields, cluster)
    _require_one_of(fields, "storageEngineName", _ENGINES, only=STORAGE_ENGINE)
    own_mechanism = AUTH_NONE if cluster.username is None else AUTH_SCRAM
    _require_one_of(fields, "authMechanismName", _AUTH_MECHANISMS, only=own_mechanism)
    _judge_credentials(fields, cluster)
    # A head chooses its source itself, and a wish for either kind harms nothing; one for a host would not be met.
    _require_one_of(fields, "syncSource", _SYNC_SOURCES, only=None)
    if fields.boolean("encryptionEnabled"):
        fields.blame("INVALID_ATTRIBUTE", "encryptionEnabled", "snapshots are not encrypted")
    for name in ("excludedNamespaces", "includedNamespaces"):
        _require_no_namespaces(fields, name)
    fields.refuse_read_only(_READ_ONLY)
    fields.refuse_unknown(_KNOWN)
    raise_violations(fields.violations)
    return status


def _parse_status(fields: Fields) -> BackupStatus | None:
    text = fields.text("statusName")
    if text is None or text in _SETTABLE:
        return None if text is None else BackupStatus(text)
    known = ", ".join(_SETTABLE)
    if text in [status.value for status in BackupStatus]:
        fields.blame("UNSUPPORTED_SET_BACKUP_STATE", "statusName", text, known)
    else:
        fields.blame("INVALID_ENUM_VALUE", "statusName", text, known)
    return None


def _judge_ids(fields: Fields, cluster: Cluster) -> None:
    if (sent := fields.text("clusterId")) and sent != cluster.id:
        fields.blame("INVALID_ATTRIBUTE", "clusterId", "it is not the cluster of the path")
    if (sent := fields.text("groupId")) and sent != cluster.group_id:
        fields.blame("GROUP_MISMATCH", "groupId", sent)


def _require_one_of(fields: Fields, name: str, known: tuple[str, ...], *, only: str | None) -> None:
    """A known value, and where there is a choice of one, that."""
    text = fields.text(name)
    if text is None:
        return
    if text not in known:
        fields.blame("INVALID_ENUM_VALUE", name, text, ", ".join(known))
    elif only is not None and text != only:
        fields.blame("INVALID_ATTRIBUTE", name, f"it is {only} here and cannot be changed")


def _judge_credentials(fields: Fields, cluster: Cluster) -> None:
    """Repeating what is known is taken; Ebbtide's own registration changes it."""
    if (name := fields.text("username")) and name != cluster.username:
        fields.blame("INVALID_ATTRIBUTE", "username", "credentials are given when a cluster is registered")
    if fields.text("password"):
        fields.blame("INVALID_ATTRIBUTE", "password", "credentials are given when a cluster is registered")
    is_tls = cluster.tls_mode is not TlsMode.DISABLED
    if (asked := fields.boolean("sslEnabled")) is not None and asked is not is_tls:
        fields.blame("INVALID_ATTRIBUTE", "sslEnabled", f"it is {str(is_tls).lower()}, as in the set itself")


def _require_no_namespaces(fields: Fields, name: str) -> None:
    """A physical backup holds every namespace: files cannot be copied in part."""
    value = fields.raw(name)
    if value is None:
        return
    if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
        fields.blame("INVALID_JSON_ATTRIBUTE", name, "an array of strings")
    elif value:
        fields.blame("INVALID_FILTERLIST", name)


def _bring_to(call: Call, wanted: BackupStatus) -> Cluster:
    catalog, clock, cluster = call.context.catalog, call.context.clock, call.cluster
    status = backup_status(cluster, deciding_head(cluster, catalog))
    try:
        match decide_change(status, wanted):
            case None:
                raise refusal(_REFUSALS[wanted], cluster.id, status.value)
            case StatusChange.NOTHING:
                return cluster
            case StatusChange.RESUME | StatusChange.PAUSE as change:
                is_paused = change is StatusChange.PAUSE
                return set_paused(
                    cluster, is_paused=is_paused, catalog=catalog, clock=clock, actor=call.actor
                )
            case StatusChange.REMOVE:
                return remove_registered(cluster, catalog=catalog, clock=clock, actor=call.actor)
            case StatusChange.REVIVE:
                return revive_cluster(cluster, catalog=catalog, clock=clock, actor=call.actor)
    except NameTaken:
        raise refusal("CLUSTER_NAME_TAKEN", cluster.name) from None
    except Refused as refused:
        raise refusal(_REFUSALS[wanted], cluster.id, f"{status.value}: {refused}") from refused


def _answer(call: Call, cluster: Cluster) -> Answer:
    return entity_answer(call, _document(call, cluster), relations=(CLUSTER, GROUP, SCHEDULE))


def _document(call: Call, cluster: Cluster) -> Document:
    head = deciding_head(cluster, call.context.catalog)
    return backup_config_document(cluster, head=head, addresses=call.addresses)
