"""What happened, for people: an entry of the log that the API shows."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ebbtide.domain.ids import ClusterId, GroupId


class EventLevel(StrEnum):
    """Who must act."""

    INFO = "INFO"  # nobody
    WARNING = "WARNING"  # somebody, some day
    ERROR = "ERROR"  # somebody, soon


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened. `kind` is a dotted name such as `head.joined`; `message` a sentence."""

    id: str
    time: datetime
    level: EventLevel
    kind: str
    message: str
    group_id: GroupId | None = None
    cluster_id: ClusterId | None = None
    subject_id: str | None = None
    actor: str | None = None
