"""Users and roles: those of the source take the place of the target's, except whoever must not be locked out.

Kept as they are on the target: the account in use, those that the caller names, and every role of their own that these
have, directly or through another role. A user or role of the source by the same name is left out.

Written by `_mergeAuthzCollections`, as the server's own tool does, from `admin.tempusers` and `admin.temproles`, so that
credentials come through as they are; what the source does not have is dropped afterwards. A source without a single user
was run without authentication: then nothing is changed, or nobody could log in any more.

Crash: some are there, the rest still as before; doing it again completes it. The two collections may be left behind,
and are dropped then.
"""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Collection as Some
from dataclasses import dataclass
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.load.inventory import RAW, Client
from ebbtide.restore.load.patience import MAJORITY, persist
from ebbtide.restore.load.removal import drop_namespace

_USERS, _ROLES = "system.users", "system.roles"
_TEMPORARY = {_USERS: "tempusers", _ROLES: "temproles"}
_USER_NOT_FOUND, _ROLE_NOT_FOUND = 11, 31

Raw = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RestoredAccounts:
    """By ids as the server has them, `database.name`. `kept` are users and roles that the restore left alone."""

    users: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Accounts:
    """Users and roles of one server, by id."""

    users: Mapping[str, Raw]
    roles: Mapping[str, Raw]


def restore_accounts(
    source: Client, target: Client, *, keep: Some[str] = (), check: Callable[[], None]
) -> RestoredAccounts:
    """Put the source's users and roles in place; `keep` are further users (`database.name`) to be left alone.

    Raises Unreachable, DeploymentError, and what `check` raises.
    """
    with translated_errors("restoring users and roles"):
        theirs = _read(source)
        if not theirs.users:
            return RestoredAccounts()
        ours = persist(lambda: _read_target(target, theirs), check=check)
        kept_users = {*keep, *_in_use(target)} & ours.users.keys()
        kept_roles = reachable_roles(ours.roles, [ours.users[user] for user in kept_users])
        users = {id_: user for id_, user in theirs.users.items() if id_ not in kept_users}
        roles = {id_: role for id_, role in theirs.roles.items() if id_ not in kept_roles}
        persist(lambda: _merge(target, _Accounts(users=users, roles=roles)), check=check)
        removed = (
            *_drop(target, "dropUser", ours.users.keys() - users.keys() - kept_users, check),
            *_drop(target, "dropRole", ours.roles.keys() - roles.keys() - kept_roles, check),
        )
    return RestoredAccounts(
        users=tuple(users),
        roles=tuple(roles),
        removed=removed,
        kept=(*sorted(kept_users), *sorted(kept_roles)),
    )


def reachable_roles(roles: Mapping[str, Raw], users: Some[Raw]) -> set[str]:
    """The ids of the roles among `roles` that these users have, directly or through another role."""
    found: set[str] = set()
    waiting = [role for user in users for role in _granted(user)]
    while waiting:
        role = waiting.pop()
        if role in roles and role not in found:
            found.add(role)
            waiting += _granted(roles[role])
    return found


def _granted(holder: Raw) -> Iterator[str]:
    return (f"{role['db']}.{role['role']}" for role in holder.get("roles", ()))


def _read(source: Client) -> _Accounts:
    return _Accounts(users=_by_id(source, _USERS), roles=_by_id(source, _ROLES))


def _read_target(target: Client, source: _Accounts) -> _Accounts:
    """Nobody but the server reads its collection of roles; those of each database may be asked for."""
    users = _by_id(target, _USERS)
    granted = {role for user in users.values() for role in _granted(user)}
    names = {id_.partition(".")[0] for id_ in (*granted, *source.roles)}
    names |= {*target.list_database_names(), "admin"}
    roles = {
        f"{role['db']}.{role['role']}": role
        for name in sorted(names - {"local", "config"})
        for role in target[name].command("rolesInfo", 1)["roles"]
    }
    return _Accounts(users=users, roles=roles)


def _by_id(client: Client, collection: str) -> dict[str, Raw]:
    documents: Collection[Any] = client.admin.get_collection(collection, codec_options=RAW)
    return {str(found["_id"]): found for found in documents.find()}


def _in_use(target: Client) -> Iterator[str]:
    status = target.admin.command("connectionStatus")["authInfo"]
    return (f"{user['db']}.{user['user']}" for user in status["authenticatedUsers"])


def _merge(target: Client, accounts: _Accounts) -> None:
    if not (accounts.users or accounts.roles):
        return
    _drop_temporary(target)
    try:
        for collection, documents in ((_USERS, accounts.users), (_ROLES, accounts.roles)):
            if documents:
                temporary: Collection[Any] = target.admin[_TEMPORARY[collection]]
                temporary.insert_many(documents.values())
        target.admin.command(
            "_mergeAuthzCollections",
            1,
            tempUsersCollection=f"admin.{_TEMPORARY[_USERS]}" if accounts.users else "",
            tempRolesCollection=f"admin.{_TEMPORARY[_ROLES]}" if accounts.roles else "",
            db="",
            drop=False,
            writeConcern=MAJORITY,
        )
    finally:
        _drop_temporary(target)


def _drop_temporary(target: Client) -> None:
    for name in _TEMPORARY.values():
        drop_namespace(target, "admin", name)


def _drop(target: Client, command: str, ids: Some[str], check: Callable[[], None]) -> Iterator[str]:
    for id_ in sorted(ids):
        check()
        database, _, name = id_.partition(".")
        persist(lambda: _drop_one(target, command, database, name), check=check)  # noqa: B023 (called at once)
        yield id_


def _drop_one(target: Client, command: str, database: str, name: str) -> None:
    try:
        target[database].command(command, name, writeConcern=MAJORITY)
    except OperationFailure as error:
        if error.code not in (_USER_NOT_FOUND, _ROLE_NOT_FOUND):
            raise
