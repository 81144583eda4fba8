"""Groups that were found a moment ago."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

from ebbtide.api.known_groups import REMEMBERED_SECONDS, KnownGroups
from ebbtide.catalog.groups import GroupCollection
from ebbtide.domain.group import Group
from ebbtide.domain.ids import GroupId

GROUP = Group(
    id=GroupId("5f0000000000000000000001"), name="Project", created=datetime(2026, 1, 1, tzinfo=UTC)
)
OTHER = replace(GROUP, id=GroupId("5f0000000000000000000002"))


class Groups:
    """Stands in for the catalog's collection, and notes what is asked."""

    def __init__(self, *groups: Group) -> None:
        self.held = {group.id: group for group in groups}
        self.asked: list[GroupId] = []

    def find(self, group_id: GroupId) -> Group | None:
        self.asked.append(group_id)
        return self.held.get(group_id)


def known(groups: Groups, *, times: list[float], remembered_max: int = 10) -> KnownGroups:
    return KnownGroups(cast(GroupCollection, groups), remembered_max=remembered_max, now=iter(times).__next__)


def test_a_group_is_asked_for_once_in_a_while_and_a_new_name_is_seen_then() -> None:
    groups = Groups(GROUP)
    found = known(groups, times=[10.0, 10.0 + REMEMBERED_SECONDS / 2, 10.0 + REMEMBERED_SECONDS])
    assert found.find(GROUP.id) == GROUP
    groups.held[GROUP.id] = renamed = replace(GROUP, name="Renamed")
    assert found.find(GROUP.id) == GROUP
    assert renamed == found.find(GROUP.id)


def test_a_group_that_is_not_there_is_asked_for_each_time() -> None:
    groups = Groups()
    found = known(groups, times=[0.0, 0.0])
    assert found.find(GROUP.id) is None
    groups.held[GROUP.id] = GROUP
    assert found.find(GROUP.id) == GROUP


def test_the_oldest_is_forgotten_for_lack_of_room() -> None:
    groups = Groups(GROUP, OTHER)
    found = known(groups, times=[1.0] * 4, remembered_max=1)
    for group in (GROUP, OTHER, OTHER, GROUP):
        assert group == found.find(group.id)
    assert groups.asked == [GROUP.id, OTHER.id, GROUP.id]
