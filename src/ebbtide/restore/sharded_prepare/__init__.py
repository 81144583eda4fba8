"""From the archives of a sharded cluster's parts to a running cluster, offline.

    targets   `--part NAME=HOST:PORT…`: where each part will be (pure)
    plan      which directory is which part; refuses what is half given, with every reason together (pure)
    survey    what the opened files say: whose they are, where the cluster is now, what is under way (reads only)
    judge     refuse, with every reason together, or say of each part what is to be changed (pure)
    execute   plain mongods on Unix sockets, all parts at once; survey, judge, the writes, part after part; stop

Nothing is asked of any cluster, and nobody listens on TCP. All parts were cut at one consistent point, so what the
servers find is what they would find after losing power at that moment, and what they had begun they finish or undo by
themselves, with two exceptions: a transaction that was prepared is gone from every part (docs/sharded-consistency.md),
and so nobody may decide it any more.
"""
