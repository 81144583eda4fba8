"""A storage in a local directory.

    <root>/<name>                                    a finished object
    <root>/tmp/<pid>-<start ticks>-<random>          an object being written by that process

A put goes: write the temporary file → fsync → rename → fsync of the directory. A directory made on the way is
made durable in its parent first.

Invariants
  * what has a name outside of tmp/ is complete and was synced before it got its name
  * a temporary file is removed by the put that failed, or by `sweep_temporary` once its process is gone
Crash: a temporary file, and at worst an object whose put did not return.
"""

import errno
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from ebbtide.errors import IntegrityError, ObjectNotFound, StorageError, StorageFull
from ebbtide.storage.protocol import RESERVED_TOP, StoredObject, check_name

SYNC_THREADS = 8
"""Parallel fsyncs of `put_many`: the journal commits them together (10,000 puts: 8 threads 3 s, 16 4.5 s,
none 7 s)."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_READS = {"get", "get range of", "size of"}

T = TypeVar("T")


class DirectoryStorage:
    """Objects as files below `root`, which is made if it is absent (mode 0700)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._temporary = root / RESERVED_TOP
        self._known_directories: set[Path] = set()
        self._directories_lock = threading.Lock()
        self._owner = f"{os.getpid()}-{_start_ticks(os.getpid())}"
        _translated("open", str(root), lambda: self._make_directory(self._temporary))

    def put(self, name: str, chunks: Iterable[bytes]) -> int:
        target = self._path(name)
        length = self._place(name, target, chunks)
        _translated("put", name, lambda: _sync_directory(target.parent))
        return length

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> int:
        named = [(name, self._path(name), data) for name, data in objects]
        with ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="put") as threads:
            # list() waits for all: no thread writes any more when an error leaves this method.
            lengths = list(threads.map(lambda one: self._place(one[0], one[1], [one[2]]), named))
            parents = {target.parent: name for name, target, _ in named}
            list(
                threads.map(
                    lambda one: _translated("put", one[1], lambda: _sync_directory(one[0])), parents.items()
                )
            )
        return sum(lengths)

    def get(self, name: str, *, limit: int) -> bytes:
        def read() -> bytes:
            with open(self._path(name), "rb") as file:
                return file.read(limit + 1)

        data = _translated("get", name, read)
        if len(data) > limit:
            raise IntegrityError(name, f"is longer than the {limit} bytes that it may have")
        return data

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        def read() -> bytes:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _read_fully(descriptor, start=start, length=length)
            finally:
                os.close(descriptor)

        data = _translated("get range of", name, read)
        if len(data) != length:
            raise IntegrityError(name, f"ends {length - len(data)} bytes before offset {start + length}")
        return data

    def size(self, name: str) -> int:
        return _translated("size of", name, lambda: os.stat(self._path(name)).st_size)

    def iter_objects(self, prefix: str) -> Iterator[StoredObject]:
        folder = prefix.rpartition("/")[0]
        top = self.root / check_name(folder) if folder else self.root
        for path in _iter_files(top, skip=self._temporary):
            name = path.relative_to(self.root).as_posix()
            if not name.startswith(prefix):
                continue
            try:
                yield StoredObject(name=name, size_bytes=self.size(name))
            except ObjectNotFound:
                continue  # deleted while we listed

    def delete(self, name: str) -> None:
        path = self._path(name)

        def remove() -> None:
            try:
                os.unlink(path)
            except OSError as error:
                if error.errno in _ABSENT:
                    return
                raise
            _sync_directory(path.parent)

        _translated("delete", name, remove)

    def free_bytes(self) -> int | None:
        return _translated("free space of", str(self.root), lambda: shutil.disk_usage(self.root).free)

    def total_bytes(self) -> int | None:
        return _translated("size of", str(self.root), lambda: shutil.disk_usage(self.root).total)

    def sweep_temporary(self) -> int:
        """Remove temporary files whose process is gone; how many there were is returned. Idempotent.

        A file of a living process is left alone, whoever that is.
        """
        removed = 0
        for entry in _translated("list", RESERVED_TOP, lambda: list(os.scandir(self._temporary))):
            if not _is_alive(entry.name):
                _translated("delete", entry.name, partial(Path(entry.path).unlink, missing_ok=True))
                removed += 1
        return removed

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

    def _place(self, name: str, target: Path, chunks: Iterable[bytes]) -> int:
        """Write, sync and rename; the directory entry is not yet durable."""
        temporary = self._temporary / f"{self._owner}-{secrets.token_hex(8)}"
        try:
            length = self._write_temporary(name, temporary, chunks)
            _translated("put", name, lambda: self._rename(temporary, target))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return length

    def _write_temporary(self, name: str, temporary: Path, chunks: Iterable[bytes]) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = _translated("put", name, lambda: os.open(temporary, flags, 0o600))
        try:
            length = 0
            for chunk in chunks:  # its own errors are the caller's and pass untranslated
                _translated("put", name, partial(_write_fully, descriptor, chunk))
                length += len(chunk)
            _translated("put", name, lambda: os.fsync(descriptor))
        finally:
            os.close(descriptor)
        return length

    def _rename(self, temporary: Path, target: Path) -> None:
        self._make_directory(target.parent)
        try:
            os.rename(temporary, target)
        except FileNotFoundError:
            # Somebody removed the directory that we remembered.
            with self._directories_lock:
                self._known_directories.clear()
            self._make_directory(target.parent)
            os.rename(temporary, target)

    def _make_directory(self, path: Path) -> None:
        """Make `path` and its parents, each durable in its parent."""
        with self._directories_lock:
            self._make_directory_locked(path)

    def _make_directory_locked(self, path: Path) -> None:
        if path in self._known_directories:
            return
        if not path.is_dir():
            self._make_directory_locked(path.parent)
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                if not path.is_dir():
                    raise
            _sync_directory(path.parent)
        self._known_directories.add(path)


def _translated(operation: str, name: str, action: Callable[[], T]) -> T:
    """The result of `action`, its OSError turned into ours."""
    try:
        return action()
    except OSError as error:
        if error.errno in _ABSENT and operation in _READS:
            raise ObjectNotFound(name, operation=operation) from error
        if error.errno in _FULL:
            raise StorageFull(operation, name) from error
        raise StorageError(operation, name, error.strerror or str(error)) from error


def _write_fully(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_fully(descriptor: int, *, start: int, length: int) -> bytes:
    """Up to `length` bytes; fewer only at the end of the file."""
    data = os.pread(descriptor, length, start)
    if len(data) in (0, length):
        return data
    parts = [data]
    done = len(data)
    while done < length and (data := os.pread(descriptor, length - done, start + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _iter_files(top: Path, *, skip: Path) -> Iterator[Path]:
    """Regular files below `top`, nothing if it is absent; symbolic links are not followed."""
    try:
        entries = list(os.scandir(top))
    except OSError as error:
        if error.errno in _ABSENT:
            return
        raise StorageError("list", str(top), error.strerror or str(error)) from error
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if path != skip:
                yield from _iter_files(path, skip=skip)
        elif entry.is_file(follow_symlinks=False):
            yield path


def _start_ticks(pid: int) -> int:
    """When process `pid` began, in clock ticks since boot; 0 if there is none. With the pid it names one
    process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The second field is the command in parentheses and may hold spaces.
    return int(text.rpartition(")")[2].split()[19])


def _is_alive(temporary_name: str) -> bool:
    pid, _, rest = temporary_name.partition("-")
    ticks = rest.partition("-")[0]
    return pid.isdigit() and ticks.isdigit() and ticks != "0" and _start_ticks(int(pid)) == int(ticks)
