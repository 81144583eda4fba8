"""The oplog archive of a live set: it is the set's own oplog, entry by entry, whatever happens to members and workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ebbtide.backup import archiver as archiver_module
from ebbtide.backup.archive_wait import ArchiveBehind, wait_until_archived
from ebbtide.backup.restorable import restorable_ranges
from ebbtide.domain import archive_state
from ebbtide.domain.archive_state import lag_at
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.replica_set import join_host_port
from ebbtide.mongod.deployment import run_admin
from ebbtide.repository.repository import never_cancelled
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.oplog import archive_now, archive_of, differing_history

WAIT_SECONDS = 120.0
LOCKED_SECONDS = 25.0
LOCKS = 4
TOLD_SECONDS = 3.0
"""More than an archive that has all of its source can say of itself."""
LARGE_BYTES = 16 * 1024 * 1024 - 200


def head_address(installation: Any, cluster: Cluster) -> str:
    head = installation.head(cluster)
    return join_host_port(head.host, head.port)


def source_of(installation: Any, cluster: Cluster) -> str:
    state = installation.catalog.archives.find(cluster.id)
    return state.source if state is not None else ""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiver_module, "LOCK_SECONDS", 0.2)
    monkeypatch.setattr(archiver_module, "HEAD_AGAIN_SECONDS", 0.5)


def test_the_archive_is_the_sets_own_oplog(
    shared_installation: Any, followed: Cluster, shared_lab: ReplicaSetLab
) -> None:
    with shared_lab.client(w="majority") as client:
        client.shop.large.insert_one({"data": b"\0" * LARGE_BYTES})
        with client.start_session() as session, session.start_transaction():
            client.shop.things.insert_many([{"n": n} for n in range(50)], session=session)
        client.shop.things.update_many({}, {"$set": {"seen": True}})
        client.shop.large.drop()
    assert differing_history(shared_installation.context, followed, shared_lab) == []
    state = shared_installation.catalog.archives.find(followed.id)
    assert state.gaps == ()
    assert lag_at(state, shared_installation.context.clock.now()) < WAIT_SECONDS


def test_it_goes_on_through_an_election_and_the_death_of_the_head(
    shared_installation: Any, followed: Cluster, shared_lab: ReplicaSetLab
) -> None:
    with shared_lab.client() as client:
        client.shop.things.insert_one({"before": "election"})
    shared_lab.step_down()
    with shared_lab.client() as client:
        client.shop.things.insert_one({"after": "election"})
    assert differing_history(shared_installation.context, followed, shared_lab) == []

    shared_installation.head_process(followed).kill()
    with shared_lab.client() as client:
        client.shop.things.insert_one({"after": "death"})
    assert differing_history(shared_installation.context, followed, shared_lab) == []
    shared_installation.wait_for_head(followed, HeadState.FOLLOWING)


@contextmanager
def locked_head(installation: Any, cluster: Cluster) -> Iterator[None]:
    """The head as a snapshot has it, for as long as the block lasts."""
    heads, clock = installation.catalog.heads, installation.context.clock
    worker_id = installation.head(cluster).lease_worker_id
    heads.update(cluster.id, worker_id=worker_id, now=clock.now(), lock_job_id="test")
    with installation.head_client(cluster) as client:
        run_admin(client, "fsync", lock=True)
        try:
            yield
        finally:
            run_admin(client, "fsyncUnlock")
            heads.update(cluster.id, worker_id=worker_id, now=clock.now(), lock_job_id=None)


@pytest.mark.usefixtures("impatient")
def test_while_the_head_is_locked_another_member_is_tailed(
    shared_installation: Any, followed: Cluster, shared_lab: ReplicaSetLab
) -> None:
    head = head_address(shared_installation, followed)
    with locked_head(shared_installation, followed):
        with shared_lab.client() as client:
            client.shop.things.insert_one({"during": "lock"})
        assert differing_history(shared_installation.context, followed, shared_lab) == []
        shared_installation.wait_until(
            lambda: source_of(shared_installation, followed) not in ("", head), what="another source"
        )
    shared_installation.wait_until(
        lambda: source_of(shared_installation, followed) == head, what="the head to be tailed again"
    )
    assert differing_history(shared_installation.context, followed, shared_lab) == []


@pytest.mark.usefixtures("impatient")
def test_a_stand_in_that_lags_is_told_to_be_behind(
    shared_installation: Any, followed: Cluster, shared_lab: ReplicaSetLab
) -> None:
    head = head_address(shared_installation, followed)

    def stand_in() -> str:
        found = source_of(shared_installation, followed)
        return found if found != head else ""

    # A secondary that has everything is the first one to be asked.
    shared_lab.wait_until_replicated()
    with locked_head(shared_installation, followed):
        address = shared_installation.wait_until(stand_in, what="another source")
        index = next(i for i, member in enumerate(shared_lab.members) if member.address == address)
        with shared_lab.member_client(index) as client:
            run_admin(client, "fsync", lock=True)
            try:
                write_until_told_behind(shared_installation, followed, shared_lab)
                assert stand_in() == address
            finally:
                run_admin(client, "fsyncUnlock")
    assert differing_history(shared_installation.context, followed, shared_lab) == []


def write_until_told_behind(installation: Any, cluster: Cluster, lab: ReplicaSetLab) -> None:
    # No majority is waited for: the other secondary may read from the locked one.
    with lab.client(w=1) as client:

        def behind() -> bool:
            client.shop.things.insert_one({"during": "two locks"})
            return (installation.catalog.archives.find(cluster.id).lag_seconds or 0.0) >= TOLD_SECONDS

        installation.wait_until(behind, what="an archive that says that it is behind")


def real_lag(installation: Any, cluster: Cluster) -> float:
    """Seconds since the second of the newest archived entry; true while there are writes all the time."""
    archived_to = installation.catalog.archives.find(cluster.id).archived_to
    return float(installation.context.clock.now().timestamp()) - archived_to.timestamp.seconds


def lags_under_a_lock(installation: Any, cluster: Cluster, lab: ReplicaSetLab) -> tuple[float, float]:
    """How far the archive was behind at most, in truth and by its own word, while the head was locked under writes."""
    clock, archives = installation.context.clock, installation.catalog.archives
    # The worst beginning: no slice is open that could take the first entries along.
    archive_now(installation.context, cluster)
    real: list[float] = []
    told: list[float] = []
    with locked_head(installation, cluster), lab.client(w="majority") as client:
        began = clock.monotonic()
        while clock.monotonic() < began + LOCKED_SECONDS:
            client.shop.things.insert_one({"during": "a long lock"})
            real.append(real_lag(installation, cluster))
            told.append(lag_at(archives.find(cluster.id), clock.now()) or 0.0)
            clock.sleep(0.1)
    return max(real), max(told)


@pytest.mark.long
def test_it_is_at_most_as_far_behind_as_the_setting_says_while_the_head_is_locked(
    shared_installation: Any, followed: Cluster, shared_lab: ReplicaSetLab
) -> None:
    setting = shared_installation.context.settings.number("oplog.slice_seconds")
    assert 1.5 * setting < LOCKED_SECONDS
    head = head_address(shared_installation, followed)
    seen = []
    # A machine that stands still for a moment is behind for a moment; an archiver that waits for the lock always is.
    for _ in range(LOCKS):
        shared_installation.wait_until(
            lambda: source_of(shared_installation, followed) == head, what="the head to be tailed"
        )
        seen.append(lags_under_a_lock(shared_installation, followed, shared_lab))
        if max(seen[-1]) < setting:
            break
    assert max(seen[-1]) < setting, seen
    assert differing_history(shared_installation.context, followed, shared_lab) == []
    assert shared_installation.catalog.archives.find(followed.id).gaps == ()


def test_somebody_is_told_once_that_it_is_behind_and_once_that_it_is_not(
    shared_installation: Any, followed: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kinds() -> list[str]:
        return [e.kind for e in shared_installation.events(followed) if e.kind.startswith("oplog.")]

    before = kinds()
    with monkeypatch.context() as patch:
        patch.setattr(archive_state, "BEHIND_SECONDS", -1.0)
        shared_installation.wait_until(lambda: kinds() != before, what="an event")
        archive_now(shared_installation.context, followed)
    shared_installation.wait_until(lambda: "oplog.caught_up" in kinds()[len(before) :], what="the end of it")
    assert kinds()[len(before) :] == ["oplog.behind", "oplog.caught_up"]


def test_what_can_be_restored_begins_with_a_snapshot(shared_installation: Any, followed: Cluster) -> None:
    snapshot = shared_installation.take_snapshot(followed)
    newest = archive_now(shared_installation.context, followed)
    archive = archive_of(shared_installation.context, followed)
    assert archive.find_optime(snapshot.applied_timestamp) is not None
    (found,) = restorable_ranges(
        followed, catalog=shared_installation.catalog, now=shared_installation.context.clock.now()
    )
    assert found.first <= snapshot.stable_timestamp
    assert found.last >= newest.timestamp


def test_who_waits_for_a_cluster_without_an_archive_is_told_at_once(shared_installation: Any) -> None:
    with pytest.raises(ArchiveBehind, match="not archived yet"):
        wait_until_archived(
            shared_installation.catalog,
            ClusterId("f" * 24),
            OplogTimestamp(1, 1),
            clock=shared_installation.context.clock,
            check=never_cancelled,
            seconds=WAIT_SECONDS,
        )
