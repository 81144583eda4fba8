"""One run of the repository over a directory of files, in a process of its own, so that its peak memory is known.

    python -m bench.repository_run snapshot FILES REPOSITORY NUMBER    a snapshot; from NUMBER 2 on with a parent
    python -m bench.repository_run materialise REPOSITORY NUMBER TARGET durable|scratch

Prints one JSON object: `seconds` and `bytes` of the work alone, `peak_rss_bytes` of the whole process.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.files import iter_snapshot_files
from bench.memory import peak_bytes
from bench.plain import processors
from ebbtide.domain.progress import NoProgress
from ebbtide.repository.materialise import materialise
from ebbtide.repository.pack import PACK_BYTES_TARGET
from ebbtide.repository.repository import ReplicaSetStore, Repository, never_cancelled
from ebbtide.repository.source import SourceFile, stat_file
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.testing.snapshots import CLUSTER, SET, make_manifest, new_store, snapshot_id, store_tree


def threads() -> int:
    """As many as a worker uses unless told otherwise."""
    return max(1, processors() - 1)


def snapshot(files: Path, repository: Path, number: int) -> dict[str, Any]:
    """Store the files as snapshot `number`, with the one before as its parent."""
    is_first = number == 1
    store = new_store(DirectoryStorage(repository)) if is_first else _open(repository)
    parent = None if is_first else store.load_manifest(snapshot_id(number - 1))
    sources = [
        SourceFile(path=path.relative_to(files).as_posix(), absolute=path, stat=stat_file(path))
        for path in iter_snapshot_files(files)
    ]

    def work() -> int:
        stored = store_tree(
            store, sources, number, parent=parent, threads=threads(), pack_bytes=PACK_BYTES_TARGET
        )
        manifest = make_manifest(
            number, stored.entries, parent=parent, new_stored_bytes=stored.new_stored_bytes
        )
        store.commit(manifest, parent=parent)
        return manifest.plain_bytes

    return _measured(work)


def lay_down(repository: Path, number: int, target: Path, *, durable: bool) -> dict[str, Any]:
    """Materialise snapshot `number` into `target`; scratch of a restore need not be durable."""
    store = _open(repository)
    manifest = store.load_manifest(snapshot_id(number))

    def work() -> int:
        materialise(
            store,
            manifest,
            target,
            threads=threads(),
            progress=NoProgress(),
            check_cancelled=never_cancelled,
            durable=durable,
        )
        return manifest.plain_bytes

    return _measured(work)


def _open(repository: Path) -> ReplicaSetStore:
    return Repository.open(DirectoryStorage(repository)).replica_set(CLUSTER, SET)


def _measured(work: Callable[[], int]) -> dict[str, Any]:
    started = time.perf_counter()
    plain_bytes = work()
    seconds = time.perf_counter() - started
    # The largest child stands for all of them, one a thread.
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 * threads()
    return {"seconds": seconds, "bytes": plain_bytes, "peak_rss_bytes": peak_bytes() + children}


def main(arguments: list[str]) -> None:
    what, *rest = arguments
    if what == "snapshot":
        result = snapshot(Path(rest[0]), Path(rest[1]), int(rest[2]))
    else:
        result = lay_down(Path(rest[0]), int(rest[1]), Path(rest[2]), durable=rest[3] == "durable")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
