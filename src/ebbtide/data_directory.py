"""Where one installation keeps its files.

    DATA/ebbtide.toml          settings (optional)
    DATA/secret.key            the service key, 0600
    DATA/owner-key.json        the first key, where no terminal was there to show it, 0600
    DATA/repository/           snapshots
    DATA/catalog/              the private catalog's mongod: files, log, version mark
    DATA/heads/<cluster id>/   a head: its files, log, keyfile
    DATA/scratch/…/            what a restore works on: a full copy of the data, for as long as it takes
    DATA/run/                  sockets and process identities, 0700

DATA itself is 0700: it holds full copies of the data, and the keys to them.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ebbtide.errors import Refused
from ebbtide.settings import Settings

SOCKET_PATH_BYTES_MAX = 107

CATALOG_SECONDS = 10.0
PRIVATE_CATALOG_SECONDS = 5.0


@dataclass(frozen=True)
class DataDirectory:
    """Paths under one data directory."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> "DataDirectory":
        return cls(path.expanduser().resolve())

    def prepare(self) -> None:
        """Create what is missing, readable for the owner only. Raises Refused where that cannot be."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if self.root.stat().st_uid != os.getuid():
                raise Refused(
                    f"{self.root} belongs to another user", hint="run as that user, or choose another --data"
                )
            for path in (self.root, self.heads, self.run, self.catalog, self.scratch):
                path.mkdir(exist_ok=True)
                path.chmod(0o700)
        except OSError as error:
            raise Refused(
                f"cannot use {self.root}: {error.strerror}", hint="choose another --data"
            ) from error

    @property
    def settings_file(self) -> Path:
        return self.root / "ebbtide.toml"

    @property
    def owner_key_file(self) -> Path:
        return self.root / "owner-key.json"

    @property
    def heads(self) -> Path:
        return self.root / "heads"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def catalog(self) -> Path:
        return self.root / "catalog"

    def repository(self, settings: Settings) -> Path:
        named = settings.text("repository.path")
        return Path(named).expanduser().resolve() if named else self.root / "repository"

    def service_key_file(self, settings: Settings) -> Path:
        named = settings.text("service.key_file")
        return Path(named).expanduser().resolve() if named else self.root / "secret.key"

    def catalog_socket(self) -> Path:
        """The private catalog's socket: in `run`, or where that path is too long, in a directory of our own."""
        path = self.run / "catalog.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
            return path
        name = hashlib.blake2b(os.fsencode(self.root), digest_size=8).hexdigest()
        directory = Path(tempfile.gettempdir()) / f"ebbtide-{os.getuid()}-{name}"
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise Refused(f"{directory} is not private", hint="remove it, or choose a shorter --data")
        return directory / "catalog.sock"

    def catalog_seconds(self, settings: Settings) -> float:
        """How long to wait for the catalog to answer.

        The private one is back within seconds, or gone for good: then nobody must wait long to say good-bye to it.
        """
        return PRIVATE_CATALOG_SECONDS if settings.text("catalog.uri") is None else CATALOG_SECONDS

    def catalog_uri(self, settings: Settings) -> str:
        """How to reach the catalog: the one that the settings name, or the private one."""
        named = settings.text("catalog.uri")
        return named or "mongodb://" + str(self.catalog_socket()).replace("%", "%25").replace("/", "%2F")
