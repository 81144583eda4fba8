"""Restores into a running set, by a worker: all of it or a part, and back again."""

from typing import Any

from ebbtide.domain.automated_restore import TargetState, WriteBlock
from ebbtide.testing.dbhash import database_hashes

Document = dict[str, Any]


def hashes(restoring: Any) -> Document:
    """Of the users' databases, as the primary has them."""
    primary = restoring.lab.primary()
    with restoring.lab.member_client(primary.index) as client:
        return database_hashes(client, exclude=("local", "admin", "config"))


def test_a_snapshot_comes_back_into_its_own_cluster_and_can_be_undone(restoring: Any) -> None:
    before = hashes(restoring)
    snapshot = restoring.installation.take_snapshot(restoring.cluster)
    with restoring.client(w="majority") as client:
        client.drop_database("shop")
        client.intruder.things.insert_one({"_id": 1})

    job = restoring.wait(restoring.request(snapshot))

    assert hashes(restoring) == before
    record = restoring.record(job)
    assert (record.target_state, record.write_block) == (TargetState.RESTORED, WriteBlock.OFF)
    assert record.comparison is not None
    assert (record.comparison.differences, record.comparison.is_digest_skipped) == ((), False)
    assert job.expires is None
    assert record.undo_point is not None
    with restoring.client(w="majority") as client:
        client.shop.things.insert_one({"after": "the restore"})
