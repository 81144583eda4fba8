"""Which version a set runs now, and which mongod its head is to run: looked at again and again, as sets are upgraded.

The catalog's record of the cluster is brought up to date. A new major version or FCV is an event, as soon as it is seen:
a head whose mongod does not know a raised FCV ends, so the time to give it another one is before that.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from ebbtide.backup.context import BackupContext
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.event import EventLevel
from ebbtide.domain.replica_set import major_version
from ebbtide.domain.server_version import head_versions, runs_after_fcv
from ebbtide.errors import MongodBinaryMissing
from ebbtide.events import record_event
from ebbtide.mongod import deployment
from ebbtide.mongod.binary import find_mongod_of, mongod_version
from ebbtide.mongod.identity import MongodIdentity
from ebbtide.settings import Settings

Document = dict[str, Any]


def head_binary(cluster: Cluster, *, settings: Settings) -> Path:
    """The mongod for this cluster's head. Raises MongodBinaryMissing."""
    return find_mongod_of(
        head_versions(mongod_version=cluster.mongod_version, fcv=cluster.fcv),
        own=cluster.mongod,
        binaries=settings.mapping("mongod.binaries"),
        default=settings.text("mongod"),
    )


def runs_another(running: MongodIdentity, binary: Path) -> bool:
    """Whether a head is to be started again with `binary`. A new patch release in the same place is no reason."""
    return running.binary != binary or major_version(running.version) != major_version(mongod_version(binary))


def look_at_version(
    cluster: Cluster, *, running_version: str, set_client: MongoClient[Document], context: BackupContext
) -> Cluster:
    """The cluster as its set is now; what changed is recorded. Raises EbbtideError where the set does not answer."""
    version = str(deployment.run_admin(set_client, "buildInfo")["version"])
    fcv = deployment.get_fcv(set_client)
    if (version, fcv) == (cluster.mongod_version, cluster.fcv):
        return cluster
    # Said before it is noted: a crash in between repeats the event, and does not lose it.
    now = replace(cluster, mongod_version=version, fcv=fcv)
    if major_version(version) != major_version(cluster.mongod_version) or fcv != cluster.fcv:
        record_event(
            context.catalog,
            context.clock,
            level=EventLevel.WARNING,
            kind="cluster.version_changed",
            message=_describe(cluster, now, running_version=running_version, context=context),
            group_id=cluster.group_id,
            cluster_id=cluster.id,
        )
    context.catalog.clusters.set_version(cluster.id, mongod_version=version, fcv=fcv)
    return now


def _describe(before: Cluster, now: Cluster, *, running_version: str, context: BackupContext) -> str:
    text = (
        f"the set of {now.name} runs mongod {now.mongod_version} (FCV {now.fcv}) now, "
        f"before {before.mongod_version} (FCV {before.fcv})"
    )
    major = major_version(now.mongod_version)
    try:
        version = mongod_version(head_binary(now, settings=context.settings))
    except MongodBinaryMissing as error:
        return f"{text}; its head cannot be started again: {error}"
    if major_version(version) == major:
        return f"{text}; its head runs mongod {version}"
    if runs_after_fcv(head_version=running_version, fcv=major):
        return text
    return (
        f"{text}; its head runs {running_version}, which ends as soon as the FCV is raised to {major}. Before that, "
        f"give it a mongod {major}: ebbtide clusters set {now.name} --mongod PATH"
    )
