"""Keeping everybody else from writing into the target of a restore, on servers that can (6.0 and later).

`setUserWriteBlockMode` lasts beyond connection, process and election, so the catalog learns that it is set *before* it
is, and that it is off only after it is: while `AutomatedRestore.write_block` is SET, the target may be blocked, and
whoever finds that of a job that nobody works on takes it away (`restore.abandoned`).

Of a sharded cluster the config server is asked, which tells every shard; it is not blocked itself, so whether
somebody had set a block is asked of a shard.

A block that somebody else had set is left as it was found.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pymongo import MongoClient

from ebbtide.catalog.catalog import Catalog
from ebbtide.crash_points import reach
from ebbtide.domain.automated_restore import AutomatedRestore, WriteBlock, can_block_writes, is_foreign_write
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.mongod.deployment import get_fcv, run_admin, translated_errors
from ebbtide.restore.load.patience import MAJORITY

Client = MongoClient[dict[str, Any]]

_COMMAND, _SHARDED_COMMAND = "setUserWriteBlockMode", "_configsvrSetUserWriteBlockMode"

_BLOCKED = 2
"""`repl.userWriteBlockMode` of serverStatus: 1 is off, 2 is on (6.0.5)."""

LOOKED_AT_MAX = 1_000_000
"""Entries of the target's oplog that are looked through for foreign writes."""


def block_writes(
    client: Client,
    restore: AutomatedRestore,
    catalog: Catalog,
    *,
    has_login: bool,
    shard: Client | None = None,
) -> WriteBlock:
    """Keep others off, and say how that is now. Harmless where it was done before.

    `has_login`: whether the set asks for one. Where it does not, nobody is let through, and we are as blocked as others.
    `shard`: one of a sharded cluster, whose config server `client` is of.
    Crash: the catalog says SET, and the block may be set or not.
    """
    state = _choose(shard or client, restore) if has_login else WriteBlock.NOT_OFFERED
    catalog.automated_restores.update(restore.id, write_block=state)
    if state is WriteBlock.SET:
        _set(client, is_blocked=True, is_sharded=shard is not None)
        reach("automated.write_blocked")
    return state


def _choose(client: Client, restore: AutomatedRestore) -> WriteBlock:
    if not can_block_writes(get_fcv(client)):
        return WriteBlock.NOT_OFFERED
    if restore.write_block is WriteBlock.SET:
        return WriteBlock.SET
    status = run_admin(client, "serverStatus", repl=1)
    is_blocked = status.get("repl", {}).get("userWriteBlockMode") == _BLOCKED
    return WriteBlock.FOREIGN if is_blocked else WriteBlock.SET


def unblock_writes(
    client: Client, restore: AutomatedRestore, catalog: Catalog, *, is_sharded: bool = False
) -> None:
    """Let others write again, where it was us who kept them off. `is_sharded`: `client` is of a config server.

    Crash: the catalog still says SET, and it is taken away once more.
    """
    if restore.write_block is WriteBlock.SET:
        _set(client, is_blocked=False, is_sharded=is_sharded)
    if restore.write_block is not WriteBlock.OFF:
        catalog.automated_restores.update(restore.id, write_block=WriteBlock.OFF)


def _set(client: Client, *, is_blocked: bool, is_sharded: bool) -> None:
    fields: dict[str, Any] = {"global": is_blocked}
    if is_sharded:
        fields["writeConcern"] = MAJORITY
    run_admin(client, _SHARDED_COMMAND if is_sharded else _COMMAND, **fields)


def newest_entry(client: Client) -> OplogTimestamp:
    """Where the primary's oplog ends now."""
    hello = run_admin(client, "hello")
    return OplogTimestamp.from_bson(hello["lastWrite"]["opTime"]["ts"])


def find_foreign_writes(
    client: Client, *, after: OplogTimestamp, through: OplogTimestamp, written: tuple[str, ...]
) -> tuple[str, ...]:
    """Namespaces that somebody else wrote into meanwhile, in order of their names.

    `client` reads the oplog. `written` as in `is_foreign_write`.
    """
    with translated_errors("reading the target's oplog"):
        found = {
            namespace
            for entry in _iter_entries(client, after, through)
            if (namespace := is_foreign_write(entry, written=written)) is not None
        }
    return tuple(sorted(found))


def _iter_entries(
    client: Client, after: OplogTimestamp, through: OplogTimestamp
) -> Iterator[Mapping[str, Any]]:
    """Entries in between; the writes of a transaction one by one, as if each had an entry of its own."""
    cursor = client.local["oplog.rs"].find(
        {"ts": {"$gt": after.to_bson(), "$lte": through.to_bson()}, "op": {"$in": ["i", "u", "d", "c"]}},
        projection={"op": 1, "ns": 1, "txnNumber": 1, "o.applyOps.op": 1, "o.applyOps.ns": 1},
        limit=LOOKED_AT_MAX,
    )
    with cursor:
        for entry in cursor:
            if entry["op"] != "c":
                yield entry
            elif "txnNumber" in entry:
                for part in (entry.get("o") or {}).get("applyOps", ()):
                    yield {**part, "txnNumber": entry["txnNumber"]}
