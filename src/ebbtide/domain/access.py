"""Who may do what: callers, their roles, and the rules that read them.

A caller is an API key (digest) or a service account (OAuth); the rules know only what both have. Source: contract
section 4.4.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum

from ebbtide.domain.access_list import AccessEntry
from ebbtide.domain.expiry import ExpiryStage
from ebbtide.domain.ids import GroupId
from ebbtide.domain.sealed import Sealed


class Role(StrEnum):
    """What a caller may do; names are the API's."""

    GLOBAL_OWNER = "GLOBAL_OWNER"  # everything in every group
    GLOBAL_BACKUP_ADMIN = "GLOBAL_BACKUP_ADMIN"  # backups and restores of every group
    GLOBAL_READ_ONLY = "GLOBAL_READ_ONLY"  # look at every group, never download
    GROUP_OWNER = "GROUP_OWNER"  # everything in one group
    GROUP_BACKUP_ADMIN = "GROUP_BACKUP_ADMIN"  # backups and restores of one group
    GROUP_READ_ONLY = "GROUP_READ_ONLY"  # look, never download

    @property
    def is_global(self) -> bool:
        return self in _GLOBAL


_GLOBAL = frozenset({Role.GLOBAL_OWNER, Role.GLOBAL_BACKUP_ADMIN, Role.GLOBAL_READ_ONLY})
_OWNERS = frozenset({Role.GLOBAL_OWNER, Role.GROUP_OWNER})
_WRITERS = _OWNERS | {Role.GLOBAL_BACKUP_ADMIN, Role.GROUP_BACKUP_ADMIN}


@dataclass(frozen=True, kw_only=True)
class Grant:
    """One role; `group_id` is None for a global role, and only for one."""

    role: Role
    group_id: GroupId | None


class CallerKind(Enum):
    """What somebody logged in as."""

    API_KEY = "API key"
    SERVICE_ACCOUNT = "service account"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whoever is logged in. `name` is what the caller logs in with: a public key, or a client id."""

    kind: CallerKind
    id: str
    name: str
    grants: tuple[Grant, ...]
    access_list: tuple[AccessEntry, ...]


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A public/private key pair. Only the digest hash HA1 of the private key is kept, and that sealed.

    From `expires` on it is refused (None: it has no end). `expiry_told` is the last stage of that which an event told.
    """

    id: str
    public_key: str
    description: str
    ha1: Sealed
    grants: tuple[Grant, ...]
    access_list: tuple[AccessEntry, ...]
    created: datetime
    owner: bool = False
    expires: datetime | None = None
    expiry_told: ExpiryStage | None = None

    @property
    def caller(self) -> Caller:
        """Who calls with this key."""
        return Caller(
            kind=CallerKind.API_KEY,
            id=self.id,
            name=self.public_key,
            grants=self.grants,
            access_list=self.access_list,
        )


def is_member(caller: Caller, group_id: GroupId) -> bool:
    """Whether the caller has any role in the group."""
    return _has_any(caller, Role, group_id)


def may_write(caller: Caller, group_id: GroupId) -> bool:
    """Whether the caller may start backups and restores in the group, and so download its data."""
    return _has_any(caller, _WRITERS, group_id)


def is_owner(caller: Caller, group_id: GroupId) -> bool:
    """Whether the caller owns the group: Atlas asks for this on every write."""
    return _has_any(caller, _OWNERS, group_id)


def is_global_owner(caller: Caller) -> bool:
    """Whether the caller owns the whole service."""
    return any(grant.role is Role.GLOBAL_OWNER for grant in caller.grants)


def owns_something(caller: Caller) -> bool:
    """Whether the caller owns the service or any group."""
    return any(grant.role in _OWNERS for grant in caller.grants)


def may_look_everywhere(caller: Caller) -> bool:
    """Whether the caller has a role in every group."""
    return any(grant.role.is_global for grant in caller.grants)


def may_manage(caller: Caller, grants: Iterable[Grant]) -> bool:
    """Whether the caller may give out `grants`, and rule over the key or account that has them.

    Nobody gives away more than their own: an owner of groups manages who has roles in those groups and nowhere else.
    Who has no role at all is the global owner's.
    """
    grants = tuple(grants)
    if is_global_owner(caller):
        return True
    return bool(grants) and all(g.group_id is not None and is_owner(caller, g.group_id) for g in grants)


def shared_group(grants: Iterable[Grant]) -> GroupId | None:
    """The one group that all the grants are about, if there is one: whose events tell of their holder."""
    groups = {grant.group_id for grant in grants}
    return groups.pop() if len(groups) == 1 else None


def _has_any(caller: Caller, roles: Iterable[Role], group_id: GroupId) -> bool:
    wanted = frozenset(roles)
    return any(g.role in wanted and (g.role.is_global or g.group_id == group_id) for g in caller.grants)
