"""Restores into a running set, through a real `ebbtide serve`: as its owner asks for them, and killed on the way.

One service and one set with a keyfile for all. After each kill the set takes writes again in the end, nothing of the
restore is left over, and the data is what was asked for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from ebbtide.cli.api_errors import ApiRefusal
from ebbtide.clock import SystemClock
from ebbtide.crash_points import CRASH_POINTS
from ebbtide.domain.automated_restore import RESTORE_ROLES
from ebbtide.domain.ids import RestoreJobId
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.running_service import RunningService
from ebbtide.testing.service import Document, Owner

USER, PASSWORD = "restorer", "only-for-restores"
CLAIMED = "automated.claimed"
BEFORE_REMOVAL = ["automated.source_proven", "automated.write_blocked", "automated.protected"]
AFTER_REMOVAL = [
    name for name in CRASH_POINTS if name.startswith("automated.") and name not in (CLAIMED, *BEFORE_REMOVAL)
]


class Target:
    """The one set, under backup and a target of restores, with something in it."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.client = owner.client
        self.group_id = owner.group_id

    def consent(self) -> Document:
        body = {"enabled": True, "username": USER, "password": PASSWORD}
        return self.client.set_restore_target(self.group_id, self.owner.name, body)

    def fill(self) -> None:
        with self.owner.lab.client(w="majority") as client:
            client.drop_database("shop")
            client.shop.orders.insert_many([{"_id": number, "text": "x" * 200} for number in range(500)])
            client.shop.orders.create_index("text")
            client.shop.customers.insert_many([{"_id": number} for number in range(50)])

    def spoil(self) -> None:
        """What a restore has to put right."""
        with self.owner.lab.client(w="majority") as client:
            client.shop.orders.delete_many({"_id": {"$gt": 10}})
            client.drop_database("intruder")
            client.intruder.things.insert_one({"_id": 1})

    def hashes(self) -> Document:
        primary = self.owner.lab.primary()
        with self.owner.lab.member_client(primary.index) as client:
            return database_hashes(client, exclude=("local", "admin", "config"))

    def start(self, **body: Any) -> Document:
        wanted = {"targetClusterName": self.owner.name, **body}
        return self.client.create_automated_restore(self.group_id, self.owner.name, wanted)

    def newest_job(self) -> str:
        return str(self.client.list_restore_jobs(self.group_id, self.owner.name)[0]["id"])

    def wait(self, job_id: str) -> Document:
        """The job as Ebbtide's own API shows it, once it is done."""

        def look() -> Document | None:
            found = self.owner.restore_progress(job_id)
            return found if found["statusName"] != "IN_PROGRESS" else None

        found = self.owner.service.wait_until(look, f"restore job {job_id}", seconds=180)
        assert found["statusName"] == "FINISHED", found.get("reason")
        return found

    def crash(self, *points: str, act: Callable[[], object]) -> None:
        service = self.owner.service
        service.arm_crash(*points)
        try:
            act()
        except Exception:
            # The api itself may have died before it answered.
            if not service.has_crashed():
                raise
        service.wait_until(service.has_crashed, f"crash points {points}", seconds=180)

    @contextmanager
    def short_window(self) -> Iterator[None]:
        """No moment of the past can be restored by the schedule."""
        with self.owner.service.catalog() as catalog:
            (cluster,) = catalog.clusters.list_live()
            schedule = catalog.schedules.get(cluster)
            catalog.schedules.put(replace(schedule, point_in_time_window_hours=0))
            yield
            catalog.schedules.put(schedule)

    def is_blocked(self) -> bool:
        with self.owner.lab.client() as client:
            return bool(client.admin.command("serverStatus")["repl"]["userWriteBlockMode"] == 2)

    def check_nothing_is_left_over(self) -> None:
        assert not self.is_blocked()
        with self.owner.service.catalog() as catalog:
            self.owner.service.wait_until(
                lambda: catalog.automated_restores.list_active() == [], "the target to be let go of"
            )
        scratch = self.owner.service.data / "scratch"
        self.owner.service.wait_until(lambda: list(scratch.iterdir()) == [], "scratch to be empty")


@pytest.fixture(scope="module")
def target(new_service: Callable[..., RunningService], shared_keyfile_lab: ReplicaSetLab) -> Iterator[Target]:
    lab = shared_keyfile_lab
    lab.reset()
    with lab.client(w="majority") as client:
        client.admin.command("createUser", USER, pwd=PASSWORD, roles=list(RESTORE_ROLES))
    service = new_service().start()
    owner = Owner(service, lab)
    owner.register()
    found = Target(owner)
    found.fill()
    yield found
    service.stop()
    owner.close()
    lab.reset()


def test_nobody_restores_into_a_cluster_whose_owner_did_not_say_so(target: Target) -> None:
    snapshot_id = target.owner.take_snapshot()["id"]

    with pytest.raises(ApiRefusal) as refused:
        target.start(snapshotId=snapshot_id)
    assert (refused.value.status, refused.value.error_code) == (403, "CANNOT_RESTORE_TO_TARGET")
    assert "ebbtide clusters set shop --restore-target on" in refused.value.document["detail"]

    with pytest.raises(ApiRefusal) as wrong:
        target.client.set_restore_target(
            target.group_id,
            target.owner.name,
            {"enabled": True, "username": USER, "password": "no, another one"},
        )
    assert "does not let restorer in" in wrong.value.document["detail"]
    assert target.owner.cluster()["restoreTarget"] is False

    changed = target.consent()
    assert (changed["restoreTarget"], changed["restoreUsername"]) == (True, USER)


def test_an_important_collection_comes_back_as_it_was_a_second_before_and_can_be_undone(
    target: Target,
) -> None:
    target.consent()
    target.owner.take_snapshot()
    with target.owner.lab.client(w="majority") as client:
        client.shop.orders.insert_one({"_id": "the last one"})
        moment = client.admin.command("hello")["lastWrite"]["opTime"]["ts"]
        client.shop.orders.drop()
        client.shop.customers.insert_one({"_id": "later, and kept"})
    point = {"oplogTs": moment.time, "oplogInc": moment.inc, "namespaces": ["shop.orders"]}

    plan = target.start(**point, dryRun=True)
    assert (plan["ok"], plan["removed"], plan["pointInTime"]) == (True, [], True)

    done = target.wait(str(target.start(**point)["id"]))

    with target.owner.lab.client() as client:
        assert client.shop.orders.count_documents({}) == 501
        assert client.shop.orders.find_one({"_id": "the last one"}) is not None
        assert sorted(client.shop.orders.index_information()) == ["_id_", "text_1"]
        assert client.shop.customers.count_documents({}) == 51
    restored = done["automated"]
    assert restored["targetState"] == "RESTORED"
    assert restored["comparison"]["differences"] == []
    assert restored["comparison"]["digestsCompared"] == 1
    job = target.owner.restore_job(done["id"])
    assert (job["statusName"], job["delivery"]["statusName"], job["pointInTime"]) == (
        "FINISHED",
        "READY",
        True,
    )
    assert job["delivery"]["methodName"] == "HTTP"
    assert job["delivery"]["targetClusterName"] == "shop"
    assert not {"url", "expires", "expirationHours", "maxDownloads"} & set(job["delivery"])

    kept = datetime.fromisoformat(restored["undoUntil"]) - datetime.fromisoformat(
        restored["undoPoint"]["date"]
    )
    assert timedelta(hours=71) < kept < timedelta(hours=73)
    with target.short_window():
        # The window has moved on: what undoing takes is kept for longer.
        undo_id = str(target.client.undo_restore(target.group_id, done["id"], {})["id"])
    undone = target.wait(undo_id)

    assert undone["automated"]["undoes"] == done["id"]
    with target.owner.lab.client(w="majority") as client:
        assert "orders" not in client.shop.list_collection_names()
        assert client.shop.customers.count_documents({}) == 51
    assert undone["automated"]["canBeUndone"]
    target.check_nothing_is_left_over()


def test_a_claim_without_a_job_is_given_back(target: Target) -> None:
    target.consent()
    snapshot_id = target.owner.take_snapshot()["id"]
    target.crash(CLAIMED, act=lambda: target.start(snapshotId=snapshot_id))
    with target.owner.service.catalog() as catalog:
        (claim,) = catalog.automated_restores.list_active()
    target.owner.service.wait_until(target.owner.cluster, "the api to be there again")
    with pytest.raises(ApiRefusal) as busy:
        target.start(snapshotId=snapshot_id)
    assert (busy.value.status, busy.value.error_code) == (409, "CLUSTER_RESTORE_IN_PROGRESS_CANNOT_UPDATE")
    with target.owner.service.catalog() as catalog:
        assert catalog.restore_jobs.find(RestoreJobId(claim.id)) is None
        catalog.automated_restores.update(claim.id, requested=SystemClock().now() - timedelta(minutes=2))
    target.check_nothing_is_left_over()


@pytest.mark.parametrize("points", [BEFORE_REMOVAL, AFTER_REMOVAL], ids=["before removal", "after removal"])
def test_a_restore_finishes_after_a_crash_at_each_of_its_points(target: Target, points: list[str]) -> None:
    """One job, killed at each point in turn: whatever its worker left, the next one goes on with it."""
    if points == AFTER_REMOVAL:
        # The supervisor waits longer and longer before it starts again what keeps dying; not with a new one.
        target.owner.service.terminate()
        target.owner.service.start()
        target.owner.wait_until_following()
    target.consent()
    target.fill()
    before = target.hashes()
    snapshot_id = target.owner.take_snapshot()["id"]
    target.spoil()

    target.crash(*points, act=lambda: target.start(snapshotId=snapshot_id))
    done = target.wait(target.owner.service.wait_until(target.newest_job, "the restore job to be listed"))

    assert target.hashes() == before
    assert done["automated"]["targetState"] == "RESTORED"
    assert done["automated"]["writeBlock"] == "OFF"
    assert done["automated"]["undoPoint"] is not None
    target.check_nothing_is_left_over()
    with target.owner.lab.client(w="majority") as client:
        client.shop.orders.update_one({"_id": 1}, {"$set": {"text": "y"}})
        client.shop.orders.update_one({"_id": 1}, {"$set": {"text": "x" * 200}})
