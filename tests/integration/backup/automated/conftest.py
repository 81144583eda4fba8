"""A replica set under backup that is a target of restores, and how tests restore into it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pymongo import MongoClient

from ebbtide.domain.automated_restore import RESTORE_ROLES, AutomatedRestore, RestoreScope
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import RestoreJob, RestoreStatus
from ebbtide.domain.snapshot import Snapshot
from ebbtide.restore.automated_request import AutomatedRequest, request_automated_restore
from ebbtide.restore.consent import RestoreAccount, allow_restores
from ebbtide.testing.lab import ReplicaSetLab

Document = dict[str, Any]

RESTORE_USER, RESTORE_PASSWORD = "restorer", "a password with spaces"


@dataclass
class Restoring:
    """What is restored, and into what: one cluster for both, unless a test says another."""

    installation: Any  # `Installation` of the conftest above
    lab: ReplicaSetLab
    cluster: Cluster

    def client(self, **options: Any) -> "MongoClient[Document]":
        return self.lab.client(**options)

    def request(self, base: Snapshot, limit: OplogTimestamp | None = None, **changes: Any) -> RestoreJob:
        cluster = self.installation.cluster(self.cluster)
        values: Document = {"source": cluster, "target": cluster, "scope": RestoreScope()}
        return request_automated_restore(
            AutomatedRequest(base=base, limit=limit, **(values | changes)),
            catalog=self.installation.catalog,
            clock=self.installation.context.clock,
            actor="test",
        )

    def job(self, job: RestoreJob) -> RestoreJob:
        found = self.installation.catalog.restore_jobs.find(job.id)
        if found is None:
            raise LookupError(job.id)
        return found

    def record(self, job: RestoreJob) -> AutomatedRestore:
        found = self.installation.catalog.automated_restores.find(job.id)
        if found is None:
            raise LookupError(job.id)
        return found

    def wait(self, job: RestoreJob, status: RestoreStatus = RestoreStatus.FINISHED) -> RestoreJob:
        """The job once it has ended, which must be with `status`."""

        def ended() -> RestoreJob | None:
            found = self.job(job)
            return found if found.status is not RestoreStatus.IN_PROGRESS else None

        found: RestoreJob = self.installation.wait_until(ended, seconds=120, what="the restore")
        assert found.status is status, found.reason
        return found


def _make_target(installation: Any, lab: ReplicaSetLab, name: str = "shop") -> Cluster:
    """Register a lab, and make it a target, as a user that may do just what a restore takes."""
    cluster = installation.register_and_follow(lab, name)
    account = RestoreAccount()
    if lab.root_username is not None:
        with lab.client(w="majority") as client:
            client.admin.command("createUser", RESTORE_USER, pwd=RESTORE_PASSWORD, roles=list(RESTORE_ROLES))
        account = RestoreAccount(username=RESTORE_USER, password=RESTORE_PASSWORD)
    context = installation.context
    return allow_restores(
        cluster,
        account,
        catalog=context.catalog,
        service_key=context.service_key,
        clock=context.clock,
        actor="test",
    )


@pytest.fixture(scope="session")
def make_target() -> Callable[..., Cluster]:
    """`make_target(installation, lab, name)`."""
    return _make_target


@pytest.fixture(scope="module")
def restoring(shared_installation: Any, shared_keyfile_lab: ReplicaSetLab) -> Iterator[Restoring]:
    """A set with a keyfile and a little data, followed by a head, archived, and made a target; a worker works."""
    lab = shared_keyfile_lab
    lab.reset()
    with lab.client(w="majority") as client:
        # Little: what kinds of data come through is tried where data is loaded.
        client.shop.orders.insert_many([{"_id": number, "text": "x" * 100} for number in range(200)])
        client.shop.orders.create_index("text")
    with shared_installation.working():
        cluster = _make_target(shared_installation, lab)
        yield Restoring(installation=shared_installation, lab=lab, cluster=cluster)
        shared_installation.remove(cluster)
    lab.reset()
