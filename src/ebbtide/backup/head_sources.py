"""The files that a snapshot is made of: those of a locked head, or of a mongod of ours that has ended."""

from pathlib import Path

from ebbtide.domain.capture import check_complete, is_always_read, is_left_out, is_left_out_of_result
from ebbtide.repository.source import SourceFile, iter_regular_files, stat_file


def list_sources(dbpath: Path, *, oplog_file: str, metadata: str) -> list[SourceFile]:
    """The files, each with its stat from before it is read; `metadata` is the text of the stored WiredTiger.backup.

    Raises SnapshotUnusable where one is absent that the metadata names.
    """
    sources = []
    for absolute in iter_regular_files(dbpath):
        path = absolute.relative_to(dbpath).as_posix()
        if is_left_out(path):
            continue
        try:
            stat = stat_file(absolute)
        except FileNotFoundError:
            continue
        always = is_always_read(path, oplog_file=oplog_file)
        sources.append(SourceFile(path=path, absolute=absolute, stat=stat, always_read=always))
    check_complete([source.path for source in sources], metadata)
    return sources


def list_stopped_sources(dbpath: Path) -> list[SourceFile]:
    """The files of a mongod that has shut down cleanly; none of them changes any more."""
    files = [(path, path.relative_to(dbpath).as_posix()) for path in iter_regular_files(dbpath)]
    return [
        SourceFile(path=name, absolute=path, stat=stat_file(path), always_read=True)
        for path, name in files
        if not is_left_out_of_result(name)
    ]
