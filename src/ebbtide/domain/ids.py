"""Typed identifiers: 24 lower-case hex digits, as the API shows them.

An id begins with its time of birth in seconds (as a BSON ObjectId does), so ids sort by age.
"""

import re
from typing import NewType

from bson import ObjectId

GroupId = NewType("GroupId", str)
ClusterId = NewType("ClusterId", str)
SnapshotId = NewType("SnapshotId", str)
CheckpointId = NewType("CheckpointId", str)
RestoreJobId = NewType("RestoreJobId", str)
ResultId = NewType("ResultId", str)
BatchId = NewType("BatchId", str)
"""Of a replayed result: never of a snapshot, so that nothing can take one for a base."""

_SHAPE = re.compile(r"[0-9a-f]{24}")


def new_id() -> str:
    """A new id, unique without coordination."""
    return str(ObjectId())


def is_id(text: object) -> bool:
    """Whether `text` has the shape of an id."""
    return isinstance(text, str) and _SHAPE.fullmatch(text) is not None
