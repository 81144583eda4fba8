"""Archives of a real sharded cluster: what was open where they begin is known, and checkpoints restore to whole moments.

The cluster is registered while a transfer is prepared and undecided. The first test decides it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from ebbtide.backup.archive_wait import wait_until_archived
from ebbtide.backup.checkpoint_requesting import CheckpointRefused, request_checkpoint
from ebbtide.backup.consistent_points import find_consistent_point
from ebbtide.backup.open_work import OpenWorkCarry, ask_open_work
from ebbtide.catalog.archives import ArchiveCollection
from ebbtide.domain.checkpoint import Checkpoint, CheckpointState, newest_checkpoint_slot
from ebbtide.domain.cluster import Cluster, ClusterState, HeadState
from ebbtide.domain.consistent_point import ConsistentPoint, NoConsistentPoint
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.open_work import OpenWorkStore
from ebbtide.testing.bank import Bank, StopAfter, StoppedTransfer
from ebbtide.testing.sharded_lab import ShardedLab
from ebbtide.worker import checkpointing, housekeeping

SLICE_SECONDS = 3600.0
"""Nothing is archived but what is asked for."""


@dataclass
class Backup:
    """The bank under backup, a worker at work."""

    installation: Any
    bank: Bank
    cluster: Cluster
    parts: list[Cluster] = field(default_factory=list)
    stopped: list[StoppedTransfer] = field(default_factory=list)

    def archive(self, part: Cluster) -> OplogArchive:
        return OplogArchive(self.installation.context.repository.replica_set(part.id, part.replica_set_name))

    def records(self, part: Cluster) -> OpenWorkStore:
        return OpenWorkStore(self.archive(part).store)

    def stop_transfer(self, stop_after: StopAfter) -> StoppedTransfer:
        """One that stands half way, until it, or the module, is finished."""
        transfer = self.bank.transfer(stop_after=stop_after)
        assert transfer is not None
        self.stopped.append(transfer)
        return transfer

    def finish(self, transfer: StoppedTransfer) -> None:
        transfer.finish()
        # A connection to a shard that was killed meanwhile cannot say it again.
        self.stopped.remove(transfer)

    def archived_note(self) -> OplogTimestamp:
        """A cluster time that every archive has reached."""
        noted = OplogTimestamp.from_bson(self.bank.lab.gossip_note())
        context = self.installation.context
        for part in self.parts:
            context.catalog.archives.want(part.id, noted)
        for part in self.parts:
            wait_until_archived(
                context.catalog, part.id, noted, clock=context.clock, check=lambda: None, seconds=120
            )
        return noted

    def find_point(self, at_most: OplogTimestamp) -> ConsistentPoint | NoConsistentPoint:
        return find_consistent_point(self.parts, at_most=at_most, context=self.installation.context)

    def request_checkpoint(self, cluster: Cluster | None = None) -> Checkpoint:
        return request_checkpoint(
            cluster or self.cluster, catalog=self.installation.catalog, clock=self.installation.context.clock
        )

    def wait_for_checkpoint(
        self, checkpoint: Checkpoint, state: CheckpointState, message: str = ""
    ) -> Checkpoint:
        """The checkpoint once it is in a state and says something."""

        def look() -> Checkpoint | None:
            found = self.installation.catalog.checkpoints.find(checkpoint.id)
            return found if found and found.state is state and message in found.message else None

        found: Checkpoint = self.installation.wait_until(look, what=f"a checkpoint {state} {message}")
        return found

    def take_checkpoint(self) -> Checkpoint:
        return self.wait_for_checkpoint(self.request_checkpoint(), CheckpointState.COMPLETE)

    def wait_until_removed(self) -> None:
        self.installation.remove_sharded(self.cluster)
        for part in self.parts:
            self.installation.wait_until(
                lambda part=part: self.installation.cluster(part).state is ClusterState.REMOVED,
                what="removed",
            )


@pytest.fixture(scope="module")
def backup(shared_installation: Any, shared_sharded_lab: ShardedLab) -> Iterator[Backup]:
    shared_sharded_lab.reset()
    with Bank(shared_sharded_lab) as bank, pytest.MonkeyPatch.context() as patch:
        # Tests wait for these looks, and there are many of them.
        patch.setattr(checkpointing, "JUDGE_SECONDS", 0.0)
        patch.setattr(housekeeping, "LOOK_SECONDS", 0.2)
        stopped = bank.transfer(stop_after=StopAfter.PREPARE)
        assert stopped is not None
        undecided = [stopped]
        try:
            cluster = shared_installation.register_sharded(bank.lab, "carried")
            backup = Backup(shared_installation, bank, cluster, stopped=undecided)
            backup.parts = shared_installation.catalog.clusters.list_parts(cluster.id)
            with shared_installation.working(oplog_upkeep_seconds=1.0, oplog_slice_seconds=SLICE_SECONDS):
                for part in backup.parts:
                    shared_installation.wait_for_head(part, HeadState.FOLLOWING)
                yield backup
                backup.wait_until_removed()
        finally:
            # What is left prepared would keep the lab from stopping.
            for transfer in undecided:
                transfer.finish()


def test_what_was_prepared_before_the_archive_began_is_never_split(backup: Backup) -> None:
    for part in backup.parts:
        backup.installation.wait_until(backup.records(part).moments, what=f"a record of {part.name}")
    # A head's oplog reaches back to the oldest prepare, so the archive itself may tell of it: the part is asked.
    shown = {}
    for part in backup.parts:
        (first, *_) = backup.records(part).moments()
        asked, _ = ask_open_work(backup.installation.context.access(part), after=first)
        shown[part.name] = [(found.id, found.prepared) for found in asked.transactions]
    assert shown["carried-config"] == []
    assert len(shown["carried-shard0"]) == 1
    assert shown["carried-shard0"] == shown["carried-shard1"]
    assert shown["carried-shard0"][0][1] is None

    undecided = backup.archived_note()
    backup.finish(backup.stopped[0])
    decided = backup.archived_note()
    for moment in (undecided, decided):
        assert ConsistentPoint(timestamp=moment) == backup.find_point(moment)


def test_a_record_further_on_holds_what_is_open_there(backup: Backup) -> None:
    half = backup.stop_transfer(StopAfter.FIRST_COMMIT)
    border = backup.archived_note()
    for part in backup.parts:
        carry = OpenWorkCarry(part, backup.archive(part), backup.installation.context, check=lambda: None)
        assert carry.carry_to(border)
        for earlier in backup.records(part).moments():
            if earlier != border:
                backup.records(part).delete(earlier)
    assert not isinstance(backup.find_point(border), ConsistentPoint)

    backup.finish(half)
    end = backup.archived_note()
    assert ConsistentPoint(timestamp=end) == backup.find_point(end)


def test_a_checkpoint_is_restorable_once_a_snapshot_of_every_part_leads_to_it(backup: Backup) -> None:
    with pytest.raises(CheckpointRefused, match="is a replica set"):
        backup.request_checkpoint(backup.parts[0])
    early = backup.take_checkpoint()
    assert not early.restorable
    assert "no complete snapshot of carried-config" in early.message

    snapshots = [backup.installation.request_snapshot(part) for part in backup.parts]
    for snapshot in snapshots:
        backup.installation.wait_for_snapshot(snapshot)
    backup.bank.transfer()
    late = backup.take_checkpoint()

    assert (late.restorable, late.message, late.restores_to) == (True, "", late.cluster_time)
    assert all(part.is_archived and late.cluster_time <= part.token for part in late.parts)
    still = backup.installation.catalog.checkpoints.find(early.id)
    assert not still.restorable, "no snapshot of today leads to what was before it"


def test_a_checkpoint_steps_back_before_a_transfer_that_is_half_committed(backup: Backup) -> None:
    whole = backup.archived_note()
    half = backup.stop_transfer(StopAfter.FIRST_COMMIT)
    try:
        taken = backup.take_checkpoint()
        found = backup.find_point(taken.cluster_time)
    finally:
        backup.finish(half)
    assert whole <= taken.restores_to < taken.cluster_time
    assert ConsistentPoint(timestamp=taken.restores_to) == found


def test_a_shard_whose_archive_is_behind_is_waited_for(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = backup.archived_note()
    behind = backup.parts[-1]
    want = ArchiveCollection.want

    def want_others(self: ArchiveCollection, cluster_id: ClusterId, timestamp: OplogTimestamp) -> bool:
        return cluster_id == behind.id or want(self, cluster_id, timestamp)

    monkeypatch.setattr(ArchiveCollection, "want", want_others)
    backup.bank.transfer()
    asked = backup.request_checkpoint()
    waiting = backup.wait_for_checkpoint(asked, CheckpointState.NOTED, f"archive of {behind.name}")

    assert {part.name: part.is_archived for part in waiting.parts} == {
        part.name: part is not behind for part in backup.parts
    }
    assert not waiting.restorable
    # What all of them have can be cut at, and nothing beyond the one that is behind.
    state = backup.installation.catalog.archives.find(behind.id)
    found = backup.find_point(waiting.cluster_time)
    assert isinstance(found, ConsistentPoint)
    assert before <= found.timestamp <= state.archived_to.timestamp < waiting.cluster_time

    monkeypatch.undo()
    complete = backup.wait_for_checkpoint(asked, CheckpointState.COMPLETE)
    assert complete.restores_to == complete.cluster_time


def test_the_schedule_asks_for_the_newest_slot_once_and_the_window_forgets(backup: Backup) -> None:
    catalog, clock = backup.installation.catalog, backup.installation.context.clock
    began = clock.now()
    schedule = replace(
        catalog.schedules.get(backup.cluster),
        # Three slots of checkpoints, and none of snapshots, were missed.
        counts_from=began - timedelta(minutes=46),
        checkpoint_interval_minutes=15,
        reference_hour=(began + timedelta(hours=3)).hour,
    )
    catalog.schedules.put(schedule)
    slot = backup.installation.wait_until(
        lambda: catalog.checkpoints.newest_slot(backup.cluster.id), what="a checkpoint by schedule"
    )
    possible = {newest_checkpoint_slot(interval_minutes=15, now=now) for now in (began, clock.now())}
    assert slot in possible

    # Everything lies before the window now, and only the slot that was taken is still needed.
    catalog.schedules.put(replace(schedule, point_in_time_window_hours=0))

    def kept() -> list[Any]:
        return [
            found.scheduled_for for found in catalog.checkpoints.page(backup.cluster.id, skip=0, limit=100)
        ]

    backup.installation.wait_until(
        lambda: kept() == [catalog.checkpoints.newest_slot(backup.cluster.id)], what="old checkpoints to go"
    )
    catalog.schedules.put(replace(schedule, counts_from=clock.now() + timedelta(days=1)))


def test_a_shard_that_does_not_answer_is_waited_for(backup: Backup) -> None:
    shard = backup.bank.lab.shards["shard1"]
    shard.kill_member(0)
    try:
        asked = backup.request_checkpoint()
        waiting = backup.wait_for_checkpoint(asked, CheckpointState.WANTED, "waits: ")
        assert (waiting.parts, waiting.cluster_time, waiting.restorable) == ((), None, False)
    finally:
        shard.restart_member(0)
        shard.primary()
    complete = backup.wait_for_checkpoint(asked, CheckpointState.COMPLETE)
    assert len(complete.parts) == 3
    assert complete.restorable
