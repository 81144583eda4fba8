"""A sharded cluster under backup is restored into itself and into a replica set, by a worker in this process."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from ebbtide.backup.archive_wait import wait_until_archived
from ebbtide.backup.open_work import OpenWorkCarry
from ebbtide.domain.automated_restore import RESTORE_ROLES, AutomatedRestore, TargetState, WriteBlock
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.ids import BatchId, RestoreJobId, new_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import NEW, DeliveryMethod, RestoreJob, RestoreStatus
from ebbtide.domain.restore_point import AtOplog
from ebbtide.errors import EbbtideError, InvalidInput, Refused
from ebbtide.oplog.archive import OplogArchive
from ebbtide.restore.automated_request import AutomatedRequest, NoConsent, request_automated_restore
from ebbtide.restore.batch_point import BatchPoint, Surroundings, resolve_batch
from ebbtide.restore.consent import RestoreAccount, allow_restores
from ebbtide.restore.requesting import cancel_restore_job, enqueue_restore
from ebbtide.testing.bank import Bank
from ebbtide.testing.lab import ReplicaSetLab

WAIT_SECONDS = 120.0

AtPoint = Callable[[str, Callable[[], None]], None]


@dataclass
class Restoring:
    """A bank on a sharded cluster, and a moment at which its total is known."""

    sharded: Any  # `Sharded` of the conftest here
    total: int
    point: BatchPoint

    @property
    def context(self) -> Any:
        return self.sharded.installation.context

    def request(self, target: Cluster | None = None, **changes: Any) -> RestoreJob:
        cluster = self.sharded.installation.cluster(self.sharded.cluster)
        values: dict[str, Any] = {
            "source": cluster,
            "base": self.point.config.base,
            "limit": self.point.limit,
            "target": target or cluster,
            "config": self.point.config.cluster,
            "shards": self.point.shards,
            "wants_undo": False,
        }
        return request_automated_restore(
            AutomatedRequest(**(values | changes)),
            catalog=self.sharded.catalog,
            clock=self.context.clock,
            actor="test",
        )

    def batch(self, job: RestoreJob) -> list[RestoreJob]:
        return list(self.sharded.catalog.restore_jobs.list_batch(job.batch_id))

    def record(self, job: RestoreJob) -> AutomatedRestore:
        found: AutomatedRestore = self.sharded.catalog.automated_restores.find(job.id)
        return found

    def wait(self, job: RestoreJob, status: RestoreStatus = RestoreStatus.FINISHED) -> list[RestoreJob]:
        """The jobs of the batch once all have ended, which must be with `status`, and the target is free."""

        def ended() -> bool:
            is_over = all(found.status is not RestoreStatus.IN_PROGRESS for found in self.batch(job))
            return is_over and not self.record(job).is_active

        self.sharded.installation.wait_until(ended, what="the restore")
        found = self.batch(job)
        assert [status] * 3 == [one.status for one in found], [one.reason for one in found]
        return found

    def balances(self) -> dict[int, int]:
        """Of all accounts on all shards; raises where one is on two of them."""
        found: dict[int, int] = {}
        for shard in self.sharded.lab.shards:
            for account in self.sharded.lab.admin_client(shard).bank.accounts.find():
                assert account["_id"] not in found
                found[account["_id"]] = account["balance"]
        return found

    def spoil(self) -> None:
        """What must not be there after a restore."""
        lab = self.sharded.lab
        lab.admin_client("shard0").bank.accounts.insert_one({"_id": -1, "balance": 1_000_000})
        lab.create_sharded("late.arrival", {"_id": 1}, "shard1")
        lab.admin_client("shard1").late.arrival.insert_one({"_id": 1})

    def check(self) -> None:
        """Everything is as it was, and nobody is kept from anything."""
        balances = self.balances()
        assert (40, self.total) == (len(balances), sum(balances.values()))
        names = {
            n
            for shard in self.sharded.lab.shards
            for n in self.sharded.lab.admin_client(shard).list_database_names()
        }
        assert "late" not in names
        self.check_free()

    def check_free(self) -> None:
        self.sharded.wait_until_put_back()
        for shard in self.sharded.lab.shards:
            status = self.sharded.lab.admin_client(shard).admin.command("serverStatus")
            assert status["repl"]["userWriteBlockMode"] == 1


@pytest.fixture(scope="module")
def restoring(sharded: Any) -> Restoring:
    lab, context = sharded.lab, sharded.installation.context
    with Bank(lab) as bank:
        sharded.take()
        for _ in range(10):
            bank.transfer()
        lab.admin_client("shard0").bank.settings.insert_one({"_id": "open"})
        total = bank.total()
    limit = OplogTimestamp.from_bson(lab.gossip_note())
    for part in sharded.parts:
        wait_until_archived(
            sharded.catalog, part.id, limit, clock=context.clock, check=lambda: None, seconds=WAIT_SECONDS
        )
        archive = OplogArchive(context.repository.replica_set(part.id, part.replica_set_name))
        OpenWorkCarry(part, archive, context, check=lambda: None).keep()
    allow(context, sharded.installation.cluster(sharded.cluster))
    surroundings = Surroundings(
        catalog=sharded.catalog,
        repository=context.repository,
        service_key=context.service_key,
        clock=context.clock,
    )
    point = resolve_batch(
        sharded.cluster, AtOplog(seconds=limit.seconds, increment=limit.increment), surroundings=surroundings
    )
    return Restoring(sharded=sharded, total=total, point=point)


def allow(context: Any, cluster: Cluster, account: RestoreAccount | None = None) -> Cluster:
    return allow_restores(
        cluster,
        account or RestoreAccount(),
        catalog=context.catalog,
        service_key=context.service_key,
        clock=context.clock,
        actor="test",
    )


def test_a_sharded_cluster_is_restored_into_itself(restoring: Restoring) -> None:
    restoring.spoil()
    job = restoring.request()
    done = restoring.wait(job)

    restoring.check()
    record = restoring.record(job)
    assert (record.target_state, record.write_block) == (TargetState.RESTORED, WriteBlock.OFF)
    assert record.comparison is not None
    assert (
        record.comparison.collections,
        record.comparison.documents,
        record.comparison.differences,
    ) == (2, 41, ())
    assert {restoring.point.limit} == {one.timestamp for one in done}
    assert {part.id for part in restoring.sharded.parts} == {one.cluster_id for one in done}


class Passing(EbbtideError):
    """What the next attempt does not meet again."""

    retryable = True


@pytest.mark.long
def test_an_attempt_that_failed_begins_anew_as_others_could_write(
    restoring: Restoring, at_point: AtPoint
) -> None:
    def fail() -> None:
        restoring.spoil()
        raise Passing("for a test")

    at_point("automated.collection_loaded", fail)
    restoring.wait(restoring.request())

    restoring.check()


@pytest.mark.long
def test_whichever_job_is_cancelled_the_whole_restore_is(restoring: Restoring, at_point: AtPoint) -> None:
    restoring.spoil()
    asked: list[RestoreJob] = []

    def cancel() -> None:
        follower = next(one for one in restoring.batch(asked[0]) if one.id != asked[0].id)
        cancel_restore_job(
            follower, catalog=restoring.sharded.catalog, clock=restoring.context.clock, actor="test"
        )

    at_point("automated.removed", cancel)
    asked.append(restoring.request())
    restoring.wait(asked[0], RestoreStatus.KILLED)

    assert TargetState.LOADING is restoring.record(asked[0]).target_state
    restoring.check_free()


def test_a_job_whose_batch_nobody_leads_does_not_wait_for_ever(restoring: Restoring) -> None:
    catalog = restoring.sharded.catalog
    part, now = restoring.point.shards[0], restoring.context.clock.now()
    lone = RestoreJob(
        id=RestoreJobId(new_id()),
        batch_id=BatchId(new_id()),
        group_id=part.cluster.group_id,
        cluster_id=part.cluster.id,
        cluster_name=part.cluster.name,
        replica_set_name=part.base.replica_set_name,
        snapshot_id=part.base.id,
        created=now - timedelta(minutes=2),
        status=NEW[0],
        delivery_status=NEW[1],
        timestamp=restoring.point.limit,
        expiration_hours=0,
        max_downloads=0,
        requested_by="test",
        method=DeliveryMethod.AUTOMATED_RESTORE,
    )
    catalog.restore_jobs.insert(lone)
    enqueue_restore(lone, catalog=catalog, clock=restoring.context.clock)

    restoring.sharded.installation.wait_until(
        lambda: catalog.restore_jobs.find(lone.id).status is RestoreStatus.BROKEN, what="it to be given up"
    )
    assert "ask again" in catalog.restore_jobs.find(lone.id).reason


def test_what_cannot_work_is_refused_before_anything_is_recorded(restoring: Restoring) -> None:
    cluster = restoring.sharded.installation.cluster(restoring.sharded.cluster)
    with pytest.raises(NoConsent, match="a part of a sharded cluster"):
        restoring.request(restoring.point.config.cluster)
    with pytest.raises(Refused, match="cannot be undone"):
        restoring.request(wants_undo=True)
    with pytest.raises(Refused, match="for each of its parts"):
        restoring.request(shards=())
    with pytest.raises(InvalidInput, match="keyfile"):
        allow(restoring.context, cluster, RestoreAccount(username="a", password="b"))


@pytest.mark.long
def test_a_sharded_cluster_is_restored_into_a_replica_set(
    restoring: Restoring, keyfile_lab: ReplicaSetLab
) -> None:
    installation = restoring.sharded.installation
    with keyfile_lab.client(w="majority") as client:
        client.admin.command("createUser", "restorer", pwd="secret", roles=list(RESTORE_ROLES))
        client.old.here.insert_one({})
    target = installation.register_and_follow(keyfile_lab, "plain")
    try:
        allow(restoring.context, target, RestoreAccount(username="restorer", password="secret"))
        restoring.wait(restoring.request(installation.cluster(target)))
        with keyfile_lab.client() as client:
            balances = [account["balance"] for account in client.bank.accounts.find()]
            assert (40, restoring.total) == (len(balances), sum(balances))
            assert "old" not in client.list_database_names()
    finally:
        installation.remove(target)
