"""The loader: from a plain source mongod into a running replica set.

The source is a standalone on a Unix socket, without passwords, that nobody writes to: the data at a restore point. The
target is a replica set with clients of its own. The loader gets a PyMongo client of each, a plan, and callbacks; it
knows nothing of catalog, jobs or API. In the order of their calls:

    inventory     `read_inventory(client)`                       what a server holds: collections, options, indexes
    plan          `plan_load(source, target, scope)`             pure: what is removed, what is created; print it, test it
    removal       `execute_removal(target, plan, …)`             namespace by namespace, then whole databases
    creation      `create_collections(target, plan, …)`          with all options and UUIDs, empty, nothing expires yet
    documents     `load_documents(reader, target, plan, …)`      raw BSON, several writers; each collection reports its end
    indexes       `build_indexes(target, plan, …)`               several collections at once, none of them a TTL index
                  `create_views(target, plan, …)`                views, and the face of time series
    comparison    `compare(reader, target, plan, …)`             counts, content, options, indexes: every difference named
    expiry        `start_expiry(target, plan, …)`                TTL indexes and options, last: see there
    accounts      `restore_accounts(source, target, …)`          users and roles, where asked for

Invariants
  * what the plan does not name is not touched: `local`, `config` and the server's own collections in `admin` never are
  * a collection is reported finished only when each of its documents is majority committed
  * every call may be made again after a crash in it, with the same plan and the collections finished so far

What the account on the target needs: the roles restore, dbAdminAnyDatabase, readWriteAnyDatabase and clusterMonitor
(docs/decisions has what each is for). Errors: LoadFailed where trying again cannot help; Unreachable and DeploymentError
of the target or the source; and what the caller's `check` raises, called twice a second while one waits.
"""
