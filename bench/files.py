"""The files that a snapshot of a head consists of, by the product's own rule."""

from collections.abc import Iterator
from pathlib import Path

from ebbtide.domain.capture import is_left_out


def iter_snapshot_files(dbpath: Path) -> Iterator[Path]:
    """Every file of the directory that a snapshot holds, in order of its path."""
    for path in sorted(dbpath.rglob("*")):
        if path.is_file() and not is_left_out(path.relative_to(dbpath).as_posix()):
            yield path
