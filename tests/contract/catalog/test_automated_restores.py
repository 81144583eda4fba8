"""The record of an automated restore: it claims its target, and says what is true of it."""

from types import SimpleNamespace

import pytest

from ebbtide.catalog.automated_restores import TargetBusy
from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.automated_restore import CollectionProgress, Comparison, TargetState, WriteBlock
from ebbtide.domain.cluster import ClusterState
from ebbtide.domain.ids import ClusterId, RestoreJobId, new_id
from ebbtide.domain.optime import OplogTimestamp


def test_two_restores_never_claim_one_target(catalog: Catalog, make: SimpleNamespace) -> None:
    catalog.prepare()
    first, second = make.automated_restore(), make.automated_restore()
    elsewhere = make.automated_restore(target_cluster_id=ClusterId(new_id()))
    catalog.automated_restores.insert(first)
    catalog.automated_restores.insert(elsewhere)

    with pytest.raises(TargetBusy):
        catalog.automated_restores.insert(second)
    assert catalog.automated_restores.find_active(first.target_cluster_id) == first

    catalog.automated_restores.release(first.id)
    catalog.automated_restores.insert(second)
    assert {r.id for r in catalog.automated_restores.list_active()} == {second.id, elsewhere.id}


def test_everything_that_is_recorded_comes_back(catalog: Catalog, make: SimpleNamespace) -> None:
    restore = make.automated_restore()
    catalog.automated_restores.insert(restore)
    progress = CollectionProgress(
        namespace="shop.$odd.name", documents=1, documents_total=2, size_bytes=3, size_bytes_total=4
    )
    compared = Comparison(
        collections=1, documents=2, digested=1, is_digest_skipped=False, differences=("a.b: 1",)
    )

    changed = catalog.automated_restores.update(
        restore.id,
        target_state=TargetState.LOADING,
        write_block=WriteBlock.SET,
        undo_point=OplogTimestamp(5, 6),
        collections=(progress,),
        comparison=compared,
    )

    assert changed is not None
    assert changed == catalog.automated_restores.find(restore.id)
    assert (changed.target_state, changed.write_block) == (TargetState.LOADING, WriteBlock.SET)
    assert (changed.undo_point, changed.collections) == (OplogTimestamp(5, 6), (progress,))
    assert changed.comparison == compared


def test_a_collection_is_finished_once(catalog: Catalog, make: SimpleNamespace) -> None:
    restore = make.automated_restore()
    catalog.automated_restores.insert(restore)
    for namespace in ("a.b", "a.b", "c.d"):
        catalog.automated_restores.finish_collection(restore.id, namespace)

    catalog.automated_restores.finish_collection(RestoreJobId(new_id()), "of another job")

    assert catalog.automated_restores.find_finished(restore.id) == {"a.b", "c.d"}
    catalog.automated_restores.forget_finished(restore.id)
    assert catalog.automated_restores.find_finished(restore.id) == set()
    catalog.automated_restores.finish_collection(restore.id, "a.b")
    catalog.automated_restores.release(restore.id)
    assert catalog.automated_restores.find_finished(restore.id) == set()


def test_a_removed_cluster_is_no_target_and_its_password_is_forgotten(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    cluster = make.cluster()
    catalog.clusters.insert(cluster)
    catalog.clusters.set_restore_target(
        cluster.id, restore_target=True, username="writer", auth_source="admin", password=make.sealed
    )
    before = catalog.clusters.find(cluster.id)
    catalog.clusters.set_state(cluster.id, ClusterState.REMOVED)
    after = catalog.clusters.find(cluster.id)

    assert before is not None
    assert (before.restore_target, before.restore_username, before.restore_password) == (
        True,
        "writer",
        make.sealed,
    )
    assert after is not None
    assert (after.restore_target, after.restore_username, after.restore_password) == (False, None, None)
