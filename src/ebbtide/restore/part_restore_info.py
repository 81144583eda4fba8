"""`restoreInfo.txt` of a part of a sharded cluster: how the parts of one restore become a running cluster. Pure text."""

from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.sharding import CONFIG_PART, PARENT_FACT, PART_FACT
from ebbtide.repository.manifest import Manifest


def render_part_info(job: RestoreJob, manifest: Manifest, *, look: str, half_done: str) -> str:
    """The text. `look` is the command that opens the files plainly, `half_done` a paragraph or nothing.

    It depends on the job and its manifest alone, so an archive's bytes never change.
    """
    stable, newest = manifest.stable_timestamp, manifest.applied_timestamp
    part, directory = str(manifest.storage[PART_FACT]), job.file_name.removesuffix(".tar.gz")
    is_cut = job.limit is not None
    batch = f"batch            {job.batch_id}\n" if job.batch_id is not None else ""
    limit = f"asked up to      oplog timestamp {job.limit}\n" if is_cut else ""
    return f"""\
Ebbtide restore job {job.id}

cluster          {manifest.cluster_name} ({manifest.cluster_id})
sharded cluster  {manifest.storage[PARENT_FACT]}
part             {part}
replica set      {manifest.replica_set_name}
group            {manifest.group_name} ({manifest.group_id})
base snapshot    {manifest.parent_id if is_cut else manifest.snapshot_id}
{batch}{limit}timestamp        {stable.date.isoformat(timespec="seconds")}, oplog timestamp {stable}
newest oplog     {newest.date.isoformat(timespec="seconds")}, oplog timestamp {newest}
mongod           {manifest.mongod_version}
FCV              {manifest.fcv}
files            {len(manifest.files)}, {manifest.plain_bytes} bytes

This directory is the dbpath of a mongod {manifest.mongod_version}: {_what(part)} of a sharded cluster,
majority-committed data as it was at `timestamp`.

To look at it: with a mongod of the same major version, from the directory that holds {directory}/:

    {look}

It listens on 127.0.0.1 only and asks for no password: whoever can reach that port can read everything. TTL deletion is
switched off, so that nothing expires before you have looked; without that parameter documents whose time has passed are
deleted. Its log warns of a shard identity; that is as it should be. Do not start it with --replSet, --shardsvr or
--configsvr as it is: it would go looking for the old cluster, and at an address of the old set it would join production.

{_how_to_start(part, directory, manifest) if is_cut else _ALONE}
{half_done}Users and roles are those of that time. Python's gzip.decompress is very slow on an archive like this one; tarfile,
GNU tar and gzip are not.
"""


def _what(part: str) -> str:
    return "the config server" if part == CONFIG_PART else f"the shard {part}"


_ALONE = """\
This is a snapshot of one part alone. The other parts' snapshots are of other moments: together they would have halves of
transactions. To bring up the cluster, restore the sharded cluster itself, which cuts all of its parts at one moment.
"""


def _how_to_start(part: str, directory: str, manifest: Manifest) -> str:
    is_config = part == CONFIG_PART
    role, version = ("configsvr" if is_config else "shardsvr"), manifest.mongod_version
    addresses = _CONFIG_BY_HAND if is_config else _SHARD_BY_HAND
    return f"""\
To make a new sharded cluster of it and of the other parts of the same restore (the directories of the config server and
of every shard; all say the same `asked up to`), as the user who will run their first members, with the name and the new
address of every part:

    ebbtide restores prepare {directory} DIR... \\
        --part config=HOST:PORT --part SHARD=HOST:PORT ...

It needs no running Ebbtide, writes the same into all parts, and prints what to start next. Where parts are to run on
different machines, run it on each, with the directories that are there, the same --part options, and --others-elsewhere.

By hand the same is, for this part: start it with the first command above, and in `mongosh --port 27117`, with the NAMEs of
the sets (this one's was {manifest.replica_set_name}) and with your own HOST:PORTs:

    const local = db.getSiblingDB("local"), config = db.getSiblingDB("config"), admin = db.getSiblingDB("admin")
    for (const name of ["transactions", "transaction_coordinators", "mongos", "locks", "lockpings"])
        config.getCollection(name).deleteMany({{}})
    for (const name of config.getCollectionNames()) if (name.startsWith("cache.")) config.getCollection(name).drop()
    admin.getCollection("system.version").deleteOne({{_id: "minOpTimeRecovery"}})
{addresses}
    local.getCollection("system.replset").deleteMany({{}})
    const term = local.getCollection("oplog.rs").find().sort({{$natural: -1}}).limit(1).next().t
    local.getCollection("system.replset").insertOne({{_id: "NAME", version: 1, term: term,{_CONFIGSVR if is_config else ""}
        members: [{{_id: 0, host: "HOST:PORT"}}], protocolVersion: NumberLong(1),
        writeConcernMajorityJournalDefault: true, settings: {{replicaSetId: ObjectId()}}}})
    admin.shutdownServer()

Then start it with a mongod {version} and --{role} --replSet NAME, --port and --bind_ip as it is to have them: the config
server first, as no shard answers before it does; all with one keyfile or none. Then start routers, new ones or the old ones again with
--configdb NAME/HOST:PORT of the config server: a router remembers where the old cluster was. To each part add members that
start empty, with rs.add(). What these steps do was run on server 6.0.5, without a router: it was not run against a real mongos.
"""


_CONFIGSVR = " configsvr: true,"
_CONFIG_BY_HAND = """\
    // for each shard, with the new NAME and HOST:PORT of its first member; config.shards.find() shows the old ones
    config.shards.updateOne({_id: "SHARD"}, {$set: {host: "NAME/HOST:PORT"}})"""
_SHARD_BY_HAND = """\
    // the new NAME and HOST:PORT of the config server's first member
    admin.getCollection("system.version").updateOne({_id: "shardIdentity"},
        {$set: {configsvrConnectionString: "NAME/HOST:PORT"}})"""
