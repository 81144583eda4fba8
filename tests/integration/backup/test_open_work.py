"""Archives of a real sharded cluster begin late, and are trimmed: what was open there is known all the same."""

from collections.abc import Iterator
from typing import Any

import pytest

from ebbtide.backup.archive_wait import wait_until_archived
from ebbtide.backup.consistent_points import find_consistent_point
from ebbtide.backup.open_work import OpenWorkCarry, ask_open_work
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.consistent_point import ConsistentPoint
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.open_work import OpenWorkStore
from ebbtide.testing.bank import Bank, StopAfter
from ebbtide.testing.sharded_lab import ShardedLab


@pytest.fixture
def bank(sharded_lab: ShardedLab) -> Iterator[Bank]:
    with Bank(sharded_lab) as bank:
        yield bank


def archive_of(installation: Any, part: Cluster) -> OplogArchive:
    return OplogArchive(installation.context.repository.replica_set(part.id, part.replica_set_name))


def archived_note(installation: Any, lab: ShardedLab, parts: list[Cluster]) -> OplogTimestamp:
    """A cluster time that every archive has reached."""
    noted = OplogTimestamp.from_bson(lab.gossip_note())
    for part in parts:
        wait_until_archived(
            installation.catalog,
            part.id,
            noted,
            clock=installation.context.clock,
            check=lambda: None,
            seconds=120,
        )
    return noted


def test_what_was_prepared_before_the_archive_began_is_never_split(installation: Any, bank: Bank) -> None:
    stopped = bank.transfer(stop_after=StopAfter.PREPARE)
    assert stopped is not None
    undecided_transfers = [stopped]
    cluster = installation.register_sharded(bank.lab, "carried")
    try:
        with installation.working(oplog_upkeep_seconds=1.0):
            parts = installation.catalog.clusters.list_parts(cluster.id)
            for part in parts:
                installation.wait_for_head(part, HeadState.FOLLOWING)
            stores = {part.name: OpenWorkStore(archive_of(installation, part).store) for part in parts}
            for name, store in stores.items():
                installation.wait_until(store.moments, what=f"a record of {name}")
            # A head's oplog reaches back to the oldest prepare, so the archive itself may tell of it: the part is asked.
            shown = {
                part.name: [
                    (found.id, found.prepared)
                    for found in ask_open_work(
                        installation.context.access(part), after=stores[part.name].moments()[0]
                    )[0].transactions
                ]
                for part in parts
            }
            assert shown["carried-config"] == []
            assert len(shown["carried-shard0"]) == 1
            assert shown["carried-shard0"] == shown["carried-shard1"]
            assert shown["carried-shard0"][0][1] is None

            undecided = archived_note(installation, bank.lab, parts)
            stopped.finish()
            decided = archived_note(installation, bank.lab, parts)
            for moment in (undecided, decided):
                found = find_consistent_point(parts, at_most=moment, context=installation.context)
                assert ConsistentPoint(timestamp=moment) == found

            # A record further on, as a trim needs it, holds what is open there.
            half = bank.transfer(stop_after=StopAfter.FIRST_COMMIT)
            assert half is not None
            undecided_transfers.append(half)
            border = archived_note(installation, bank.lab, parts)
            for part in parts:
                archive = archive_of(installation, part)
                carry = OpenWorkCarry(part, archive, installation.context, check=lambda: None)
                assert carry.carry_to(border)
                stores[part.name].delete(stores[part.name].moments()[0])
                assert [border] == stores[part.name].moments()
            split = find_consistent_point(parts, at_most=border, context=installation.context)
            assert not isinstance(split, ConsistentPoint)
            half.finish()
            end = archived_note(installation, bank.lab, parts)
            found = find_consistent_point(parts, at_most=end, context=installation.context)
            assert ConsistentPoint(timestamp=end) == found
    finally:
        # What is left prepared would keep the lab from stopping.
        for transfer in undecided_transfers:
            transfer.finish()
        installation.remove_sharded(cluster)
