"""The private mongod that holds the catalog: on a Unix socket under the data directory, and nowhere else.

The version that wrote its files is noted beside them, and another major version is refused: mongod itself would, but
says less. Crash: its journal; a mongod left over by a serve that was killed is stopped before a new one starts.
"""

from ebbtide.data_directory import DataDirectory
from ebbtide.domain.replica_set import major_version
from ebbtide.errors import Refused
from ebbtide.mongod.binary import find_mongod, mongod_version
from ebbtide.mongod.options import MongodOptions, UnixSocket
from ebbtide.mongod.process import MongodProcess
from ebbtide.settings import Settings

READY_SECONDS = 60.0


def start_catalog(directory: DataDirectory, settings: Settings) -> MongodProcess:
    """Start it and wait until it answers; it ends with the thread that called this."""
    binary = find_mongod(settings.text("mongod"))
    _check_version(directory, mongod_version(binary))
    identity_path = directory.run / "catalog.json"
    leftover = MongodProcess.find_running(identity_path)
    if leftover is not None:
        leftover.stop()
    options = MongodOptions(
        dbpath=directory.catalog / "db",
        log_path=directory.catalog / "mongod.log",
        listen=UnixSocket(path=directory.catalog_socket()),
        cache_gb=settings.number("catalog.cache_gb"),
    )
    process = MongodProcess.start(
        binary, options, identity_path=identity_path, ready_seconds=READY_SECONDS, die_with_parent=True
    )
    (directory.catalog / "mongod-version").write_text(process.version + "\n")
    return process


def _check_version(directory: DataDirectory, version: str) -> None:
    try:
        written_by = (directory.catalog / "mongod-version").read_text().strip()
    except FileNotFoundError:
        return
    if major_version(written_by) != major_version(version):
        raise Refused(
            f"the catalog was written by mongod {written_by}, and the mongod at hand is {version}",
            hint=f"set EBBTIDE_MONGOD to a mongod {major_version(written_by)}",
        )
