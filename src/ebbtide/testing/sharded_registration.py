"""Registering a `ShardedLab` as a user would, past command line and API.

Crash: as of `ebbtide.backup.sharded_registration`.
"""

from pathlib import Path
from typing import Any

from ebbtide.backup.registration_checks import RegistrationRequest
from ebbtide.backup.sharded_registration import (
    ShardedReport,
    check_sharded_registration,
    register_sharded_cluster,
)
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import GroupId
from ebbtide.sealing import ServiceKey
from ebbtide.settings import Settings
from ebbtide.testing.sharded_lab import ShardedLab

ACTOR = "test"


def lab_request(lab: ShardedLab, name: str, **changes: Any) -> RegistrationRequest:
    """What registers the lab under `name`; `changes` are fields of the request."""
    values: dict[str, Any] = {
        "name": name,
        "uri": f"mongodb://{lab.seed}/?replicaSet=config",
        "username": lab.config.backup_username,
        "password": lab.config.backup_password,
        "keyfile": lab.config.keyfile_text,
    }
    return RegistrationRequest(**(values | changes))


def register_lab(
    request: RegistrationRequest,
    *,
    catalog: Catalog,
    settings: Settings,
    service_key: ServiceKey,
    group_id: GroupId,
    data_dir: Path | None = None,
    report: ShardedReport | None = None,
) -> Cluster:
    """The cluster, its parts recorded. Raises as both steps of a registration do."""
    return register_sharded_cluster(
        request,
        report
        or check_sharded_registration(
            request, settings=settings, catalog=catalog, group_id=group_id, data_dir=data_dir
        ),
        catalog=catalog,
        service_key=service_key,
        clock=SystemClock(),
        group_id=group_id,
        actor=ACTOR,
    )
