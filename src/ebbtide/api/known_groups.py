"""Groups that were found a moment ago, for paths that go on to something inside of one.

A group is never removed, so one that was found is still there; only its name may be another by now, in this process or in
another, and for `REMEMBERED_SECONDS` at most. What the caller may do in it is not remembered: that is the caller's record,
which is read for every call. Crash: nothing is left.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from ebbtide.catalog.groups import GroupCollection
from ebbtide.domain.group import Group
from ebbtide.domain.ids import GroupId

REMEMBERED_SECONDS = 2.0
REMEMBERED_MAX = 1_000


class KnownGroups:
    """Safe to use from many threads."""

    def __init__(
        self,
        groups: GroupCollection,
        *,
        remembered_max: int = REMEMBERED_MAX,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._groups = groups
        self._remembered_max = remembered_max
        self._now = now
        self._lock = threading.Lock()
        self._found: OrderedDict[GroupId, tuple[float, Group]] = OrderedDict()

    def find(self, group_id: GroupId) -> Group | None:
        """The group; its name may be one that it had a moment ago."""
        now = self._now()
        with self._lock:
            since, group = self._found.get(group_id, (0.0, None))
        if group is not None and now - since < REMEMBERED_SECONDS:
            return group
        group = self._groups.find(group_id)
        if group is not None:
            with self._lock:
                self._found[group_id] = (now, group)
                self._found.move_to_end(group_id)
                while len(self._found) > self._remembered_max:
                    self._found.popitem(last=False)
        return group
