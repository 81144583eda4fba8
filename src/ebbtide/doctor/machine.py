"""Asking this machine: directories, disks, key, mongod, catalog. Changes nothing; a probe file has no name."""

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

from ebbtide.backup.head_version import head_binary
from ebbtide.catalog.catalog import Catalog
from ebbtide.data_directory import DataDirectory
from ebbtide.doctor.checks import DiskFacts, MachineFacts
from ebbtide.domain.cluster import Cluster
from ebbtide.errors import EbbtideError
from ebbtide.mongod.binary import find_mongod, mongod_version
from ebbtide.repository.repository import parse_header
from ebbtide.sealing import ServiceKey
from ebbtide.settings import Settings

CATALOG_SECONDS = 3.0
HEADER_BYTES_MAX = 64 * 1024
HEADER_NAME = "repository.json"


def gather_machine(
    directory: DataDirectory,
    settings: Settings,
    *,
    catalog: Catalog,
    api: str,
    api_problem: str,
    api_fix: str,
) -> MachineFacts:
    """Ask. The three about the API are passed on."""
    repository, key_file = directory.repository(settings), directory.service_key_file(settings)
    data_problem = _find_directory_problem(directory.root)
    key_problem, key_fix = _find_key_problem(key_file)
    version, mongod_problem, mongod_fix = ask_mongod(settings)
    return MachineFacts(
        data_directory=str(directory.root),
        data_problem=data_problem,
        data_mode=None if data_problem else stat.S_IMODE(directory.root.stat().st_mode),
        data_disk=None if data_problem else _ask_disk(directory.root),
        repository=str(repository),
        repository_problem=_find_repository_problem(repository),
        repository_disk=_ask_disk(repository) if repository.is_dir() else None,
        key_file=str(key_file),
        key_problem=key_problem,
        key_fix=key_fix,
        mongod_version=version,
        mongod_problem=mongod_problem,
        mongod_fix=mongod_fix,
        catalog_problem=_find_catalog_problem(catalog),
        is_serving=_is_serving(directory),
        api=api,
        api_problem=api_problem,
        api_fix=api_fix,
    )


def ask_mongod(settings: Settings) -> tuple[str, str, str]:
    """(version, problem, fix) of the mongod that Ebbtide would run."""
    try:
        return mongod_version(find_mongod(settings.text("mongod"))), "", ""
    except EbbtideError as error:
        return "", error.message, error.hint


def ask_head_mongod(cluster: Cluster, settings: Settings) -> str:
    """The version that the cluster's head would run; that of the default where there is none for it; empty: none."""
    try:
        return mongod_version(head_binary(cluster, settings=settings))
    except EbbtideError:
        return ask_mongod(settings)[0]


def _find_directory_problem(path: Path) -> str:
    if not path.is_dir():
        return f"there is no directory {path}"
    if path.stat().st_uid != os.geteuid():
        return f"{path} belongs to another user"
    return ""


def _find_key_problem(path: Path) -> tuple[str, str]:
    # Asked before it is loaded: loading makes a new key where there is none.
    if not path.is_file():
        return (
            f"there is no service key {path}",
            "the first start of `ebbtide serve` makes it; if lost, put it back",
        )
    try:
        ServiceKey.load_or_create(path)
    except EbbtideError as error:
        return error.message, error.hint
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}", "run this as the user that runs `ebbtide serve`"
    return "", ""


def _find_repository_problem(path: Path) -> str:
    try:
        with (path / HEADER_NAME).open("rb") as file:
            parse_header(file.read(HEADER_BYTES_MAX))
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return f"{path} cannot be used: {error.strerror}"
    except EbbtideError as error:
        return error.message
    return ""


def _ask_disk(path: Path) -> DiskFacts:
    usage = shutil.disk_usage(path)
    return DiskFacts(free_bytes=usage.free, total_bytes=usage.total, device=path.stat().st_dev)


def _find_catalog_problem(catalog: Catalog) -> str:
    if catalog.answers(within_seconds=CATALOG_SECONDS):
        return ""
    return f"the catalog does not answer within {CATALOG_SECONDS:.0f} s"


def _is_serving(directory: DataDirectory) -> bool:
    """Whether a `serve` holds the lock of this data directory."""
    try:
        with (directory.run / "serve.lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
