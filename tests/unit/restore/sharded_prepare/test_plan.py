"""Which directory is which part; and which directories are no cluster. All of it by restoreInfo.txt alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import Refused
from ebbtide.restore.archive_directory import DirectorySight
from ebbtide.restore.sharded_prepare.plan import plan_sharded_prepare
from ebbtide.restore.sharded_prepare.targets import parse_targets

from .conftest import LIMIT

TARGETS = parse_targets(["config=cfg:1", "s0=a:1,a2:1", "s1=other/b:1"])
Sight = Callable[..., DirectorySight]


def test_directories_are_matched_with_their_parts_in_any_order(sight: Sight) -> None:
    plan = plan_sharded_prepare([sight("s1"), sight("config"), sight("s0")], TARGETS, others_elsewhere=False)
    assert [(part.name, part.replica_set_name, part.host) for part in plan.parts] == [
        ("config", "rs-config", "cfg:1"),
        ("s0", "rs-s0", "a:1"),
        ("s1", "other", "b:1"),
    ]
    assert (plan.moment, plan.elsewhere) == (LIMIT, ())


def test_parts_of_other_machines_are_named_only_when_it_is_said(sight: Sight) -> None:
    plan = plan_sharded_prepare([sight("s0")], TARGETS, others_elsewhere=True)
    assert ([part.name for part in plan.parts], plan.elsewhere) == (["s0"], ("config", "s1"))
    with pytest.raises(Refused, match="no directory is of config, s1") as error:
        plan_sharded_prepare([sight("s0")], TARGETS, others_elsewhere=False)
    assert "--others-elsewhere" in error.value.hint


ALL = ("config", "s0", "s1")


@pytest.mark.parametrize(
    ("parts", "what", "fix"),
    [
        ([*ALL, "s2"], "is of s2, and it is not said where", "add --part s2=HOST:PORT"),
        ([*ALL, "s1"], "two directories are of s1", "name one of each part"),
        ([*ALL, ""], "is no part of a sharded cluster", "--replset and --host"),
    ],
)
def test_a_directory_that_is_one_too_many_is_refused(
    sight: Sight, parts: list[str], what: str, fix: str
) -> None:
    with pytest.raises(Refused) as error:
        plan_sharded_prepare([sight(part) for part in parts], TARGETS, others_elsewhere=False)
    assert what in error.value.message
    assert fix in error.value.hint


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"limit": OplogTimestamp(1_700_000_011, 0)}, "cut at different moments: config at (1700000010, 0)"),
        ({"limit": None}, "is a snapshot of s1 alone"),
        ({"sharded_cluster": "d" * 24}, "of different clusters"),
        ({"batch": "b" * 24}, f"config of none, s0 of none, s1 of {'b' * 24}"),
        ({"mongod_version": "7.0.1"}, "of mongod 7.0.1"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(sight: Sight, changes: dict[str, Any], what: str) -> None:
    sights = [sight("config"), sight("s0"), sight("s1", **changes)]
    with pytest.raises(Refused) as error:
        plan_sharded_prepare(sights, TARGETS, others_elsewhere=False)
    assert what in error.value.message


def test_a_version_that_was_not_tried_is_refused(sight: Sight) -> None:
    sights = [
        replace(sight(part, mongod_version="7.0.2"), our_version="7.0.2") for part in ("config", "s0", "s1")
    ]
    with pytest.raises(Refused, match=r"not on config 7\.0\.2"):
        plan_sharded_prepare(sights, TARGETS, others_elsewhere=False)


def test_everything_in_the_way_is_told_together(sight: Sight) -> None:
    sights = [
        replace(sight("config"), is_in_use=True),
        replace(sight("s0"), is_ours=False),
        sight("s1", limit=None),
    ]
    with pytest.raises(Refused, match=r"a mongod runs on it.*another user.*s1 alone") as error:
        plan_sharded_prepare(sights, TARGETS, others_elsewhere=False)
    assert "stop that mongod first" in error.value.hint


def test_a_directory_that_tells_nothing_is_refused(sight: Sight) -> None:
    with pytest.raises(Refused, match=r"no restoreInfo\.txt"):
        plan_sharded_prepare([replace(sight("config"), info=None)], TARGETS, others_elsewhere=True)
