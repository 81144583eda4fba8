"""The directory of an extracted archive: what its restoreInfo.txt says, what its files say, and what is in the way.

Looking changes nothing. `find_problems` is pure, and tells everything at once.
"""

import fcntl
import os
import re
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.replica_set import join_host_port, major_version, split_host_port
from ebbtide.errors import InvalidInput
from ebbtide.mongod.binary import mongod_version
from ebbtide.restore.restore_info import RESTORE_INFO_NAME

FREE_BYTES_MIN = 512 * 1024 * 1024
"""A started mongod makes up to 300 MB of journal files beside the data."""

INFO_BYTES_MAX = 64 * 1024

SET_NAME = re.compile(r"[^\s/,?&=]+")
"""What a replica set may be called."""

_FIELD = re.compile(r"^([a-z ]+?) {2,}(\S.*)$", re.MULTILINE)
_TIMESTAMP = re.compile(r"oplog timestamp \((\d{1,10}), (\d{1,10})\)")


class FilesState(StrEnum):
    """What WiredTiger's files say of a directory."""

    UNTOUCHED = "UNTOUCHED"  # as extracted: WiredTiger.backup is there
    STARTED = "STARTED"  # a mongod opened them since
    INCOMPLETE = "INCOMPLETE"  # neither: the archive was not extracted whole


@dataclass(frozen=True, kw_only=True)
class ArchiveInfo:
    """What restoreInfo.txt says. `stable` is the timestamp of the data, `newest` of the oplog's last entry.

    `limit` is up to where the data was asked for, None for a snapshot as it is. Of a part of a sharded cluster, `part`
    is the shard's name or `config`, `sharded_cluster` says whose, and `batch` which restore it is from; else they are empty.
    """

    restore_job_id: str
    cluster: str
    replica_set_name: str
    mongod_version: str
    stable: OplogTimestamp
    newest: OplogTimestamp
    directory_per_db: bool
    limit: OplogTimestamp | None = None
    sharded_cluster: str = ""
    part: str = ""
    batch: str = ""


@dataclass(frozen=True, kw_only=True)
class DirectorySight:
    """What was seen of a directory. `info` is None where restoreInfo.txt lacks or is not one of ours."""

    directory: Path
    info: ArchiveInfo | None
    files: FilesState
    is_in_use: bool
    is_ours: bool
    free_bytes: int
    our_version: str


def inspect_directory(directory: Path, *, binary: Path) -> DirectorySight:
    """Look at a directory; changes nothing. Raises InvalidInput if it is none, MongodBinaryMissing."""
    if not directory.is_dir():
        raise InvalidInput("DIR", expected="the directory of an extracted archive", got=str(directory))
    return DirectorySight(
        directory=directory.resolve(),
        info=_load_info(directory / RESTORE_INFO_NAME),
        files=_files_state(directory),
        is_in_use=_is_locked(directory / "mongod.lock"),
        is_ours=directory.stat().st_uid == os.geteuid() and os.access(directory, os.W_OK | os.X_OK),
        free_bytes=shutil.disk_usage(directory).free,
        our_version=mongod_version(binary),
    )


def parse_restore_info(text: str) -> ArchiveInfo | None:
    """What a restoreInfo.txt says; None if it is not one of Ebbtide's."""
    first = text.split("\n", 1)[0].split()
    fields = {name: value.strip() for name, value in _FIELD.findall(text)}
    stable, newest, limit = (
        _TIMESTAMP.search(fields.get(name, "")) for name in ("timestamp", "newest oplog", "asked up to")
    )
    if first[:3] != ["Ebbtide", "restore", "job"] or len(first) != 4 or stable is None or newest is None:
        return None
    try:
        return ArchiveInfo(
            restore_job_id=first[3],
            cluster=fields["cluster"],
            replica_set_name=fields["replica set"],
            mongod_version=fields["mongod"],
            stable=OplogTimestamp(seconds=int(stable[1]), increment=int(stable[2])),
            newest=OplogTimestamp(seconds=int(newest[1]), increment=int(newest[2])),
            directory_per_db="--directoryperdb" in text,
            limit=None if limit is None else OplogTimestamp(int(limit[1]), int(limit[2])),
            sharded_cluster=fields.get("sharded cluster", ""),
            part=fields.get("part", ""),
            batch=fields.get("batch", ""),
        )
    except (KeyError, ValueError):
        return None


def _load_info(path: Path) -> ArchiveInfo | None:
    try:
        with path.open("rb") as file:
            return parse_restore_info(file.read(INFO_BYTES_MAX).decode(errors="replace"))
    except OSError:
        return None


def _files_state(directory: Path) -> FilesState:
    needed = (directory / "WiredTiger", directory / "_mdb_catalog.wt", directory / "storage.bson")
    if not all(path.is_file() for path in needed):
        return FilesState.INCOMPLETE
    if (directory / "WiredTiger.backup").is_file():
        return FilesState.UNTOUCHED
    return FilesState.STARTED if (directory / "WiredTiger.turtle").is_file() else FilesState.INCOMPLETE


def _is_locked(path: Path) -> bool:
    """Whether a mongod holds the lock of its directory; the file alone only says that there was one."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def parse_host(text: str, *, option: str = "--host") -> str:
    """`HOST:PORT` as a configuration names a member. Raises InvalidInput; a host without a port gets 27017."""
    host, port = split_host_port(text)
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", host) or not 1 <= port <= 65535 or host in ("0.0.0.0", "::"):
        raise InvalidInput(option, expected="HOST:PORT, as members and applications will reach it", got=text)
    return join_host_port(host, port)


def find_problems(sight: DirectorySight) -> list[tuple[str, str]]:
    """(what, fix) of everything that stands in the way, in the order in which a person would fix it. Pure."""
    problems = []
    if sight.info is None:
        problems.append(
            (
                f"it has no {RESTORE_INFO_NAME} of Ebbtide's",
                "name the directory that the archive extracted to",
            )
        )
    elif major_version(sight.info.mongod_version) != major_version(sight.our_version):
        wanted = sight.info.mongod_version
        problems.append(
            (
                f"its files are of mongod {wanted}, and the mongod at hand is {sight.our_version}",
                f"give --mongod, the path of a mongod {major_version(wanted)}",
            )
        )
    if sight.files is FilesState.INCOMPLETE:
        problems.append(
            ("it lacks files that every archive has", "extract the archive again, into an empty directory")
        )
    if sight.is_in_use:
        problems.append(("a mongod runs on it", "stop that mongod first"))
    if not sight.is_ours:
        problems.append(
            (
                "it belongs to another user",
                "run this as the user who will run mongod on it (sudo -u mongodb …)",
            )
        )
    if sight.free_bytes < FREE_BYTES_MIN:
        problems.append(("less than 512 MiB are free on its disk", "free space there"))
    return problems
