"""An archive and a head that stood still for longer than the set's oplog reaches back: a true gap, and what follows it.

The oplog is of 8 MB, as `--oplogSize` allows, and so soon written through; but the server keeps what its last checkpoint
needs, so it takes a minute until it begins later.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.backup import head_starting
from ebbtide.backup.archive_gaps import ACTOR
from ebbtide.domain.cluster import Cluster
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_point import AtNow, AtOplog, Refusal, Resolution, RestorePoint
from ebbtide.restore.restore_points import resolve_asked
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.oplog import archive_now, archive_of

OPLOG_MB = 8


@pytest.fixture(scope="module")
def small_oplog_lab(mongod_binary: Path) -> Iterator[ReplicaSetLab]:
    with ReplicaSetLab(binary=mongod_binary, members=1, oplog_size_mb=OPLOG_MB) as lab:
        yield lab


def resolve(installation: Any, cluster: Cluster, point: RestorePoint) -> Resolution | Refusal:
    context = installation.context
    return resolve_asked(
        point,
        access=context.access(installation.cluster(cluster)),
        catalog=context.catalog,
        repository=context.repository,
        now_seconds=int(context.clock.now().timestamp()),
    )


def at(moment: OplogTimestamp) -> AtOplog:
    return AtOplog(seconds=moment.seconds, increment=moment.increment)


def write_through(lab: ReplicaSetLab, moment: OplogTimestamp) -> Callable[[], bool]:
    """Write half of an oplog, and say whether it begins behind `moment` now."""

    def begins_behind() -> bool:
        with lab.client(w="majority") as client:
            for _ in range(OPLOG_MB // 2):
                client.shop.churn.insert_one({"data": b"\0" * 2**20})
            oldest = client.local["oplog.rs"].find_one(sort=[("$natural", 1)])
        return OplogTimestamp.from_bson(oldest["ts"]) > moment

    return begins_behind


@pytest.mark.long
def test_what_the_oplog_has_lost_is_a_gap_and_both_of_its_sides_can_be_restored(
    installation: Any, small_oplog_lab: ReplicaSetLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_starting, "STALE_CHECK_SECONDS", 0.5)
    context, lab = installation.context, small_oplog_lab
    with lab.client(w="majority") as client:
        client.shop.things.insert_one({"before": "the gap"})
    with installation.working():
        cluster = installation.register_and_follow(lab)
        old = installation.take_snapshot(cluster)
        last = archive_now(context, cluster)

    with lab.client(w="majority") as client:
        client.shop.things.insert_one({"in": "the gap"})
        lost = OplogTimestamp.from_bson(client.admin.command("hello")["lastWrite"]["opTime"]["ts"])
    installation.wait_until(write_through(lab, lost), what="an oplog that begins behind it")

    def new_base() -> Any:
        found = installation.catalog.snapshots.newest_complete(cluster.id)
        return found if found.id != old.id else None

    with installation.working():
        new = installation.wait_until(new_base, what="a snapshot behind the gap")
        archive_now(context, cluster)

    (gap,) = installation.catalog.archives.find(cluster.id).gaps
    assert gap.after >= last
    assert gap.after.timestamp < lost < gap.before.timestamp
    assert "no entry" in gap.reason
    (event,) = installation.events(cluster, "oplog.gap")
    assert str(gap.after) in event.message
    assert [e.actor for e in installation.events(cluster, "snapshot.requested")] == ["test", ACTOR]
    assert new.applied_timestamp >= gap.before.timestamp
    assert len(archive_of(context, cluster).ranges()) == 2

    before = resolve(installation, cluster, at(gap.after.timestamp))
    inside = resolve(installation, cluster, at(lost))
    now = resolve(installation, cluster, AtNow())
    assert isinstance(before, Resolution)
    assert before.base.id == old.id
    assert isinstance(inside, Refusal)
    assert "lies in a gap of the oplog archive" in inside.message
    assert isinstance(now, Resolution)
    assert now.base.id == new.id
