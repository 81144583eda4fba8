"""Putting small slices of an oplog archive together, and removing what a longer slice holds.

Write order: the merged slice is stored, and only slices that another one was read to hold are removed. So at every
moment every entry can be read. Crash: the parts beside the merged slice; the next run removes them.
"""

from collections.abc import Callable, Sequence

from ebbtide.crash_points import reach
from ebbtide.domain.oplog import OplogSlice
from ebbtide.errors import IntegrityError
from ebbtide.oplog.archive import OplogArchive
from ebbtide.oplog.draft import SliceDraft


def merge_slices(
    archive: OplogArchive, group: Sequence[OplogSlice], *, check: Callable[[], None]
) -> OplogSlice:
    """Store one slice with the entries of all in `group`, which follow each other; it is returned.

    `check` is called before each is read and may raise. Raises IntegrityError, ObjectNotFound, StorageError; the
    archive is as it was then.
    """
    draft = SliceDraft(predecessor=group[0].predecessor, opened=0.0)
    for piece in group:
        check()
        for raw in archive.iter_raw(piece):
            try:
                draft.add(raw)
            except ValueError as error:
                raise IntegrityError(archive.object_name(piece), str(error)) from None
    merged, members = draft.compress()
    wanted = (group[0].first, group[-1].last, sum(s.entry_count for s in group))
    if (merged.first, merged.last, merged.entry_count) != wanted:
        raise IntegrityError(archive.object_name(group[0]), "does not hold the entries that its name says")
    archive.put(merged, members)
    reach("oplog.merged")
    return merged


def remove_parts(
    archive: OplogArchive, parts: Sequence[tuple[OplogSlice, OplogSlice]], *, check: Callable[[], None]
) -> int:
    """Remove each first slice that the second one holds; how many went. Each holder is read through before.

    Raises IntegrityError where a holder is damaged: then its parts stay.
    """
    proven: set[OplogSlice] = set()
    for part, holder in parts:
        check()
        if holder not in proven:
            for _ in archive.iter_raw(holder):
                check()
            proven.add(holder)
        archive.delete(part)
        reach("oplog.part_removed")
    return len(parts)
