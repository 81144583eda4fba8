"""Making a new replica set of an extracted archive, offline: nothing is asked of any set, nobody listens on TCP.

    inspect     what lies in the directory: restoreInfo.txt, WiredTiger's files, a lock, an owner (reads only)
    plan        refuse, with every reason together, or say what will be done (pure)
    execute     one plain mongod on a Unix socket, TTL deletion off; four small writes into `config` and `local`; stop

The writes, in their order, and why (all of it was run on 6.0.5):
  1. the oplog is to end at the files' own timestamp T_s: the server cuts it there at its next start as a member.
     Entries above T_s are in the files whenever a majority lagged. Played on top, they bring back what the old set
     may have rolled back since, and a transaction prepared among them blocks its documents for ever.
  2. `config.transactions` is emptied: a transaction that was prepared at T_s would come back the same way.
  3. the old set's configuration goes, and nothing else of `local`: without its oplog the server would abort.
  4. the new configuration, of one member, is written in the *newest term of the oplog*. `rs.initiate()` begins at
     term 1 instead, below the term of what is there, and such a member stays RECOVERING after its first restart.

Invariants
  * the configuration is written last, so a directory that has it has everything
  * a directory that lived on as a member (its oplog is newer than the archive's) is never changed
Crash: every write is journalled and can be made again; the mongod ends with the thread that started it. What is left
is a directory that has some of the writes, and a small one in the temporary directory: run it again.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bson import ObjectId, Timestamp
from pymongo import DESCENDING, MongoClient, WriteConcern
from pymongo.collection import Collection

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.replica_set import join_host_port, major_version, split_host_port
from ebbtide.errors import IntegrityError, InvalidInput, MongodError, Refused
from ebbtide.mongod.binary import mongod_version
from ebbtide.mongod.deployment import translated_errors
from ebbtide.mongod.log_lines import find_recovery_timestamp
from ebbtide.mongod.options import MongodOptions, UnixSocket
from ebbtide.mongod.process import MongodProcess, StopOutcome
from ebbtide.restore.restore_info import RESTORE_INFO_NAME

Document = dict[str, Any]

FREE_BYTES_MIN = 512 * 1024 * 1024
"""A started mongod makes up to 300 MB of journal files beside the data."""

CACHE_GB = 0.25
READY_SECONDS = 600.0
"""Opening checks every file of the archive; on a cold disk with many collections that takes minutes."""

STOP_SECONDS = 120.0
INFO_BYTES_MAX = 64 * 1024

_FIELD = re.compile(r"^([a-z ]+?) {2,}(\S.*)$", re.MULTILINE)
_TIMESTAMP = re.compile(r"oplog timestamp \((\d{1,10}), (\d{1,10})\)")
_SET_NAME = re.compile(r"[^\s/,?&=]+")


class FilesState(StrEnum):
    """What WiredTiger's files say of a directory."""

    UNTOUCHED = "UNTOUCHED"  # as extracted: WiredTiger.backup is there
    STARTED = "STARTED"  # a mongod opened them since
    INCOMPLETE = "INCOMPLETE"  # neither: the archive was not extracted whole


@dataclass(frozen=True, kw_only=True)
class ArchiveInfo:
    """What restoreInfo.txt says. `stable` is the timestamp of the data, `newest` of the oplog's last entry."""

    restore_job_id: str
    cluster: str
    replica_set_name: str
    mongod_version: str
    stable: OplogTimestamp
    newest: OplogTimestamp
    directory_per_db: bool


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


@dataclass(frozen=True, kw_only=True)
class PreparePlan:
    """What `execute_prepare` will do. `host` is the `name:port` of the new set's first member."""

    directory: Path
    info: ArchiveInfo
    replica_set_name: str
    host: str


class PrepareStep(StrEnum):
    """What is durable, in the order in which it becomes so."""

    OPENED = "OPENED"  # the files are open, and may be prepared
    OPLOG_CUT = "OPLOG_CUT"  # the oplog will end at the timestamp of the data
    TRANSACTIONS_EMPTIED = "TRANSACTIONS_EMPTIED"
    CONFIGURATION_REMOVED = "CONFIGURATION_REMOVED"
    CONFIGURED = "CONFIGURED"  # the new configuration is there
    STOPPED = "STOPPED"  # the mongod shut down cleanly


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The outcome. `data_at` is where the new set begins; `remarks` are for the person in front."""

    plan: PreparePlan
    was_prepared: bool
    data_at: OplogTimestamp
    users_count: int
    remarks: tuple[str, ...]


# --- looking ------------------------------------------------------------------------------------------------------


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
    stable, newest = (_TIMESTAMP.search(fields.get(name, "")) for name in ("timestamp", "newest oplog"))
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


# --- deciding -----------------------------------------------------------------------------------------------------


def plan_prepare(sight: DirectorySight, *, replica_set_name: str, host: str) -> PreparePlan:
    """The plan. Pure. Raises InvalidInput for a bad name or host, Refused with every other problem together."""
    if not _SET_NAME.fullmatch(replica_set_name):
        raise InvalidInput("--replset", expected="a replica set's name", got=replica_set_name)
    problems = find_problems(sight)
    if problems or sight.info is None:
        what, fixes = "; ".join(w for w, _ in problems), "; ".join(f for _, f in problems if f)
        raise Refused(f"{sight.directory} cannot be prepared: {what}", hint=fixes)
    return PreparePlan(
        directory=sight.directory,
        info=sight.info,
        replica_set_name=replica_set_name,
        host=parse_host(host),
    )


def parse_host(text: str) -> str:
    """`HOST:PORT` as a configuration names a member. Raises InvalidInput; a host without a port gets 27017."""
    host, port = split_host_port(text)
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", host) or not 1 <= port <= 65535 or host in ("0.0.0.0", "::"):
        raise InvalidInput(
            "--host", expected="HOST:PORT, as members and applications will reach it", got=text
        )
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


def new_configuration(*, replica_set_name: str, host: str, term: int) -> Document:
    """The configuration of a set of one, as the server itself stores it."""
    return {
        "_id": replica_set_name,
        "version": 1,
        "term": term,
        "members": [{"_id": 0, "host": host}],
        "protocolVersion": 1,
        "writeConcernMajorityJournalDefault": True,
        # A set of its own: a member of the old one that ever calls it is turned away.
        "settings": {"replicaSetId": ObjectId()},
    }


def is_prepared(configuration: Mapping[str, Any] | None, plan: PreparePlan) -> bool:
    """Whether this is what `plan` leads to, or what became of it: the set of that name with that member."""
    if configuration is None or configuration.get("_id") != plan.replica_set_name:
        return False
    members = configuration.get("members", [])
    # Every head had others beside it in its set; and no first configuration ever has another version than 1.
    first = configuration.get("version") == 1 and len(members) == 1
    return first and members[0].get("host") == plan.host


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


def execute_prepare(
    plan: PreparePlan, *, binary: Path, on_step: Callable[[PrepareStep], None] = lambda _: None
) -> Prepared:
    """Do it; `on_step` is called after each durable step. Doing it again is harmless.

    Raises Refused, having changed nothing, for files that lived on as a member or belong to a sharded cluster;
    IntegrityError; MongodError. After any other error: do it again.
    """
    with tempfile.TemporaryDirectory(prefix="ebbtide-prepare-") as name:
        own = Path(name)
        process = MongodProcess.start(
            binary,
            _plain_options(plan, own),
            identity_path=own / "mongod.json",
            ready_seconds=READY_SECONDS,
            die_with_parent=True,
        )
        try:
            with process.client() as client, translated_errors("preparing"):
                log = process.options.log_path.read_text(errors="replace").splitlines()
                prepared = _prepare(plan, client, find_recovery_timestamp(log), on_step)
        finally:
            outcome = process.stop(timeout_seconds=STOP_SECONDS)
    if outcome is not StopOutcome.STOPPED:
        raise MongodError("the mongod did not shut down by itself", hint="run the same command again")
    on_step(PrepareStep.STOPPED)
    return prepared


def _plain_options(plan: PreparePlan, own: Path) -> MongodOptions:
    return MongodOptions(
        dbpath=plan.directory,
        # Not in the directory: it is about to be someone's dbpath.
        log_path=own / "mongod.log",
        listen=UnixSocket(path=own / "mongod.sock"),
        cache_gb=CACHE_GB,
        set_parameters={"ttlMonitorEnabled": False, "disableLogicalSessionCacheRefresh": True},
        extra_flags=("--directoryperdb",) if plan.info.directory_per_db else (),
    )


def _prepare(
    plan: PreparePlan,
    client: "MongoClient[Document]",
    recovery: OplogTimestamp | None,
    on_step: Callable[[PrepareStep], None],
) -> Prepared:
    configuration = _local(client, "system.replset").find_one()
    newest = _local(client, "oplog.rs").find_one(sort=[("$natural", DESCENDING)])
    if newest is None:
        raise IntegrityError("the extracted files", "have no oplog")
    _check_not_sharded(client)
    users_count = client.admin["system.users"].count_documents({})
    was_prepared = is_prepared(configuration, plan)
    has_lived = OplogTimestamp.from_bson(newest["ts"]) > plan.info.newest
    if has_lived and not was_prepared:
        raise Refused(
            f"{plan.directory} has lived on as a replica set since it was extracted",
            hint="start it as that set; for a new one, extract the archive again into another directory",
        )
    cut = None if has_lived else cut_point(recovery, plan.info)
    on_step(PrepareStep.OPENED)
    if not was_prepared:
        if cut is not None:
            _cut_oplog(client, cut.to_bson())
            on_step(PrepareStep.OPLOG_CUT)
        _empty(client.config["transactions"])
        on_step(PrepareStep.TRANSACTIONS_EMPTIED)
        _empty(_local(client, "system.replset"))
        on_step(PrepareStep.CONFIGURATION_REMOVED)
        _local(client, "system.replset").insert_one(
            new_configuration(replica_set_name=plan.replica_set_name, host=plan.host, term=int(newest["t"]))
        )
        on_step(PrepareStep.CONFIGURED)
    return Prepared(
        plan=plan,
        was_prepared=was_prepared,
        data_at=cut or OplogTimestamp.from_bson(newest["ts"]),
        users_count=users_count,
        remarks=remarks_about(plan, None if was_prepared else configuration),
    )


def remarks_about(plan: PreparePlan, old_configuration: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What a person should know of a plan, given the configuration that the files came with. Pure."""
    remarks = []
    old_hosts = {member.get("host") for member in (old_configuration or {}).get("members", [])}
    if plan.host in old_hosts:
        remarks.append(
            f"{plan.host} is the address of a member of the old set: make sure that this member is gone for good"
        )
    if plan.replica_set_name == plan.info.replica_set_name:
        remarks.append(
            f"the old set is named {plan.replica_set_name} too: applications that know it by name may find either"
        )
    return tuple(remarks)


def _local(client: "MongoClient[Document]", name: str) -> "Collection[Document]":
    return client.local.get_collection(name, write_concern=WriteConcern(w=1, j=True))


def _empty(collection: "Collection[Document]") -> None:
    collection.with_options(write_concern=WriteConcern(w=1, j=True)).delete_many({})


def _cut_oplog(client: "MongoClient[Document]", last_inclusive: Timestamp) -> None:
    name = "oplogTruncateAfterPoint"
    _local(client, f"replset.{name}").replace_one(
        {"_id": name}, {"_id": name, name: last_inclusive}, upsert=True
    )


def _check_not_sharded(client: "MongoClient[Document]") -> None:
    is_shard = client.admin["system.version"].find_one({"_id": "shardIdentity"}) is not None
    if is_shard or client.config["shards"].find_one() is not None:
        raise Refused(
            "the archive is a part of a sharded cluster", hint="only a whole replica set can be prepared"
        )
