"""A group (the API also says project): what clusters, jobs and keys belong to."""

from dataclasses import dataclass
from datetime import datetime

from ebbtide.domain.ids import GroupId

GROUP_NAME_LENGTH_MAX = 64


@dataclass(frozen=True, kw_only=True)
class Group:
    """One project."""

    id: GroupId
    name: str
    created: datetime
