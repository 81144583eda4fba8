"""One private mongod for all tests of the catalog, emptied before each."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo import MongoClient

from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.connection import DATABASE_NAME
from ebbtide.domain.access import ApiKey, Grant, Role
from ebbtide.domain.automated_restore import AutomatedRestore, RestoreScope
from ebbtide.domain.cluster import Cluster, ClusterState, Head, HeadState
from ebbtide.domain.download import Transfer
from ebbtide.domain.event import Event, EventLevel
from ebbtide.domain.group import Group
from ebbtide.domain.host import Host, HostState, host_id
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId, new_id
from ebbtide.domain.job import Job, JobKind, JobState, job_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import NEW, RestoreJob
from ebbtide.domain.sealed import Sealed
from ebbtide.domain.service_account import ServiceAccount, ServiceAccountSecret
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.mongod.options import MongodOptions, UnixSocket
from ebbtide.mongod.process import MongodProcess

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GROUP = GroupId("5f0000000000000000000001")
CLUSTER = ClusterId("5f00000000000000000000c1")
SEALED = Sealed(key_id="k", nonce=bytes(12), ciphertext=b"\x00\xff")


@pytest.fixture(scope="session")
def catalog_uri(mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("c")
    options = MongodOptions(
        dbpath=directory / "db",
        log_path=directory / "mongod.log",
        listen=UnixSocket(path=directory / "m.sock"),
        cache_gb=0.25,
    )
    process = MongodProcess.start(
        mongod_binary, options, identity_path=directory / "mongod.json", die_with_parent=True
    )
    catalog = Catalog.connect(process.uri)
    catalog.prepare()
    catalog.close()
    yield process.uri
    process.stop()


@pytest.fixture
def database(catalog_uri: str) -> Iterator[Any]:
    """The catalog's database itself, for what the catalog does not show; empty but for its indexes."""
    client: MongoClient[dict[str, Any]] = MongoClient(catalog_uri, tz_aware=True)
    with client:
        database = client[DATABASE_NAME]
        for name in database.list_collection_names():
            if name != "meta":
                database[name].delete_many({})
        yield database


@pytest.fixture
def catalog(catalog_uri: str, database: Any) -> Iterator[Catalog]:  # noqa: ARG001
    catalog = Catalog.connect(catalog_uri)
    yield catalog
    catalog.close()


def make_group(**changes: Any) -> Group:
    values: dict[str, Any] = {"id": GROUP, "name": "default", "created": NOW}
    return Group(**(values | changes))


def make_key(**changes: Any) -> ApiKey:
    values: dict[str, Any] = {
        "id": new_id(),
        "public_key": new_id()[-8:],
        "description": "",
        "ha1": SEALED,
        "grants": (
            Grant(role=Role.GROUP_OWNER, group_id=GROUP),
            Grant(role=Role.GLOBAL_OWNER, group_id=None),
        ),
        "access_list": (),
        "created": NOW,
    }
    return ApiKey(**(values | changes))


def make_account(**changes: Any) -> ServiceAccount:
    secret = ServiceAccountSecret(
        id=new_id(), sha256="0" * 64, last_letters="abcd", created=NOW, expires=NOW + timedelta(hours=8)
    )
    values: dict[str, Any] = {
        "id": new_id(),
        "name": "deploy",
        "description": "",
        "grants": (Grant(role=Role.GROUP_OWNER, group_id=GROUP),),
        "access_list": (),
        "secrets": (secret,),
        "created": NOW,
    }
    return ServiceAccount(**(values | changes))


def make_cluster(**changes: Any) -> Cluster:
    values: dict[str, Any] = {
        "id": ClusterId(new_id()),
        "group_id": GROUP,
        "name": "shop",
        "replica_set_name": "rs0",
        "uri": "mongodb://db1:27017",
        "username": None,
        "auth_source": "admin",
        "password": None,
        "keyfile": SEALED,
        "mongod_version": "6.0.5",
        "fcv": "6.0",
        "state": ClusterState.ACTIVE,
        "created": NOW,
        "head_host": "backup1",
        "head_port": 27200,
    }
    return Cluster(**(values | changes))


def make_head(**changes: Any) -> Head:
    values: dict[str, Any] = {
        "id": CLUSTER,
        "state": HeadState.PROVISIONING,
        "state_since": NOW,
        "host": "backup1",
        "port": 27200,
        "dbpath": "heads/x/db",
        "updated": NOW,
    }
    return Head(**(values | changes))


def make_snapshot(**changes: Any) -> Snapshot:
    values: dict[str, Any] = {
        "id": SnapshotId(new_id()),
        "group_id": GROUP,
        "cluster_id": CLUSTER,
        "cluster_name": "shop",
        "replica_set_name": "rs0",
        "created": NOW,
        "state": SnapshotState.IN_PROGRESS,
    }
    return Snapshot(**(values | changes))


def make_restore_job(**changes: Any) -> RestoreJob:
    values: dict[str, Any] = {
        "id": RestoreJobId(new_id()),
        "group_id": GROUP,
        "cluster_id": CLUSTER,
        "cluster_name": "shop",
        "replica_set_name": "rs0",
        "snapshot_id": SnapshotId(new_id()),
        "created": NOW,
        "status": NEW[0],
        "delivery_status": NEW[1],
        "timestamp": OplogTimestamp(1700000000, 2**32 - 1),
        "expiration_hours": 1,
        "max_downloads": 1,
        "requested_by": "abcdefgh",
    }
    return RestoreJob(**(values | changes))


def make_automated_restore(**changes: Any) -> AutomatedRestore:
    values: dict[str, Any] = {
        "id": RestoreJobId(new_id()),
        "target_group_id": GROUP,
        "target_cluster_id": CLUSTER,
        "target_name": "shop",
        "scope": RestoreScope(),
        "requested": NOW,
    }
    return AutomatedRestore(**(values | changes))


def make_transfer(**changes: Any) -> Transfer:
    values: dict[str, Any] = {
        "id": new_id(),
        "job_id": RestoreJobId("5f00000000000000000000d1"),
        "first": 0,
        "end": 2**40,
        "sent_bytes": 0,
        "started": NOW,
        "updated": NOW,
    }
    return Transfer(**(values | changes))


def make_host(**changes: Any) -> Host:
    values: dict[str, Any] = {
        "id": host_id(GROUP, "cfg1:27019"),
        "group_id": GROUP,
        "store_id": ClusterId(new_id()),
        "address": "cfg1:27019",
        "state": HostState.ACTIVE,
        "created": NOW,
        "username": "ebbtide",
        "auth_source": "admin",
        "password": SEALED,
        "mongod_version": "6.0.5",
    }
    return Host(**(values | changes))


def make_job(**changes: Any) -> Job:
    subject = changes.pop("subject_id", None) or new_id()
    kind = changes.pop("kind", JobKind.RESTORE)
    values: dict[str, Any] = {
        "id": job_id(kind, subject),
        "kind": kind,
        "subject_id": subject,
        "group_id": GROUP,
        "cluster_id": CLUSTER,
        "state": JobState.QUEUED,
        "created": NOW,
        "not_before": NOW,
    }
    return Job(**(values | changes))


def make_event(**changes: Any) -> Event:
    values: dict[str, Any] = {
        "id": new_id(),
        "time": NOW,
        "level": EventLevel.INFO,
        "kind": "head.joined",
        "message": "it joined",
        "group_id": GROUP,
    }
    return Event(**(values | changes))


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Makers of valid records; keyword arguments replace fields."""
    makers: dict[str, Callable[..., Any]] = {
        "group": make_group,
        "key": make_key,
        "account": make_account,
        "cluster": make_cluster,
        "head": make_head,
        "host": make_host,
        "snapshot": make_snapshot,
        "restore_job": make_restore_job,
        "automated_restore": make_automated_restore,
        "transfer": make_transfer,
        "job": make_job,
        "event": make_event,
    }
    return SimpleNamespace(now=NOW, group_id=GROUP, cluster_id=CLUSTER, sealed=SEALED, **makers)
