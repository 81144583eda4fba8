"""The worker as a process of its own."""

import os

from ebbtide.backup.context import BackupContext
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.ids import new_id
from ebbtide.repository.repository import Repository
from ebbtide.sealing import ServiceKey
from ebbtide.settings import Settings
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.storage.protocol import Storage
from ebbtide.storage.throttled import RateLimit, ThrottledStorage
from ebbtide.worker.worker import Worker, stop_on_signals


def run_worker(directory: DataDirectory, settings: Settings) -> None:
    """Run a worker until SIGTERM. Raises where catalog, key or repository cannot be opened."""
    os.nice(settings.count("worker.nice"))
    catalog = Catalog.connect(
        directory.catalog_uri(settings), timeout_seconds=directory.catalog_seconds(settings)
    )
    try:
        catalog.prepare()
        context = BackupContext(
            settings=settings,
            directory=directory,
            catalog=catalog,
            service_key=ServiceKey.load_or_create(directory.service_key_file(settings)),
            clock=SystemClock(),
            repository=Repository.open(_open_storage(directory, settings)),
            worker_id=new_id(),
        )
        worker = Worker(context)
        stop_on_signals(worker)
        worker.run()
    finally:
        catalog.close()


def _open_storage(directory: DataDirectory, settings: Settings) -> Storage:
    """The repository's storage, written to no faster than the settings allow."""
    storage = DirectoryStorage(directory.repository(settings))
    rate = settings.number("repository.write_bytes_per_second")
    return ThrottledStorage(storage, writes=RateLimit(rate, SystemClock())) if rate else storage
