"""Which files of a head make a snapshot, and at which time they open: pure rules over names and text.

Source: mongod-facts, "Taking the files", run on 4.4 to 6.0. While a head is locked, WiredTiger keeps a hot-backup
cursor open, and `WiredTiger.backup` holds the metadata that a copy is rebuilt from: without that very file a copy
opens silently at another time.
"""

import itertools
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import SnapshotUnusable

BACKUP_METADATA = "WiredTiger.backup"

# What mongod rebuilds or never reads again.
_LEFT_OUT = re.compile(
    r"""
      WiredTiger\.wt | WiredTiger\.turtle.* | WiredTiger\.lock | mongod\.lock
    | (journal/)?WiredTigerPreplog\..* | (journal/)?WiredTigerTmplog\..*
    | diagnostic\.data(/.*)? | _tmp(/.*)? | .*\.log(\..*)? | .*\.sock
    """,
    re.VERBOSE,
)

# Of files that a mongod has shut down cleanly: what it makes anew, or never reads again.
_LEFT_OUT_OF_RESULT = re.compile(
    r"""
      WiredTiger\.lock | mongod\.lock | (journal/)?WiredTigerPreplog\..* | (journal/)?WiredTigerTmplog\..*
    | diagnostic\.data(/.*)? | _tmp(/.*)? | .*\.log(\..*)? | .*\.sock
    """,
    re.VERBOSE,
)

MUST_BE_STORED = ("WiredTiger", BACKUP_METADATA, "_mdb_catalog.wt", "sizeStorer.wt", "storage.bson")

_CHECKPOINT_TIMESTAMP = re.compile(r'checkpoint_timestamp="([0-9a-f]{0,16})"')
_FILE = re.compile(r"^file:(.+)$")


def is_left_out(path: str) -> bool:
    """Whether a file of a dbpath (relative, with slashes) is none of the snapshot's."""
    return _LEFT_OUT.fullmatch(path) is not None


def is_left_out_of_result(path: str) -> bool:
    """As `is_left_out`, for a replayed result: without `WiredTiger.backup`, WiredTiger's own metadata belongs to it."""
    return _LEFT_OUT_OF_RESULT.fullmatch(path) is not None


def is_always_read(path: str, *, oplog_file: str) -> bool:
    """Whether a file is read whatever its times say: WiredTiger's own, the journal, and the oplog's."""
    parts = PurePosixPath(path).parts
    return parts[-1].startswith("WiredTiger") or parts[0] == "journal" or path == oplog_file


def parse_stable_timestamp(backup_metadata: str) -> OplogTimestamp:
    """T_s, from the text of `WiredTiger.backup`: alternating lines of key and value.

    Raises SnapshotUnusable where it is missing or 0: such files would open at no known time.
    """
    lines = _lines(backup_metadata)
    for key, value in itertools.pairwise(lines):
        if key == "system:checkpoint":
            found = _CHECKPOINT_TIMESTAMP.search(value)
            packed = int(found.group(1), 16) if found and found.group(1) else 0
            if packed == 0:
                break
            return OplogTimestamp.from_packed(packed)
    raise SnapshotUnusable(
        "the head's files have no stable timestamp",
        hint="it has not taken a majority-committed checkpoint yet; the snapshot is tried again",
    )


def _lines(backup_metadata: str) -> list[str]:
    # Not splitlines: definitions of indexes are part of the text, and users' names may hold other separators.
    return backup_metadata.split("\n")


def named_files(backup_metadata: str) -> set[str]:
    """The files that `WiredTiger.backup` names: a copy needs every one of them."""
    found = (_FILE.match(line) for line in _lines(backup_metadata))
    return {match.group(1) for match in found if match is not None} - {"WiredTiger.wt"}


def check_complete(paths: Iterable[str], backup_metadata: str) -> None:
    """Raise SnapshotUnusable unless `paths` hold every file that a copy needs."""
    present = set(paths)
    missing = sorted((named_files(backup_metadata) | set(MUST_BE_STORED)) - present)
    if missing:
        raise SnapshotUnusable(f"files that a restore needs are not there: {', '.join(missing[:5])}")
    if not any(PurePosixPath(path).name.startswith("WiredTigerLog.") for path in present):
        raise SnapshotUnusable("the head's files have no journal")
