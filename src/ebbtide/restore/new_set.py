"""Making a new replica set of an archive's files: how they are opened for it, and the writes that do it.

The files are opened by a plain mongod on a Unix socket, with TTL deletion off; nobody listens on TCP. Every write is
journalled and can be made again. Why each of them is needed: `ebbtide.restore.prepare`.

Crash: the mongods end with the thread that started them. What is left are directories that have some of the writes, and
a small one in the temporary directory.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson import ObjectId
from pymongo import DESCENDING, MongoClient, WriteConcern
from pymongo.collection import Collection

from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.errors import IntegrityError, MongodError
from ebbtide.mongod.log_lines import find_recovery_timestamp
from ebbtide.mongod.options import MongodOptions, UnixSocket
from ebbtide.mongod.process import MongodProcess, StopOutcome
from ebbtide.restore.archive_directory import ArchiveInfo
from ebbtide.restore.restore_info import RESTORE_INFO_NAME
from ebbtide.restore.scratch_mongod import SAFE_PARAMETERS

Document = dict[str, Any]
Client = MongoClient[Document]

CACHE_GB = 0.25
READY_SECONDS = 600.0
"""Opening checks every file of the archive; on a cold disk with many collections that takes minutes."""

STOP_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class OpenedFiles:
    """An archive's files in a plain mongod. `recovery` is where it said that it opened them, None if it said nothing."""

    info: ArchiveInfo
    client: Client
    recovery: OplogTimestamp | None


# --- deciding -----------------------------------------------------------------------------------------------------


def new_configuration(
    *, replica_set_name: str, host: str, term: int, is_config_server: bool = False
) -> Document:
    """The configuration of a set of one, as the server itself stores it."""
    return {
        "_id": replica_set_name,
        "version": 1,
        "term": term,
        **({"configsvr": True} if is_config_server else {}),
        "members": [{"_id": 0, "host": host}],
        "protocolVersion": 1,
        "writeConcernMajorityJournalDefault": True,
        # A set of its own: a member of the old one that ever calls it is turned away.
        "settings": {"replicaSetId": ObjectId()},
    }


def is_new_set(configuration: Mapping[str, Any] | None, *, replica_set_name: str, host: str) -> bool:
    """Whether this is a configuration of `new_configuration`, or what became of it."""
    if configuration is None or configuration.get("_id") != replica_set_name:
        return False
    members = configuration.get("members", [])
    # Every head had others beside it in its set; and no first configuration ever has another version than 1.
    first = configuration.get("version") == 1 and len(members) == 1
    return first and members[0].get("host") == host


def cut_point(recovery: OplogTimestamp | None, info: ArchiveInfo) -> OplogTimestamp | None:
    """Where the oplog is to end; None to leave it, for files that were advanced to its end already.

    `recovery` is where mongod itself said that it opened the files; None for files without such a point.
    Raises IntegrityError for files that open anywhere else than restoreInfo.txt says.
    """
    if recovery is None:
        return None
    if recovery != info.stable:
        raise IntegrityError(
            "the extracted files", f"open at {recovery}, and {RESTORE_INFO_NAME} says {info.stable}"
        )
    return recovery


# --- doing --------------------------------------------------------------------------------------------------------


@contextmanager
def opened(archives: Sequence[tuple[Path, ArchiveInfo]], *, binary: Path) -> Iterator[list[OpenedFiles]]:
    """The files of these directories, each in a plain mongod, all at once; shut down in order at the end.

    Raises MongodError, and MongodStartFailed where one does not start. Only for a thread that lives as long.
    """
    with tempfile.TemporaryDirectory(prefix="ebbtide-prepare-") as name, ExitStack() as clients:
        processes: list[MongodProcess] = []
        try:
            for number, (directory, info) in enumerate(archives):
                processes.append(_spawn(directory, info, Path(name) / str(number), binary))
            for process in processes:
                process.wait_until_ready(ready_seconds=READY_SECONDS)
            yield [
                OpenedFiles(
                    info=info,
                    client=clients.enter_context(process.client()),
                    recovery=_recovery_timestamp(process),
                )
                for process, (_, info) in zip(processes, archives, strict=True)
            ]
        finally:
            clients.close()
            outcomes = [process.stop(timeout_seconds=STOP_SECONDS) for process in processes]
    if any(outcome is not StopOutcome.STOPPED for outcome in outcomes):
        raise MongodError("the mongod did not shut down by itself", hint="run the same command again")


def _spawn(directory: Path, info: ArchiveInfo, own: Path, binary: Path) -> MongodProcess:
    # Not in the directory: it is about to be someone's dbpath.
    own.mkdir(mode=0o700)
    options = MongodOptions(
        dbpath=directory,
        log_path=own / "mongod.log",
        listen=UnixSocket(path=own / "mongod.sock"),
        cache_gb=CACHE_GB,
        set_parameters=SAFE_PARAMETERS,
        extra_flags=("--directoryperdb",) if info.directory_per_db else (),
    )
    return MongodProcess.spawn(binary, options, identity_path=own / "mongod.json", die_with_parent=True)


def _recovery_timestamp(process: MongodProcess) -> OplogTimestamp | None:
    return find_recovery_timestamp(process.options.log_path.read_text(errors="replace").splitlines())


def newest_entry(client: Client) -> OpTime:
    """The newest entry of the files' oplog. Raises IntegrityError if it has none."""
    newest = local_collection(client, "oplog.rs").find_one(sort=[("$natural", DESCENDING)])
    if newest is None:
        raise IntegrityError("the extracted files", "have no oplog")
    return OpTime.from_entry(newest)


def cut_oplog(client: Client, last_inclusive: OplogTimestamp) -> None:
    """Have the server end the oplog there, at its next start as a member."""
    name = "oplogTruncateAfterPoint"
    local_collection(client, f"replset.{name}").replace_one(
        {"_id": name}, {"_id": name, name: last_inclusive.to_bson()}, upsert=True
    )


def local_collection(client: Client, name: str) -> Collection[Document]:
    return journalled(client.local[name])


def journalled(collection: Collection[Document]) -> Collection[Document]:
    """The collection, every write of which is on the disk when it is acknowledged."""
    return collection.with_options(write_concern=WriteConcern(w=1, j=True))
