"""The state of oplog archives: what is put comes back, and a wish only ever grows."""

from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace

from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.archive_state import ArchiveState
from ebbtide.domain.oplog import OplogGap
from ebbtide.domain.optime import OplogTimestamp, OpTime


def optime(seconds: int) -> OpTime:
    return OpTime(OplogTimestamp(seconds, 2**32 - 1), -1)


def state_of(make: SimpleNamespace) -> ArchiveState:
    now: datetime = make.now
    return ArchiveState(
        id=make.cluster_id,
        observed=now,
        oldest=optime(3),
        archived_to=optime(2**32 - 1),
        archived_wall=now,
        lag_seconds=1.5,
        source="m:1",
        wanted=OplogTimestamp(7, 7),
        gaps=(OplogGap(after=optime(4), before=optime(5), found=now, reason="why"),),
    )


def test_a_state_comes_back_as_it_was(catalog: Catalog, make: SimpleNamespace) -> None:
    state = state_of(make)
    assert catalog.archives.begin(state) == state
    assert catalog.archives.find(state.id) == state
    assert catalog.archives.list_all() == [state]


def test_an_archive_begins_once(catalog: Catalog, make: SimpleNamespace) -> None:
    state = state_of(make)
    catalog.archives.begin(state)
    other = ArchiveState(id=state.id, observed=make.now + timedelta(days=1))
    assert catalog.archives.begin(other) == state


def test_changes_are_seen(catalog: Catalog, make: SimpleNamespace) -> None:
    state = state_of(make)
    assert catalog.archives.update(state.id, source="x") is None
    catalog.archives.begin(state)
    changed = replace(state, gaps=(), archived_to=optime(9), message="m")
    assert changed == catalog.archives.update(state.id, gaps=(), archived_to=optime(9), message="m")


def test_a_wish_grows_and_never_shrinks(catalog: Catalog, make: SimpleNamespace) -> None:
    assert not catalog.archives.want(make.cluster_id, OplogTimestamp(1, 1))
    catalog.archives.begin(ArchiveState(id=make.cluster_id, observed=make.now))
    for wanted, expected in (
        (OplogTimestamp(9, 2), OplogTimestamp(9, 2)),
        (OplogTimestamp(9, 1), OplogTimestamp(9, 2)),
        (OplogTimestamp(8, 9), OplogTimestamp(9, 2)),
        (OplogTimestamp(10, 0), OplogTimestamp(10, 0)),
    ):
        assert catalog.archives.want(make.cluster_id, wanted)
        found = catalog.archives.find(make.cluster_id)
        assert found is not None
        assert found.wanted == expected
