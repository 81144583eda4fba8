"""What the opened files of one part say: whose they are, where the cluster is now, what was under way. Reads only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.restore.new_set import Client, OpenedFiles, local_collection, newest_entry

Document = dict[str, Any]

DDL_COORDINATORS = "system.sharding_ddl_coordinators"
RESHARDINGS = (
    "reshardingOperations",
    "localReshardingOperations.donor",
    "localReshardingOperations.recipient",
)
"""In `config`: documents that are there while an operation over several parts is under way."""

BALANCER_SETTINGS = {"_id": "balancer"}


@dataclass(frozen=True, kw_only=True)
class PartSurvey:
    """One part as its files have it.

    `shard_name` and `config_address` are of its shard identity, None for the config server. `shards` has each shard's
    address (`set/host:port,…`), empty for a shard. `cluster_id` is the sharded cluster's own. `recovery` is where mongod
    said that it opened the files, None if it said nothing. `unfinished` are operations that were cut through.
    """

    configuration: Mapping[str, Any] | None
    newest: OpTime
    recovery: OplogTimestamp | None
    cluster_id: ObjectId | None
    shard_name: str | None
    config_address: str | None
    shards: Mapping[str, str]
    unfinished: tuple[str, ...] = ()
    balancer_is_off: bool = False
    users_count: int = 0


def survey_part(files: OpenedFiles) -> PartSurvey:
    """Look. Raises IntegrityError for files without an oplog, PyMongo's errors."""
    client = files.client
    config = client.config
    identity: Document = client.admin["system.version"].find_one({"_id": "shardIdentity"}) or {}
    version: Document = config["version"].find_one() or {}
    balancer: Document = config["settings"].find_one(BALANCER_SETTINGS) or {}
    return PartSurvey(
        configuration=local_collection(client, "system.replset").find_one(),
        newest=newest_entry(client),
        recovery=files.recovery,
        cluster_id=identity.get("clusterId") or version.get("clusterId"),
        shard_name=identity.get("shardName"),
        config_address=identity.get("configsvrConnectionString"),
        shards={str(shard["_id"]): str(shard["host"]) for shard in config["shards"].find()},
        unfinished=tuple(_iter_unfinished(client)),
        balancer_is_off=bool(balancer.get("stopped")) or balancer.get("mode") == "off",
        users_count=client.admin["system.users"].count_documents({}),
    )


def _iter_unfinished(client: Client) -> list[str]:
    found = []
    for document in client.config[DDL_COORDINATORS].find({}, {"_id": 1}):
        key = document["_id"]
        found.append(f"{key.get('operationType', 'an operation')} of {key.get('namespace', 'a collection')}")
    for name in RESHARDINGS:
        found += [
            f"resharding of {document.get('ns', 'a collection')}" for document in client.config[name].find()
        ]
    return found
