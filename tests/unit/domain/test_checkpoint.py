"""Checkpoints: when one is due, whether it can be restored, and what restoring it means."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.checkpoint import (
    Archived,
    Checkpoint,
    CheckpointPart,
    CheckpointState,
    Lost,
    PartView,
    Waiting,
    checkpoint_restore_point,
    due_checkpoint_slot,
    is_forgotten,
    judge_bases,
    judge_tokens,
    newest_checkpoint_slot,
)
from ebbtide.domain.ids import CheckpointId, ClusterId, GroupId, SnapshotId
from ebbtide.domain.oplog import OplogRange
from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.domain.restore_point import AtOplog, Refusal
from ebbtide.domain.schedule import CHECKPOINT_INTERVAL_MINUTES, SnapshotSchedule
from ebbtide.domain.snapshot import Snapshot, SnapshotState

GROUP = GroupId("a" * 24)
CONFIG, SHARD = ClusterId("c" * 24), ClusterId("d" * 24)
ASKED = datetime(2026, 5, 1, 10, 7, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def ts(seconds: int, increment: int = 1) -> OplogTimestamp:
    return OplogTimestamp(seconds, increment)


def clock(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-05-01T{text}:00+00:00")


def schedule(minutes: int, counts_from: datetime = LONG_AGO) -> SnapshotSchedule:
    return SnapshotSchedule(
        id=CONFIG,
        group_id=GROUP,
        counts_from=counts_from,
        reference_hour=0,
        reference_minute=0,
        checkpoint_interval_minutes=minutes,
    )


def part(cluster_id: ClusterId, token: OplogTimestamp, *, is_archived: bool = False) -> CheckpointPart:
    return CheckpointPart(
        cluster_id=cluster_id,
        name="bank-config" if cluster_id == CONFIG else "bank-shard0",
        replica_set_name="rs",
        shard_name=None if cluster_id == CONFIG else "shard0",
        is_config_server=cluster_id == CONFIG,
        token=token,
        is_archived=is_archived,
    )


NOTED = Checkpoint(
    id=CheckpointId("e" * 24),
    group_id=GROUP,
    cluster_id=ClusterId("b" * 24),
    cluster_name="bank",
    created=ASKED,
    state=CheckpointState.NOTED,
    parts=(part(CONFIG, ts(100, 2)), part(SHARD, ts(100, 3))),
    completed=ASKED + timedelta(seconds=1),
    cluster_time=ts(100),
)
COMPLETE = replace(NOTED, state=CheckpointState.COMPLETE, restores_to=ts(99, 7))


def view(*ranges: tuple[int, int], snapshots: tuple[tuple[int, int], ...] = ()) -> PartView:
    """`ranges` in seconds; each snapshot is its T_s and its T_a."""
    return PartView(
        ranges=[OplogRange(first=OpTime(ts(first), 1), last=OpTime(ts(last), 1)) for first, last in ranges],
        snapshots=[
            Snapshot(
                id=SnapshotId(f"{number:024x}"),
                group_id=GROUP,
                cluster_id=SHARD,
                cluster_name="bank-shard0",
                replica_set_name="rs",
                created=ASKED,
                state=SnapshotState.COMPLETE,
                stable_timestamp=ts(stable),
                applied_timestamp=ts(applied),
            )
            for number, (stable, applied) in enumerate(snapshots)
        ],
    )


@pytest.mark.parametrize(
    ("why", "minutes", "counts_from", "last_slot", "now", "expected"),
    [
        ("the hour", 60, LONG_AGO, "09:00", "10:07", "10:00"),
        ("its own moment counts", 60, LONG_AGO, "09:00", "10:00", "10:00"),
        ("one was taken for it", 60, LONG_AGO, "10:00", "10:59", None),
        ("half an hour", 30, LONG_AGO, "10:00", "10:44", "10:30"),
        ("a quarter", 15, LONG_AGO, "10:00", "10:14", None),
        ("a quarter that is over", 15, LONG_AGO, "10:00", "10:15", "10:15"),
        ("ten that were missed make one", 15, LONG_AGO, "06:00", "10:59", "10:45"),
        ("the first one", 60, LONG_AGO, None, "10:59", "10:00"),
        ("none for what was before it was registered", 60, clock("10:05"), None, "10:59", None),
        ("the first one after that", 60, clock("10:05"), None, "11:01", "11:00"),
    ],
)
def test_when_a_checkpoint_is_due(
    why: str, minutes: int, counts_from: datetime, last_slot: str | None, now: str, expected: str | None
) -> None:
    found = due_checkpoint_slot(
        schedule(minutes, counts_from),
        now=clock(now),
        last_slot=None if last_slot is None else clock(last_slot),
    )
    assert (None if expected is None else clock(expected)) == found, why


@given(
    st.sampled_from(CHECKPOINT_INTERVAL_MINUTES),
    st.datetimes(datetime(2001, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_slots_are_the_same_in_each_hour_and_one_interval_apart(minutes: int, now: datetime) -> None:
    slot = newest_checkpoint_slot(interval_minutes=minutes, now=now)
    assert slot <= now < slot + timedelta(minutes=minutes)
    assert (slot.minute % minutes, slot.second, slot.microsecond) == (0, 0, 0)
    later = [
        newest_checkpoint_slot(interval_minutes=minutes, now=now + timedelta(minutes=minutes * n))
        for n in range(4)
    ]
    assert {timedelta(minutes=minutes)} == {b - a for a, b in pairwise(later)}


BOTH = {CONFIG: view((50, 100), (101, 150)), SHARD: view((90, 120))}


@pytest.mark.parametrize(
    ("why", "views", "expected"),
    [
        ("both reach it", {CONFIG: view((50, 101)), SHARD: view((90, 120))}, [True, True]),
        ("one is behind", {CONFIG: view((50, 101)), SHARD: view((90, 99))}, "bank-shard0"),
        ("both are", {CONFIG: view((50, 99)), SHARD: view((90, 99))}, "bank-config, bank-shard0"),
        ("one has no archive yet", {CONFIG: view((50, 101))}, "bank-shard0"),
        ("it lies in a gap", {CONFIG: view((50, 99), (101, 150)), SHARD: view((90, 120))}, Lost),
        ("it lies before all that is archived", {CONFIG: view((101, 150)), SHARD: view((90, 120))}, Lost),
        ("a gap elsewhere is of no matter", {CONFIG: view((50, 60), (70, 150)), SHARD: view((90, 120))}, [True, True]),
        ("one is lost though another is behind", {CONFIG: view((50, 99)), SHARD: view((101, 120))}, Lost),
    ],
)  # fmt: skip
def test_whether_the_archives_have_the_tokens(
    why: str, views: Mapping[ClusterId, PartView], expected: object
) -> None:
    found = judge_tokens(NOTED, views)
    match expected:
        case str():
            assert isinstance(found, Waiting), why
            assert f"waits for the oplog archive of {expected}" == found.reason
            assert not all(part.is_archived for part in found.parts)
        case list():
            assert isinstance(found, Archived), why
            assert expected == [part.is_archived for part in found.parts]
        case _:
            assert isinstance(found, Lost), why


@pytest.mark.parametrize(
    ("why", "config", "shard", "missing"),
    [
        ("a snapshot of each before it", view((50, 101), snapshots=((60, 61),)), view((90, 120), snapshots=((95, 96),)), ""),
        ("none of one", view((50, 101), snapshots=((60, 61),)), view((90, 120)), "bank-shard0"),
        ("one of it is of later", view((50, 101), snapshots=((60, 61),)), view((90, 120), snapshots=((100, 102),)), "bank-shard0"),
        ("T_s before it and T_a behind it: the oplog is in the files", view((50, 101), snapshots=((60, 61),)), view((110, 120), snapshots=((98, 105),)), ""),
        ("a gap between the snapshot and it", view((50, 70), (80, 101), snapshots=((60, 61),)), view((90, 120), snapshots=((95, 96),)), "bank-config"),
        ("the archive was trimmed meanwhile", view((99, 101), snapshots=((60, 61),)), view((90, 120), snapshots=((95, 96),)), "bank-config"),
    ],
)  # fmt: skip
def test_whether_snapshots_lead_to_it(why: str, config: PartView, shard: PartView, missing: str) -> None:
    reason = judge_bases(COMPLETE, {CONFIG: config, SHARD: shard})
    assert bool(missing) == bool(reason), why
    assert missing in reason


def test_a_part_that_is_not_known_is_in_the_way() -> None:
    assert "bank-config" in judge_bases(COMPLETE, {})
    assert "not known" in judge_bases(NOTED, BOTH)


@pytest.mark.parametrize(
    ("checkpoint", "window_start", "expected"),
    [
        (COMPLETE, datetime.fromtimestamp(99, UTC), False),
        (COMPLETE, datetime.fromtimestamp(100, UTC), True),
        (NOTED, datetime.fromtimestamp(100, UTC), False),
        (NOTED, datetime.fromtimestamp(101, UTC), True),
        (replace(NOTED, cluster_time=None), ASKED, False),
        (replace(NOTED, cluster_time=None), ASKED + timedelta(seconds=1), True),
    ],
)
def test_what_lies_before_the_window_is_forgotten(
    checkpoint: Checkpoint, window_start: datetime, expected: bool
) -> None:
    assert expected is is_forgotten(checkpoint, window_start=window_start)


def test_restoring_one_means_everything_up_to_its_consistent_point() -> None:
    assert AtOplog(99, 7) == checkpoint_restore_point(replace(COMPLETE, restorable=True))


@pytest.mark.parametrize(
    ("checkpoint", "why"),
    [
        (replace(COMPLETE, message="no complete snapshot of bank-config"), "no complete snapshot"),
        (NOTED, "not restorable yet"),
        (replace(NOTED, state=CheckpointState.FAILED, message="it lies in a gap"), "in a gap"),
    ],
)
def test_one_that_is_not_restorable_is_refused_with_its_reason(checkpoint: Checkpoint, why: str) -> None:
    refused = checkpoint_restore_point(checkpoint)
    assert isinstance(refused, Refusal)
    assert (refused.code, why in refused.message) == ("NO_CHECKPOINT_FOR_PIT_RESTORE", True)
