"""Preparing the parts of a sharded cluster: all are opened and judged first, then changed one after another.

The writes into each part, in their order, and why (run on 6.0.5):
  1. the oplog is to end where the data ends, as for any replica set.
  2. what nobody may go on with is emptied: `config.transactions` (a prepared transaction would come back with it),
     `config.transaction_coordinators` (they would decide transactions that are gone), and on the config server the
     routers that were (`config.mongos`) and the locks of processes that are gone (`config.locks`, `config.lockpings`).
  3. what was remembered of the routing goes (`config.cache.*`): it is read again from the config server. So does
     `minOpTimeRecovery`, a note of a shard to itself that names the old config server.
  4. the new addresses: on the config server those of all shards, on a shard that of the config server.
  5. the new replica set's configuration, of one member, in place of the old one.

What stays, on purpose: `config.migrationCoordinators` and `config.rangeDeletions`. A migration that was cut through is
finished or undone by the shards themselves, as after a power cut: the config server of the same moment says which. The
orphans that it left are known by these documents alone.

Invariants
  * nothing is written before all parts that are here are open and judged
  * a part's configuration is written last, so a part that has it has everything; the config server is the last part
Crash: every write is journalled and can be made again; the mongods end with the thread that started them. Run it again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.new_set import (
    Client,
    cut_oplog,
    journalled,
    local_collection,
    new_configuration,
    opened,
)
from ebbtide.restore.sharded_prepare.judge import PartChange, judge, remarks_about
from ebbtide.restore.sharded_prepare.plan import ShardedPlan
from ebbtide.restore.sharded_prepare.survey import survey_part

EMPTIED = ("transactions", "transaction_coordinators", "mongos", "locks", "lockpings")
"""Collections of `config` that are emptied; most are on one kind of part only."""

CACHE_PREFIX = "cache."


class PartStep(StrEnum):
    """What is durable of one part, in the order in which it becomes so."""

    OPENED = "OPENED"  # the files are open, and all parts may be prepared
    OPLOG_CUT = "OPLOG_CUT"  # the oplog will end at the timestamp of the data
    UNDECIDED_EMPTIED = (
        "UNDECIDED_EMPTIED"  # transactions, their coordinators, old routers and locks are gone
    )
    ROUTING_FORGOTTEN = "ROUTING_FORGOTTEN"
    ADDRESSED = "ADDRESSED"  # the new addresses are there
    CONFIGURED = "CONFIGURED"  # the new configuration is there
    STOPPED = "STOPPED"  # the mongod shut down cleanly


OnStep = Callable[[str, PartStep], None]


@dataclass(frozen=True, kw_only=True)
class ShardedPrepared:
    """The outcome: what was changed in each part, the config server first. `users_count`: of the cluster's own users."""

    plan: ShardedPlan
    parts: tuple[PartChange, ...]
    users_count: int
    remarks: tuple[str, ...]


def execute_sharded_prepare(
    plan: ShardedPlan, *, binary: Path, on_step: OnStep = lambda _name, _step: None
) -> ShardedPrepared:
    """Do it; `on_step` is called with the part's name after each durable step. Doing it again is harmless.

    Raises Refused, having changed nothing, for files that are not the parts of one cluster, lived on, or were cut in the
    middle of an operation over several parts; IntegrityError; MongodError. After any other error: do it again.
    """
    with (
        opened([(part.directory, part.info) for part in plan.parts], binary=binary) as all_files,
        translated_errors("preparing"),
    ):
        by_name = {part.name: files for part, files in zip(plan.parts, all_files, strict=True)}
        surveys = {name: survey_part(files) for name, files in by_name.items()}
        changes = judge(plan, surveys)
        for change in changes:
            on_step(change.plan.name, PartStep.OPENED)
        # The config server last: a cluster begins with it.
        for change in reversed(changes):
            if not change.was_prepared:
                _write(change, by_name[change.plan.name].client, on_step)
    for change in changes:
        on_step(change.plan.name, PartStep.STOPPED)
    return ShardedPrepared(
        plan=plan,
        parts=changes,
        users_count=surveys[plan.parts[0].name].users_count,
        remarks=remarks_about(plan, surveys),
    )


def _write(change: PartChange, client: Client, on_step: OnStep) -> None:
    name = change.plan.name
    if change.cut is not None:
        cut_oplog(client, change.cut)
        on_step(name, PartStep.OPLOG_CUT)
    for collection in EMPTIED:
        journalled(client.config[collection]).delete_many({})
    on_step(name, PartStep.UNDECIDED_EMPTIED)
    _forget_routing(client)
    on_step(name, PartStep.ROUTING_FORGOTTEN)
    _write_addresses(change, client)
    on_step(name, PartStep.ADDRESSED)
    _write_configuration(change, client)
    on_step(name, PartStep.CONFIGURED)


def _forget_routing(client: Client) -> None:
    for name in client.config.list_collection_names():
        if name.startswith(CACHE_PREFIX):
            journalled(client.config[name]).drop()
    journalled(client.admin["system.version"]).delete_one({"_id": "minOpTimeRecovery"})


def _write_addresses(change: PartChange, client: Client) -> None:
    if change.plan.is_config_server:
        for shard, address in change.shard_addresses.items():
            journalled(client.config["shards"]).update_one({"_id": shard}, {"$set": {"host": address}})
    else:
        journalled(client.admin["system.version"]).update_one(
            {"_id": "shardIdentity"},
            {"$set": {"configsvrConnectionString": change.addresses[CONFIG_PART]}},
        )


def _write_configuration(change: PartChange, client: Client) -> None:
    plan = change.plan
    configurations = local_collection(client, "system.replset")
    configurations.delete_many({})
    configurations.insert_one(
        new_configuration(
            replica_set_name=plan.replica_set_name,
            host=plan.host,
            term=change.term,
            is_config_server=plan.is_config_server,
        )
    )
