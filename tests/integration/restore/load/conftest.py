"""A source that all tests read and none changes, and a replica set that each of them finds empty."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from ebbtide.domain.automated_restore import RESTORE_ROLES, RestoreScope
from ebbtide.mongod.options import MongodOptions, UnixSocket
from ebbtide.mongod.process import MongodProcess
from ebbtide.restore.load.comparison import compare
from ebbtide.restore.load.creation import create_collections, create_views
from ebbtide.restore.load.documents import Pace, load_documents
from ebbtide.restore.load.expiry import start_expiry
from ebbtide.restore.load.indexes import build_indexes
from ebbtide.restore.load.inventory import read_inventory
from ebbtide.restore.load.plan import LoadPlan, plan_load
from ebbtide.restore.load.reading import NaturalReader
from ebbtide.restore.load.removal import execute_removal
from ebbtide.restore.scratch_mongod import SAFE_PARAMETERS
from ebbtide.testing import workload
from ebbtide.testing.lab import ReplicaSetLab

Document = dict[str, Any]
Client = MongoClient[Document]

SCALE = 0.05
LOADER, PASSWORD = "loader", "not a secret"
QUICK = Pace(batch_documents=100)
"""Many small batches, so that what happens in the middle of a load happens in the middle."""


@pytest.fixture(scope="session")
def source(mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A plain mongod with one of everything. Whoever adds something takes it away again."""
    directory = tmp_path_factory.mktemp("src")
    options = MongodOptions(
        dbpath=directory / "db",
        log_path=directory / "mongod.log",
        listen=UnixSocket(path=directory / "m.sock"),
        cache_gb=0.25,
        set_parameters=SAFE_PARAMETERS,
    )
    process = MongodProcess.spawn(mongod_binary, options, identity_path=directory / "mongod.json")
    try:
        process.wait_until_ready(ready_seconds=60)
        with process.client() as client:
            workload.load(client, scale=SCALE)
            yield client
    finally:
        process.kill()


@pytest.fixture
def target(keyfile_lab: ReplicaSetLab) -> Iterator[Client]:
    """A client of the set, as an account that has what a restore account must have and no more."""
    with keyfile_lab.client(w="majority") as root:
        root.admin.command("createUser", LOADER, pwd=PASSWORD, roles=list(RESTORE_ROLES))
    with keyfile_lab.client(username=LOADER, password=PASSWORD) as client:
        yield client


def no_check() -> None:
    pass


class Recorder:
    """A LoadReporter that keeps what it hears; `on_loaded` is called after the first batch of each collection."""

    def __init__(self, on_loaded: Callable[[str], None] = lambda _: None) -> None:
        self.documents: dict[str, int] = {}
        self.finished_names: list[str] = []
        self.anew: list[str] = []
        self._on_loaded = on_loaded

    def loaded(self, namespace: str, *, documents: int, size_bytes: int) -> None:
        assert size_bytes > 0
        is_first = namespace not in self.documents
        self.documents[namespace] = self.documents.get(namespace, 0) + documents
        if is_first:
            self._on_loaded(namespace)

    def begun_anew(self, namespace: str) -> None:
        self.anew.append(namespace)
        self.documents[namespace] = 0

    def finished(self, namespace: str) -> None:
        self.finished_names.append(namespace)


class Story:
    """Source and target, and the calls of the loader in the order that its package tells."""

    def __init__(self, source: Client, target: Client) -> None:
        self.source = source
        self.target = target
        self.recorders: list[Recorder] = []

    def with_target(self, target: Client) -> "Story":
        return Story(self.source, target)

    def plan(self, *namespaces: str, rename_to: str | None = None) -> LoadPlan:
        scope = RestoreScope(namespaces=namespaces, rename_to=rename_to)
        return plan_load(read_inventory(self.source), read_inventory(self.target), scope)

    def begin(self, plan: LoadPlan) -> None:
        execute_removal(self.target, plan, check=no_check)
        create_collections(self.target, plan, finished=(), check=no_check)

    def load(
        self,
        plan: LoadPlan,
        *,
        on_loaded: Callable[[str], None] = lambda _: None,
        finished: Collection[str] = (),
        check: Callable[[], None] = no_check,
    ) -> Recorder:
        recorder = Recorder(on_loaded)
        self.recorders.append(recorder)
        load_documents(
            NaturalReader(self.source),
            self.target,
            plan,
            finished=finished,
            reporter=recorder,
            check=check,
            pace=QUICK,
        )
        return recorder

    def index(self, plan: LoadPlan) -> None:
        build_indexes(self.target, plan, check=no_check)
        create_views(self.target, plan, check=no_check)

    def differences(self, plan: LoadPlan) -> tuple[str, ...]:
        return compare(NaturalReader(self.source), self.target, plan, check=no_check).differences

    def tell(self, plan: LoadPlan) -> Recorder:
        """All of it."""
        self.begin(plan)
        recorder = self.load(plan)
        self.index(plan)
        assert self.differences(plan) == ()
        start_expiry(self.target, plan, check=no_check)
        return recorder


@pytest.fixture
def story(source: Client, target: Client) -> Story:
    return Story(source, target)
