"""Wire names of members and their roles. As `wire`, of which it is a part."""

from ebbtide.api.wire import Addresses, Document, self_links
from ebbtide.domain.access import Caller, CallerKind
from ebbtide.domain.ids import GroupId

_KINDS = {CallerKind.API_KEY: "API_KEY", CallerKind.SERVICE_ACCOUNT: "SERVICE_ACCOUNT"}


def member_document(caller: Caller, *, description: str, group_id: GroupId, addresses: Addresses) -> Document:
    """A key or a service account, with its roles in one project and the global ones."""
    return {
        "name": caller.name,
        "typeName": _KINDS[caller.kind],
        "description": description,
        "roles": [grant.role.value for grant in caller.grants if grant.group_id == group_id],
        "globalRoles": [grant.role.value for grant in caller.grants if grant.group_id is None],
        "links": self_links(f"{addresses.group(group_id)}/members/{caller.name}"),
    }
