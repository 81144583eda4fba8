"""Which server may be declared a host, and which account may lock it."""

from typing import Any

import pytest

from ebbtide.domain.host import HOST_ID, NotStandalone, check_standalone, host_id, may_lock_with
from ebbtide.domain.ids import GroupId

GROUP, OTHER = GroupId("5f0000000000000000000001"), GroupId("5f0000000000000000000002")

STANDALONE = {"isWritablePrimary": True, "maxWireVersion": 17, "ok": 1.0}


def privilege(resource: dict[str, Any], *actions: str) -> dict[str, Any]:
    return {"resource": resource, "actions": list(actions)}


def test_an_id_is_that_of_a_place_in_one_group() -> None:
    found = host_id(GROUP, "cfg1:27019")
    assert HOST_ID.fullmatch(found)
    assert found == host_id(GROUP, "cfg1:27019")
    assert len({found, host_id(OTHER, "cfg1:27019"), host_id(GROUP, "cfg1:27018")}) == 3


def test_a_server_by_itself_may_be_declared() -> None:
    check_standalone(STANDALONE, address="cfg1:27019")


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"msg": "isdbgrid"}, "a router"),
        ({"setName": "rs0"}, "of a replica set"),
        ({"setName": "rs0", "isWritablePrimary": False, "arbiterOnly": True}, "of a replica set"),
        # Started with --replSet, and initiated by nobody yet.
        ({"isreplicaset": True, "isWritablePrimary": False}, "of a replica set"),
    ],
)
def test_what_is_a_part_of_something_is_refused_with_what_to_do(said: dict[str, Any], what: str) -> None:
    with pytest.raises(NotStandalone, match=what) as refused:
        check_standalone(STANDALONE | said, address="cfg1:27019")
    assert "cfg1:27019" in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    ("privileges", "may"),
    [
        ([privilege({"cluster": True}, "fsync", "unlock", "serverStatus")], True),
        ([privilege({"cluster": True}, "fsync"), privilege({"cluster": True}, "unlock")], True),
        ([privilege({"anyResource": True}, "fsync", "unlock")], True),
        ([privilege({"cluster": True}, "fsync")], False),
        ([privilege({"cluster": True}, "unlock")], False),
        ([privilege({"db": "admin", "collection": ""}, "fsync", "unlock")], False),
        ([], False),
    ],
)
def test_to_lock_and_to_unlock_both_must_be_allowed_on_the_whole_server(
    privileges: list[dict[str, Any]], may: bool
) -> None:
    assert may_lock_with(privileges) is may
