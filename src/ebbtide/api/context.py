"""What every handler of the API may use: one frozen value, made once at start."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from ebbtide.api.known_groups import KnownGroups
from ebbtide.api.shown_jobs import ShownJobs
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.restore_job import RestoreJob
from ebbtide.sealing import ServiceKey
from ebbtide.settings import Settings


class Archive(Protocol):
    """The download of one restore job: known length, any range of it readable."""

    @property
    def length_bytes(self) -> int: ...

    @property
    def file_name(self) -> str: ...

    def iter_range(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes `start` … `end`−1 in order. Raises IntegrityError, ObjectNotFound."""


@dataclass(frozen=True, kw_only=True)
class ApiContext:
    """`external_url` has no trailing slash; every link begins with it, never with a `Host` header.

    `data_dir` is where heads of this machine keep their files, so that a registration can judge the disk.
    """

    settings: Settings
    catalog: Catalog
    service_key: ServiceKey
    clock: Clock
    repository_path: Path
    external_url: str
    data_dir: Path | None
    open_archive: Callable[[RestoreJob], Archive]

    @cached_property
    def known_groups(self) -> KnownGroups:
        """Groups that were found a moment ago."""
        return KnownGroups(self.catalog.groups)

    @cached_property
    def shown_jobs(self) -> ShownJobs:
        """What lists show of restore jobs, remembered."""
        return ShownJobs(self.catalog.restore_jobs, self.service_key)
