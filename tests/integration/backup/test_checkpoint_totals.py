"""What checkpoints of a busy bank restore to: every part replayed to the one moment, all the money is there.

The moments are taken while transfers are made and chunks are moved, half of them with a transfer that is committed on one
shard only. The sum over the restored parts counts what each shard owned, by the restored config server's chunks.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bson.int64 import Int64

from ebbtide.backup.checkpoint_requesting import CheckpointRefused, request_checkpoint
from ebbtide.domain.checkpoint import Checkpoint, CheckpointState
from ebbtide.domain.cluster import Cluster, ClusterState, HeadState
from ebbtide.domain.progress import NoProgress
from ebbtide.domain.snapshot import Snapshot
from ebbtide.repository.repository import never_cancelled
from ebbtide.restore.source import build_source, started_source, wipe_scratch
from ebbtide.testing.bank import COLLECTION, DATABASE, NAMESPACE, BackgroundBank, Bank, StopAfter
from ebbtide.testing.sharded_lab import ShardedLab

Document = dict[str, Any]

MOMENTS = 4
BETWEEN = 15
"""Transfers between two checkpoints."""


class RestoredBank:
    """Every part of one checkpoint, brought to its moment one after another, and what was in them."""

    def __init__(
        self, installation: Any, checkpoint: Checkpoint, bases: dict[str, Snapshot], scratch: Path
    ) -> None:
        self.chunks: list[Document] = []
        self.accounts: dict[str, list[Document]] = {}
        for part in checkpoint.parts:
            built = build_source(
                installation.context,
                SimpleNamespace(check=never_cancelled),  # type: ignore[arg-type]
                cluster_id=part.cluster_id,
                replica_set_name=part.replica_set_name,
                base=bases[part.name],
                limit=checkpoint.restores_to,
                directory=scratch / "part",
                progress=NoProgress(),
            )
            with started_source(built, check=never_cancelled) as client:
                if part.shard_name is None:
                    entry = client.config.collections.find_one({"_id": NAMESPACE}) or {}
                    self.chunks = list(client.config.chunks.find({"uuid": entry["uuid"]}))
                else:
                    self.accounts[part.shard_name] = list(client[DATABASE][COLLECTION].find())
            wipe_scratch(scratch / "part")

    def total(self) -> int:
        return sum(
            account["balance"]
            for shard, accounts in self.accounts.items()
            for account in accounts
            if self._owner(account["_id"]) == shard
        )

    def _owner(self, account: int) -> str:
        (owner,) = [chunk["shard"] for chunk in self.chunks if _is_within(account, chunk)]
        return str(owner)


def _is_within(account: int, chunk: Document) -> bool:
    low, high = chunk["min"]["_id"], chunk["max"]["_id"]
    numbers = (int, Int64)
    return (not isinstance(low, numbers) or low <= account) and (
        not isinstance(high, numbers) or account < high
    )


class Checkpoints:
    """Taking them, of the bank's cluster."""

    def __init__(self, installation: Any, cluster: Cluster) -> None:
        self.installation = installation
        self.cluster = cluster

    def take(self) -> Checkpoint:
        catalog, clock = self.installation.catalog, self.installation.context.clock

        def ask() -> Checkpoint | None:
            try:
                return request_checkpoint(self.cluster, catalog=catalog, clock=clock)
            except CheckpointRefused:
                return None

        asked = self.installation.wait_until(ask, what="archives of all parts")

        def look() -> Checkpoint | None:
            found: Checkpoint = catalog.checkpoints.find(asked.id)
            assert found.state is not CheckpointState.FAILED, found.message
            return found if found.state is CheckpointState.COMPLETE else None

        taken: Checkpoint = self.installation.wait_until(look, what="a checkpoint")
        return taken


@pytest.mark.long
def test_every_total_is_conserved(installation: Any, sharded_lab: ShardedLab, tmp_path: Path) -> None:
    cluster = installation.register_sharded(sharded_lab, "busy")
    parts = installation.catalog.clusters.list_parts(cluster.id)
    checkpoints = Checkpoints(installation, cluster)
    taken = []
    with installation.working(oplog_upkeep_seconds=1.0), Bank(sharded_lab) as bank:
        for part in parts:
            installation.wait_for_head(part, HeadState.FOLLOWING)
        with BackgroundBank(bank) as background:
            bases = {part.name: installation.take_snapshot(part) for part in parts}
            for moment in range(MOMENTS):
                background.wait_for(transfers=background.transfers + BETWEEN)
                half = bank.transfer(stop_after=StopAfter.FIRST_COMMIT) if moment % 2 else None
                try:
                    taken.append(checkpoints.take())
                finally:
                    if half is not None:
                        half.finish()
        for checkpoint in taken:
            restored = RestoredBank(installation, checkpoint, bases, tmp_path)
            assert bank.expected_total == restored.total(), checkpoint
        assert any(checkpoint.restores_to < checkpoint.cluster_time for checkpoint in taken)
        installation.remove_sharded(cluster)
        for part in parts:
            installation.wait_until(
                lambda part=part: installation.cluster(part).state is ClusterState.REMOVED, what="removed"
            )
