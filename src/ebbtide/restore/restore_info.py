"""`restoreInfo.txt`: what a download is, and the exact commands that start it. Pure text."""

from ebbtide.domain.host import HOST_FACT
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.sharding import PART_FACT
from ebbtide.repository.manifest import Manifest, ManifestKind
from ebbtide.restore.part_restore_info import render_part_info

RESTORE_INFO_NAME = "restoreInfo.txt"

SAFE_PARAMETERS = (
    "--setParameter",
    "ttlMonitorEnabled=false",
    "--setParameter",
    "disableLogicalSessionCacheRefresh=true",
)
"""For every first start of restored files: nothing expires before anyone has looked."""


def plain_start_arguments(directory: str, *, port: int, directory_per_db: bool) -> list[str]:
    """Arguments of a mongod that opens the files as they are, at the job's timestamp, on loopback only."""
    arguments = ["--dbpath", directory, "--port", str(port), "--bind_ip", "127.0.0.1", *SAFE_PARAMETERS]
    return [*arguments, "--directoryperdb"] if directory_per_db else arguments


def render_restore_info(job: RestoreJob, manifest: Manifest) -> str:
    """The text. It depends on the job and its manifest alone, so an archive's bytes never change."""
    if PART_FACT in manifest.storage:
        return render_part_info(
            job, manifest, look=_start_command(job, manifest), half_done=_render_half_done(manifest)
        )
    if manifest.kind is ManifestKind.DELIVER_ONLY:
        return _render_result_info(job, manifest)
    if HOST_FACT in manifest.storage:
        return _render_host_info(job, manifest)
    stable, applied = manifest.stable_timestamp, manifest.applied_timestamp
    directory = job.file_name.removesuffix(".tar.gz")
    command = _start_command(job, manifest)
    return f"""\
Ebbtide restore job {job.id}

cluster          {manifest.cluster_name} ({manifest.cluster_id})
replica set      {manifest.replica_set_name}
group            {manifest.group_name} ({manifest.group_id})
snapshot         {manifest.snapshot_id}
asked for        {manifest.created.isoformat(timespec="seconds")}
timestamp        {stable.date.isoformat(timespec="seconds")}, oplog timestamp {stable}
newest oplog     {applied.date.isoformat(timespec="seconds")}, oplog timestamp {applied}
mongod           {manifest.mongod_version}
FCV              {manifest.fcv}
files            {len(manifest.files)}, {manifest.plain_bytes} bytes

This directory is the dbpath of a mongod {manifest.mongod_version}, majority-committed data as it was at `timestamp`.

To look at it: with a mongod of the same major version, from the directory that holds {directory}/:

    {command}

It listens on 127.0.0.1 only and asks for no password: whoever can reach that port can read everything. Its log says
"WiredTiger recoveryTimestamp" with the timestamp above. TTL deletion is switched off, so that nothing expires before
you have looked; without that parameter documents whose time has passed are deleted.

Started as a standalone, the data is at `timestamp`. The oplog inside reaches on to `newest oplog`; to have these
entries too, start once with

    {command} \\
        --setParameter recoverFromOplogAsStandalone=true --setParameter takeUnstableCheckpointOnShutdown=true

which comes up read-only. Do not start it with --replSet as it is: at an address of the old set it would join
production.

To make a new replica set of it, run where its first member will be, as the user who will run that member:

    ebbtide restores prepare {directory} --replset NAME --host HOST:PORT

It needs no running Ebbtide, and prints what to start next. By hand the same is: start it with the first command above,
and in `mongosh --port 27117`, with your own NAME and HOST:PORT:

    const local = db.getSiblingDB("local"), cut = "oplogTruncateAfterPoint"
    local.getCollection("replset." + cut).replaceOne({{_id: cut}},
        {{_id: cut, [cut]: Timestamp({{t: {stable.seconds}, i: {stable.increment}}})}}, {{upsert: true}})
    db.getSiblingDB("config").getCollection("transactions").deleteMany({{}})
    local.getCollection("system.replset").deleteMany({{}})
    const term = local.getCollection("oplog.rs").find().sort({{$natural: -1}}).limit(1).next().t
    local.getCollection("system.replset").insertOne({{_id: "NAME", version: 1, term: term,
        members: [{{_id: 0, host: "HOST:PORT"}}], protocolVersion: NumberLong(1),
        writeConcernMajorityJournalDefault: true, settings: {{replicaSetId: ObjectId()}}}})
    db.getSiblingDB("admin").shutdownServer()

Then start it with --replSet NAME, --port and --bind_ip as your set is to have them, and rs.add() members that start
empty. All of it, in that order: without the first two, a transaction that was under way may block its documents for
ever; dropping `local`, or rs.initiate() in place of the insert, fails at the first restart. These commands are for
files that were not advanced to `newest oplog`; `restores prepare` tells the difference by itself.

Users and roles are those of that time. Python's gzip.decompress is very slow on an archive like this one; tarfile,
GNU tar and gzip are not.
"""


DROPPED_INDEXES, PREPARED_TRANSACTIONS = "droppedIndexes", "preparedTransactions"
"""What a result's manifest tells, beside the engine's layout, of what was half done at that moment."""


def _start_command(job: RestoreJob, manifest: Manifest) -> str:
    per_db = bool(manifest.storage.get("directoryPerDB", False))
    directory = job.file_name.removesuffix(".tar.gz")
    return "mongod " + " ".join(plain_start_arguments(directory, port=27117, directory_per_db=per_db))


def _render_result_info(job: RestoreJob, manifest: Manifest) -> str:
    """Of a replayed result: data and oplog end at the same entry, and no mongod says where it opens them."""
    moment = manifest.stable_timestamp
    limit = "" if job.limit is None else f"asked up to      oplog timestamp {job.limit}\n"
    directory = job.file_name.removesuffix(".tar.gz")
    return f"""\
Ebbtide restore job {job.id}

cluster          {manifest.cluster_name} ({manifest.cluster_id})
replica set      {manifest.replica_set_name}
group            {manifest.group_name} ({manifest.group_id})
base snapshot    {manifest.parent_id}
{limit}timestamp        {moment.date.isoformat(timespec="seconds")}, oplog timestamp {moment}
newest oplog     {moment.date.isoformat(timespec="seconds")}, oplog timestamp {moment}
mongod           {manifest.mongod_version}
FCV              {manifest.fcv}
files            {len(manifest.files)}, {manifest.plain_bytes} bytes

This directory is the dbpath of a mongod {manifest.mongod_version}: majority-committed data up to and including the oplog
entry of `timestamp`. mongod itself replayed the oplog on the base snapshot, and counted what it applied.

To look at it: with a mongod of the same major version, from the directory that holds {directory}/:

    {_start_command(job, manifest)}

It listens on 127.0.0.1 only and asks for no password: whoever can reach that port can read everything. TTL deletion is
switched off, so that nothing expires before you have looked; without that parameter documents whose time has passed are
deleted. Do not start it with --replSet as it is: at an address of the old set it would join production.

To make a new replica set of it, run where its first member will be, as the user who will run that member:

    ebbtide restores prepare {directory} --replset NAME --host HOST:PORT

It needs no running Ebbtide, and prints what to start next. By hand the same is: start it with the first command above,
and in `mongosh --port 27117`, with your own NAME and HOST:PORT:

    const local = db.getSiblingDB("local")
    db.getSiblingDB("config").getCollection("transactions").deleteMany({{}})
    local.getCollection("system.replset").deleteMany({{}})
    const term = local.getCollection("oplog.rs").find().sort({{$natural: -1}}).limit(1).next().t
    local.getCollection("system.replset").insertOne({{_id: "NAME", version: 1, term: term,
        members: [{{_id: 0, host: "HOST:PORT"}}], protocolVersion: NumberLong(1),
        writeConcernMajorityJournalDefault: true, settings: {{replicaSetId: ObjectId()}}}})
    db.getSiblingDB("admin").shutdownServer()

Then start it with --replSet NAME, --port and --bind_ip as your set is to have them, and rs.add() members that start
empty. All of it, in that order: dropping `local`, or rs.initiate() in place of the insert, fails at the first restart.

{_render_half_done(manifest)}Users and roles are those of that time. Python's gzip.decompress is very slow on an archive like this one; tarfile,
GNU tar and gzip are not.
"""


def _render_host_info(job: RestoreJob, manifest: Manifest) -> str:
    """Of a mirrored config server: another mongod's files, without an oplog, that hold its documents."""
    storage, locked = manifest.storage, manifest.stable_timestamp
    return f"""\
Ebbtide restore job {job.id}

host             {manifest.cluster_name} ({storage[HOST_FACT]})
group            {manifest.group_name} ({manifest.group_id})
snapshot         {manifest.snapshot_id}
asked for        {manifest.created.isoformat(timespec="seconds")}
timestamp        {locked.date.isoformat(timespec="seconds")}, by the host's own clock
host's mongod    {storage.get("hostVersion", "not known")}
mongod           {manifest.mongod_version}
FCV              {manifest.fcv}
files            {len(manifest.files)}, {manifest.plain_bytes} bytes

This directory is the dbpath of a mongod {manifest.mongod_version}. It holds a copy of a mirrored config server as it was
at `timestamp`, locked: documents, options, indexes and views of every database but `local`, users and roles. Left out
are the server's own collections, client sessions among them. There is no oplog in it.

To look at it: with a mongod of the same major version, from the directory that holds the unpacked one:

    {_start_command(job, manifest)}

It listens on 127.0.0.1 only and asks for no password: whoever can reach that port can read everything. TTL deletion is
switched off, so that nothing expires before you have looked; without that parameter documents whose time has passed are
deleted.

Where `host's mongod` and `mongod` are not the same major version, the host's own cannot open these files: start them as
above, and copy the databases over with the tools of its version.

Python's gzip.decompress is very slow on an archive like this one; tarfile, GNU tar and gzip are not.
"""


def _render_half_done(manifest: Manifest) -> str:
    """What was under way at that moment, and is not in the files: one paragraph, or nothing."""
    sentences = []
    prepared = manifest.storage.get(PREPARED_TRANSACTIONS)
    if prepared:
        sentences.append(f"Transactions that were prepared at that moment, and not committed: {prepared}.")
    indexes = manifest.storage.get(DROPPED_INDEXES)
    if indexes:
        sentences.append(f"Indexes that were still being built, and are not there: {indexes}.")
    return "\n".join(sentences) + "\n\n" if sentences else ""
