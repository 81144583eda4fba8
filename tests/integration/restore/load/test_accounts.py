"""Users and roles of the source, on a target whose own account and whose other keepers stay."""

from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from ebbtide.restore.load.accounts import restore_accounts
from ebbtide.testing.lab import ReplicaSetLab

Client = MongoClient[dict[str, Any]]


def ids(client: Client, collection: str) -> set[str]:
    return {found["_id"] for found in client.admin[collection].find()}


def grant(client: Client, role: str, *, database: str = "admin", **users: str) -> None:
    """A role of their own, and users who have it."""
    client[database].command(
        "createRole",
        role,
        privileges=[{"resource": {"db": "shop", "collection": ""}, "actions": ["find"]}],
        roles=[],
    )
    for user, password in users.items():
        client[database].command("createUser", user, pwd=password, roles=[{"role": role, "db": database}])


@pytest.fixture
def accounts(source: Client, target: Client, keyfile_lab: ReplicaSetLab) -> Any:
    """ann and bob on the source, both by other names than the target's carl and dora."""
    grant(source, "reader", ann="of the source", loader="must not be used")
    grant(source, "helper", database="shop", bob="of the source")
    with keyfile_lab.client(w="majority") as root:
        grant(root, "reader", carl="of the target")
        grant(root, "vital", database="shop", dora="of the target", eve="of the target")
        root.admin.command("updateRole", "reader", roles=[{"role": "vital", "db": "shop"}])
    yield source, target
    for database in (source.admin, source.shop):
        database.command("dropAllUsersFromDatabase")
        database.command("dropAllRolesFromDatabase")
    with keyfile_lab.client(w="majority") as root:
        for database in (root.admin, root.shop):
            database.command("dropAllRolesFromDatabase")


def test_accounts_are_the_source_s_and_nobody_in_use_is_locked_out(
    accounts: Any, keyfile_lab: ReplicaSetLab
) -> None:
    source, target = accounts
    keep = ("admin.root", "admin.backup", "admin.carl")
    for _ in range(2):
        restored = restore_accounts(source, target, keep=keep, check=lambda: None)
        assert {"admin.ann", "shop.bob"} == set(restored.users)
        assert {"shop.helper"} == set(restored.roles)
        assert {*keep, "admin.loader", "admin.reader", "shop.vital"} == set(restored.kept)
        assert {*keep, "admin.loader", "admin.ann", "shop.bob"} == ids(target, "system.users")
        with keyfile_lab.client() as root:
            assert {"admin.reader", "shop.vital", "shop.helper"} == ids(root, "system.roles")
            assert {"tempusers", "temproles"}.isdisjoint(root.admin.list_collection_names())
    with keyfile_lab.client(username="bob", password="of the source", authSource="shop") as bob:
        assert bob.shop.things.count_documents({}) == 0
    with (
        keyfile_lab.client(username="dora", password="of the target", authSource="shop") as dora,
        pytest.raises(OperationFailure, match="Authentication failed"),
    ):
        dora.shop.things.count_documents({})


def test_a_source_that_knows_no_users_changes_none(source: Client, target: Client) -> None:
    before = ids(target, "system.users")
    assert restore_accounts(source, target, check=lambda: None).removed == ()
    assert before == ids(target, "system.users")
