"""When a head's files are given up, and what takes their place."""

import pytest

from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.reseed import (
    FromSnapshot,
    InitialSync,
    ReseedBase,
    followed_hosts,
    has_fallen_off,
    newest_base,
    plan_reseed,
    says_damaged,
)


def at(seconds: int) -> OplogTimestamp:
    return OplogTimestamp(seconds, 1)


def base(seconds: int, fcv: str = "6.0") -> ReseedBase:
    return ReseedBase(snapshot_id=SnapshotId(f"{seconds:024x}"), stable_timestamp=at(seconds), fcv=fcv)


@pytest.mark.parametrize(
    ("newest", "oldest", "reason"),
    [
        (base(100), [at(50)], None),
        (base(100), [at(100)], None),
        (base(100), [at(150), at(90)], None),
        (base(100), [at(101)], "the set's oplog begins at"),
        (base(100), [], "no member said"),
        (base(100, fcv="5.0"), [at(50)], "FCV 5.0, and the set has 6.0"),
        (None, [at(50)], "there is no snapshot"),
    ],
)
def test_a_snapshot_will_do_if_some_oplog_reaches_back_to_it(
    newest: ReseedBase | None, oldest: list[OplogTimestamp], reason: str | None
) -> None:
    plan = plan_reseed(newest, oplog_oldest=oldest, fcv="6.0")
    if reason is None:
        assert newest is not None
        assert FromSnapshot(base=newest) == plan
    else:
        assert isinstance(plan, InitialSync)
        assert reason in plan.reason


def test_the_newest_data_counts_not_the_order() -> None:
    assert base(9) == newest_base([base(7), base(9), base(8)])
    assert newest_base([]) is None


@pytest.mark.parametrize(
    ("state", "newest", "oldest", "fallen"),
    [
        ("RECOVERING", at(10), [at(11)], True),
        ("RECOVERING", at(10), [at(11), at(12)], True),
        ("RECOVERING", at(10), [at(10)], False),
        ("RECOVERING", at(10), [at(11), at(5)], False),
        ("RECOVERING", at(10), [], False),
        ("RECOVERING", None, [at(11)], False),
        ("SECONDARY", at(10), [at(11)], False),
        ("STARTUP2", at(10), [at(11)], False),
        ("ROLLBACK", at(10), [at(11)], False),
    ],
)
def test_a_head_has_fallen_off_if_nobody_has_what_follows(
    state: str, newest: OplogTimestamp | None, oldest: list[OplogTimestamp], fallen: bool
) -> None:
    assert fallen is has_fallen_off(state=state, newest=newest, oplog_oldest=oldest)


def test_arbiters_delayed_members_and_the_head_itself_are_not_followed() -> None:
    members = [
        {"host": "a:1"},
        {"host": "b:1", "arbiterOnly": True},
        {"host": "c:1", "secondaryDelaySecs": 3600},
        {"host": "d:1", "slaveDelay": 3600},
        {"host": "e:1", "hidden": True, "secondaryDelaySecs": 0},
        {"host": "head:1", "hidden": True},
    ]
    assert followed_hosts({"members": members}, head="head:1") == ["a:1", "e:1"]


def line(severity: str, component: str, said: str) -> str:
    return f'{{"t":{{}},"s":"{severity}",  "c":"{component}",  "id":1,"ctx":"main","msg":"{said}"}}'


@pytest.mark.parametrize(
    ("log", "damaged"),
    [
        (line("E", "WT", "WT_TRY_SALVAGE: database corruption detected"), True),
        (line("F", "STORAGE", "Please read the documentation for starting MongoDB with --repair here"), True),
        (line("E", "WT", "_mdb_catalog.wt: open: No such file or directory"), True),
        (line("E", "WT", "WT_PANIC") + "\n" + line("E", "WT", "write: No space left on device"), False),
        (line("E", "WT", "WT_PANIC") + "\n" + line("E", "WT", "open: Permission denied"), False),
        (line("I", "WT", "recovery log replay, WT_NOTFOUND"), False),
        (line("E", "CONTROL", "keyfile: No such file or directory"), False),
        (line("E", "NETWORK", "Failed to set up listener: Address already in use"), False),
        ("", False),
    ],
)
def test_only_errors_of_the_storage_mean_damage(log: str, damaged: bool) -> None:
    assert damaged is says_damaged(log)
    backtrace = "\n".join([line("I", "CONTROL", "Frame")] * 50)
    assert damaged is says_damaged(log + "\n" + backtrace)
