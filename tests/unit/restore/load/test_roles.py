"""Which roles of their own users need, so that nobody who stays loses a right."""

from typing import Any

from ebbtide.restore.load.accounts import reachable_roles


def holder(*roles: str) -> dict[str, Any]:
    pairs = (role.split(".") for role in roles)
    return {"roles": [{"db": database, "role": name} for database, name in pairs]}


def test_roles_are_followed_through_roles_and_circles() -> None:
    roles = {
        "admin.first": holder("admin.second", "admin.read"),
        "admin.second": holder("shop.third"),
        "shop.third": holder("admin.first"),
        "shop.unused": holder(),
    }
    users = [holder("admin.first", "admin.restore"), holder()]
    assert {"admin.first", "admin.second", "shop.third"} == reachable_roles(roles, users)
    assert set() == reachable_roles(roles, [])
