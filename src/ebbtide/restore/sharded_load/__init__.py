"""The loader of sharded clusters: from the parts of one, each on a scratch mongod, into a running one or a replica set.

The source is one standalone per part, config server included, all at one consistent moment. Nothing is taken from a
shard that it did not own then: a range that was being moved leaves documents on both sides. The target is a sharded
cluster whose config server and shards are reached directly, without a router, as the server's own user. In the order of
their use:

    layout        `read_layout(config)`                 databases, sharded collections, chunks, zones of one side
    source        `ShardedSource.read(clients)`         all parts as one inventory, and which part has what
    plan          `domain.sharded_restore`              which shard of the target gets which ranges: pure
    parts         `plan_parts(source, plan)`            for each shard of the target what it gets: pure
    rebuilding    `Rebuild(...).wipe()`, `.build(…)`    the target's metadata, empty collections, ranges in their places
    loading       `ShardedLoad`                         all shards at once: documents, indexes, views, comparison, expiry

A replica set is loaded from the same source by `restore.load` itself: `plan_load(source.merged.whole, …)`, and an
`OwnedReader` of all `owned_ranges()`.

Invariants
  * `config.*` is never written: what is changed there is changed by the commands that a router sends
  * these are of server 6.0; `domain.sharding.check_versions` has refused others before
  * ranges are moved while collections are empty, so that no move leaves documents behind
  * collections get UUIDs of their own: the target may still be forgetting ranges under the old ones
"""
