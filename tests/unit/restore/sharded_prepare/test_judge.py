"""What is changed in each part, given what its files say; and what keeps all of them from being changed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bson import ObjectId

from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.errors import IntegrityError, Refused
from ebbtide.restore.archive_directory import DirectorySight
from ebbtide.restore.new_set import new_configuration
from ebbtide.restore.sharded_prepare.judge import judge, new_addresses, remarks_about
from ebbtide.restore.sharded_prepare.plan import ShardedPlan, plan_sharded_prepare
from ebbtide.restore.sharded_prepare.survey import PartSurvey
from ebbtide.restore.sharded_prepare.targets import parse_targets

from .conftest import AT

Sight = Callable[..., DirectorySight]
Survey = Callable[..., PartSurvey]

ALL = ("config", "s0", "s1")
TARGETS = parse_targets(["config=csrs/cfg:1,cfg2:1", "s0=a:1", "s1=b:1"])
ADDRESSES = {"config": "csrs/cfg:1,cfg2:1", "s0": "rs-s0/a:1", "s1": "rs-s1/b:1"}
NEW_SETS = {"config": ("csrs", "cfg:1"), "s0": ("rs-s0", "a:1"), "s1": ("rs-s1", "b:1")}
LATER = OpTime(OplogTimestamp(1_800_000_000, 1), 9)


@pytest.fixture
def plan(sight: Sight) -> ShardedPlan:
    return plan_sharded_prepare([sight(part) for part in ALL], TARGETS, others_elsewhere=False)


def prepared(found: PartSurvey, part: str) -> PartSurvey:
    """What the files of a part say once it is prepared."""
    set_name, host = NEW_SETS[part]
    configuration = new_configuration(replica_set_name=set_name, host=host, term=3)
    if part == "config":
        shards = {name: address for name, address in ADDRESSES.items() if name != "config"}
        return replace(found, configuration=configuration, shards=shards)
    return replace(found, configuration=configuration, config_address=ADDRESSES["config"])


def test_files_as_they_were_extracted_are_all_changed(plan: ShardedPlan, survey: Survey) -> None:
    changes = judge(plan, {part: survey(part) for part in ALL})
    assert [(part, False, None, AT, 3) for part in ALL] == [
        (change.plan.name, change.was_prepared, change.cut, change.data_at, change.term) for change in changes
    ]
    assert changes[0].addresses == ADDRESSES
    assert changes[0].shard_addresses == {"s0": "rs-s0/a:1", "s1": "rs-s1/b:1"}


def test_a_part_that_opens_at_a_timestamp_is_cut_there(plan: ShardedPlan, survey: Survey) -> None:
    surveys = {part: survey(part) for part in ALL} | {"s0": survey("s0", recovery=AT)}
    assert [change.cut for change in judge(plan, surveys)] == [None, AT, None]
    surveys["s0"] = survey("s0", recovery=OplogTimestamp(5, 5))
    with pytest.raises(IntegrityError):
        judge(plan, surveys)


@pytest.mark.parametrize("has_lived", [False, True])
def test_what_is_prepared_is_left_alone_and_the_rest_is_changed(
    plan: ShardedPlan, survey: Survey, has_lived: bool
) -> None:
    newest = {"newest": LATER} if has_lived else {}
    surveys = {part: survey(part) for part in ALL}
    surveys["s1"] = prepared(survey("s1", **newest), "s1")
    assert [change.was_prepared for change in judge(plan, surveys)] == [False, False, True]
    everything = {part: prepared(survey(part, **newest), part) for part in ALL}
    assert all(change.was_prepared for change in judge(plan, everything))


def test_a_cluster_that_lives_is_known_by_its_first_members(plan: ShardedPlan, survey: Survey) -> None:
    everything = {part: prepared(survey(part, newest=LATER), part) for part in ALL}
    everything["s0"] = replace(everything["s0"], config_address="csrs/cfg:1")
    everything["config"] = replace(everything["config"], shards={"s0": "rs-s0/a:1,a9:1", "s1": "rs-s1/b:1"})
    assert all(change.was_prepared for change in judge(plan, everything))


def test_prepared_for_other_addresses_is_changed_again_unless_it_has_lived(
    plan: ShardedPlan, survey: Survey
) -> None:
    surveys = {part: prepared(survey(part), part) for part in ALL}
    surveys["s0"] = replace(surveys["s0"], config_address="csrs/elsewhere:1")
    surveys["config"] = replace(surveys["config"], shards={"s0": "rs-s0/x:1", "s1": "rs-s1/b:1"})
    assert [change.was_prepared for change in judge(plan, surveys)] == [False, False, True]
    surveys["s0"] = replace(surveys["s0"], newest=LATER)
    with pytest.raises(Refused, match="has lived on since it was extracted"):
        judge(plan, surveys)


@pytest.mark.parametrize(
    ("part", "changes", "what"),
    [
        ("s1", {"shard_name": "s0"}, "says it is s1, and its files are of s0"),
        ("s1", {"shard_name": None}, "says it is s1, and its files are of no part"),
        ("config", {"shard_name": "s0"}, "says it is config, and its files are of s0"),
        ("s1", {"cluster_id": ObjectId()}, "parts of different clusters"),
        ("s1", {"newest": LATER}, "has lived on"),
        ("s1", {"unfinished": ("drop of shop.orders",)}, "s1 was cut in the middle of drop of shop.orders"),
        ("config", {"shards": {"s0": "rs-s0/x:1"}}, "the cluster has no s1"),
        (
            "config",
            {"shards": {"s0": "rs-s0/x:1", "s1": "rs-s1/x:2", "s2": "rs-s2/x:3"}},
            "the cluster has s2 too",
        ),
    ],
)
def test_each_thing_in_the_way_keeps_all_parts_as_they_are(
    plan: ShardedPlan, survey: Survey, part: str, changes: dict[str, Any], what: str
) -> None:
    surveys = {name: survey(name) for name in ALL} | {part: survey(part, **changes)}
    with pytest.raises(Refused) as error:
        judge(plan, surveys)
    assert what in error.value.message


def test_what_a_cluster_that_lives_is_doing_is_its_own_affair(plan: ShardedPlan, survey: Survey) -> None:
    everything = {
        part: prepared(survey(part, newest=LATER, unfinished=("drop of a.b",)), part) for part in ALL
    }
    assert all(change.was_prepared for change in judge(plan, everything))


def test_sets_that_are_elsewhere_keep_the_names_that_the_files_know(sight: Sight, survey: Survey) -> None:
    targets = parse_targets(["config=cfg:1", "s0=a:1", "s1=named/b:1"])
    shard = plan_sharded_prepare([sight("s0")], targets, others_elsewhere=True)
    assert {"config": "rs-config/cfg:1", "s0": "rs-s0/a:1"}.items() <= new_addresses(
        shard, {"s0": survey("s0")}
    ).items()
    config = plan_sharded_prepare([sight("config")], targets, others_elsewhere=True)
    assert new_addresses(config, {"config": survey("config")}) == {
        "config": "rs-config/cfg:1",
        "s0": "rs-s0/a:1",
        "s1": "named/b:1",
    }
    assert [change.plan.name for change in judge(shard, {"s0": survey("s0")})] == ["s0"]


def test_what_a_person_should_know_is_remarked(sight: Sight, survey: Survey) -> None:
    targets = parse_targets(["config=old-config:1", "s0=a:1", "s1=b:1"])
    plan = plan_sharded_prepare([sight("config")], targets, others_elsewhere=True)
    address, balancer, elsewhere = remarks_about(plan, {"config": survey("config", balancer_is_off=True)})
    assert "old-config:1 is the address of a member of the old config" in address
    assert "off" in balancer
    assert "s0, s1" in elsewhere
    (_, balancer, _) = remarks_about(plan, {"config": survey("config")})
    assert "will move chunks" in balancer
