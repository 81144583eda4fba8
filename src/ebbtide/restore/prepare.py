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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import InvalidInput, Refused
from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.archive_directory import SET_NAME, ArchiveInfo, DirectorySight, find_problems, parse_host
from ebbtide.restore.new_set import (
    OpenedFiles,
    cut_oplog,
    cut_point,
    is_new_set,
    journalled,
    local_collection,
    new_configuration,
    newest_entry,
    opened,
)

Document = dict[str, Any]


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


# --- deciding -----------------------------------------------------------------------------------------------------


def plan_prepare(sight: DirectorySight, *, replica_set_name: str, host: str) -> PreparePlan:
    """The plan. Pure. Raises InvalidInput for a bad name or host, Refused with every other problem together."""
    if not SET_NAME.fullmatch(replica_set_name):
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


def is_prepared(configuration: Mapping[str, Any] | None, plan: PreparePlan) -> bool:
    """Whether this is what `plan` leads to, or what became of it: the set of that name with that member."""
    return is_new_set(configuration, replica_set_name=plan.replica_set_name, host=plan.host)


# --- doing --------------------------------------------------------------------------------------------------------


def execute_prepare(
    plan: PreparePlan, *, binary: Path, on_step: Callable[[PrepareStep], None] = lambda _: None
) -> Prepared:
    """Do it; `on_step` is called after each durable step. Doing it again is harmless.

    Raises Refused, having changed nothing, for files that lived on as a member or belong to a sharded cluster;
    IntegrityError; MongodError. After any other error: do it again.
    """
    with (
        opened([(plan.directory, plan.info)], binary=binary) as (files,),
        translated_errors("preparing"),
    ):
        prepared = _prepare(plan, files, on_step)
    on_step(PrepareStep.STOPPED)
    return prepared


def _prepare(plan: PreparePlan, files: OpenedFiles, on_step: Callable[[PrepareStep], None]) -> Prepared:
    client = files.client
    configuration = local_collection(client, "system.replset").find_one()
    newest = newest_entry(client)
    _check_not_sharded(client)
    users_count = client.admin["system.users"].count_documents({})
    was_prepared = is_prepared(configuration, plan)
    has_lived = newest.timestamp > plan.info.newest
    if has_lived and not was_prepared:
        raise Refused(
            f"{plan.directory} has lived on as a replica set since it was extracted",
            hint="start it as that set; for a new one, extract the archive again into another directory",
        )
    cut = None if has_lived else cut_point(files.recovery, plan.info)
    on_step(PrepareStep.OPENED)
    if not was_prepared:
        if cut is not None:
            cut_oplog(client, cut)
            on_step(PrepareStep.OPLOG_CUT)
        journalled(client.config["transactions"]).delete_many({})
        on_step(PrepareStep.TRANSACTIONS_EMPTIED)
        local_collection(client, "system.replset").delete_many({})
        on_step(PrepareStep.CONFIGURATION_REMOVED)
        local_collection(client, "system.replset").insert_one(
            new_configuration(replica_set_name=plan.replica_set_name, host=plan.host, term=newest.term)
        )
        on_step(PrepareStep.CONFIGURED)
    return Prepared(
        plan=plan,
        was_prepared=was_prepared,
        data_at=cut or newest.timestamp,
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


def _check_not_sharded(client: "MongoClient[Document]") -> None:
    is_shard = client.admin["system.version"].find_one({"_id": "shardIdentity"}) is not None
    if is_shard or client.config["shards"].find_one() is not None:
        raise Refused(
            "the archive is a part of a sharded cluster",
            hint="name the directories of all parts, and give --part for each in place of --replset and --host",
        )
