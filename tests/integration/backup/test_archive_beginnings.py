"""Where an archive begins, where it has a gap, and what is never in it."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from ebbtide.backup.archive_gaps import ACTOR
from ebbtide.backup.restorable import restorable_ranges
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.event import EventLevel
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.snapshot import Snapshot
from ebbtide.oplog.draft import SliceDraft
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.oplog import archive_now, archive_of, differing_history, make_entry


@pytest.fixture(scope="module")
def left(shared_installation: Any, shared_lab: ReplicaSetLab) -> Iterator[Cluster]:
    """A cluster with a snapshot and an archive, that no worker is at work on; for the tests of this module in turn."""
    shared_lab.reset()
    with shared_installation.working():
        cluster = shared_installation.register_and_follow(shared_lab)
        shared_installation.take_snapshot(cluster)
        archive_now(shared_installation.context, cluster)
    yield cluster
    shared_installation.remove_all()


def test_an_archive_begins_at_the_oldest_snapshot_that_the_oplog_still_reaches(
    shared_installation: Any, shared_lab: ReplicaSetLab, left: Cluster
) -> None:
    # As it is where snapshots were taken before there were archives.
    archive = archive_of(shared_installation.context, left)
    for piece in archive.slices():
        archive.delete(piece)
    with shared_installation.working():
        assert differing_history(shared_installation.context, left, shared_lab) == []
    snapshot = shared_installation.catalog.snapshots.newest_complete(left.id)
    assert archive.slices()[0].first.timestamp == snapshot.applied_timestamp
    assert shared_installation.catalog.archives.find(left.id).gaps == ()


def test_an_archive_that_no_oplog_reaches_back_to_has_a_gap_and_gets_a_new_base(
    shared_installation: Any, shared_lab: ReplicaSetLab, left: Cluster
) -> None:
    context, catalog = shared_installation.context, shared_installation.catalog
    archive = archive_of(context, left)
    old_base, archived = catalog.snapshots.newest_complete(left.id), archive.newest().last
    # An entry that the set never had stands for one that its oplog has lost.
    lost = OpTime(
        OplogTimestamp(archived.timestamp.seconds, archived.timestamp.increment + 1000), archived.term
    )
    draft = SliceDraft(predecessor=archived, opened=0.0)
    draft.add(make_entry(lost.timestamp.seconds, lost.timestamp.increment, term=lost.term))
    archive.put(*draft.compress())
    with shared_lab.client(w="majority") as client:
        client.shop.things.insert_one({"after": "the gap"})

    def new_base() -> Snapshot | None:
        found = catalog.snapshots.newest_complete(left.id)
        return found if found.id != old_base.id else None

    with shared_installation.working():
        base = shared_installation.wait_until(new_base, what="a base")
        newest = archive_now(context, left)
    (gap,) = catalog.archives.find(left.id).gaps
    assert gap.after == lost
    assert gap.before.timestamp > lost.timestamp
    assert "no entry" in gap.reason
    (event,) = shared_installation.events(left, "oplog.gap")
    assert event.level is EventLevel.ERROR
    assert [e.actor for e in shared_installation.events(left, "snapshot.requested")] == ["test", ACTOR]
    assert lost.timestamp < base.applied_timestamp
    first, second = archive.ranges()
    assert (first.last, second.first) == (lost, gap.before)
    found = restorable_ranges(left, catalog=catalog, now=context.clock.now())
    assert [r.snapshot_id for r in found] == [old_base.id, base.id]
    assert found[0].last == lost.timestamp
    assert found[1].last >= newest.timestamp


@pytest.mark.long
def test_what_is_rolled_back_was_never_archived(
    shared_installation: Any, shared_lab: ReplicaSetLab, left: Cluster
) -> None:
    context, archives = shared_installation.context, shared_installation.catalog.archives
    with shared_installation.working():
        archive_now(context, left)
        gaps = archives.find(left.id).gaps
        old = shared_lab.primary()
        others = [member.index for member in shared_lab.members if member.index != old.index]
        for index in others:
            shared_lab.kill_member(index)
        written = _write_until_stepped_down(shared_lab, old.index)
        shared_lab.kill_member(old.index)
        for index in others:
            shared_lab.restart_member(index)
        with shared_lab.client(w="majority") as client:
            client.shop.things.insert_one({"after": "rollback"})
        shared_lab.restart_member(old.index)
        assert written > 0
        assert differing_history(context, left, shared_lab) == []
        assert archives.find(left.id).gaps == gaps


def _write_until_stepped_down(lab: ReplicaSetLab, index: int) -> int:
    """Write to a primary that has lost its majority, for as long as it takes writes; how many it took."""
    written = 0
    with lab.member_client(index, w=1, serverSelectionTimeoutMS=500) as client:
        while written < 100:
            try:
                client.shop.lonely.insert_one({"n": written})
            except PyMongoError:
                break
            written += 1
    return written
