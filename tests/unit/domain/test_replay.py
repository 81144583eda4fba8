"""What must be true of files before a replay, and what proves that it happened."""

import pytest

from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.replay import (
    HistoryDiverged,
    ReplayBase,
    ReplayFailed,
    ReplayPlan,
    check_base,
    check_replayed,
    check_truncate_point,
    plan_beyond,
    plan_within,
)


def at(seconds: int, term: int = 1) -> OpTime:
    return OpTime(OplogTimestamp(seconds, 1), term)


BASE = ReplayBase(stable=at(10).timestamp, applied=at(20).timestamp)
NEWEST = at(20)


def test_within_the_files_oplog_what_is_beyond_the_target_goes() -> None:
    assert ReplayPlan(target=at(15), truncates=True) == plan_within(BASE, newest=NEWEST, newest_within=at(15))
    assert ReplayPlan(target=at(10), truncates=True) == plan_within(BASE, newest=NEWEST, newest_within=at(10))
    assert ReplayPlan(target=NEWEST) == plan_within(BASE, newest=NEWEST, newest_within=NEWEST)


@pytest.mark.parametrize("within", [None, at(9)])
def test_a_moment_before_the_files_data_cannot_be(within: OpTime | None) -> None:
    with pytest.raises(ReplayFailed, match="no entry"):
        plan_within(BASE, newest=NEWEST, newest_within=within)


def test_beyond_it_entries_are_inserted() -> None:
    plan = plan_beyond(BASE, newest=NEWEST, archived=NEWEST, newest_archived=at(30))
    assert plan == ReplayPlan(target=at(30), inserts=True)


def test_where_nothing_was_written_since_nothing_is_inserted() -> None:
    plan = plan_beyond(BASE, newest=NEWEST, archived=NEWEST, newest_archived=NEWEST)
    assert plan == ReplayPlan(target=NEWEST)


@pytest.mark.parametrize("archived", [None, at(20, term=2)])
def test_two_histories_are_never_joined(archived: OpTime | None) -> None:
    with pytest.raises(HistoryDiverged):
        plan_beyond(BASE, newest=NEWEST, archived=archived, newest_archived=at(30))


def test_files_must_be_what_their_manifest_says() -> None:
    check_base(BASE, opened_at=BASE.stable, newest=NEWEST)
    with pytest.raises(ReplayFailed, match="open at None"):
        check_base(BASE, opened_at=None, newest=NEWEST)
    with pytest.raises(ReplayFailed, match="ends at"):
        check_base(BASE, opened_at=BASE.stable, newest=at(21))


def test_only_an_oplog_that_is_not_marked_to_be_cut_takes_entries() -> None:
    check_truncate_point(None)
    check_truncate_point(OplogTimestamp(0, 0))
    with pytest.raises(ReplayFailed):
        check_truncate_point(OplogTimestamp(20, 1))


PLAN = ReplayPlan(target=at(30), inserts=True)


def test_all_of_it_and_nothing_else_was_applied() -> None:
    check_replayed(PLAN, expected=5, applied=5, newest=at(30))
    check_replayed(PLAN, expected=0, applied=None, newest=at(30))


@pytest.mark.parametrize(
    ("applied", "newest"), [(4, at(30)), (6, at(30)), (None, at(30)), (5, at(29)), (5, at(30, term=2))]
)
def test_anything_else_fails(applied: int | None, newest: OpTime) -> None:
    with pytest.raises(ReplayFailed):
        check_replayed(PLAN, expected=5, applied=applied, newest=newest)
