"""The watch over heads: each concern told once, again only after it was over; on a real catalog, with heads made up."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ebbtide.catalog.catalog import Catalog
from ebbtide.domain.bounds import REPOSITORY_SPACE_ID
from ebbtide.domain.cluster import Cluster, ClusterState, Head, HeadState
from ebbtide.domain.ids import ClusterId, GroupId
from ebbtide.errors import Unreachable
from ebbtide.settings import resolve_settings
from ebbtide.testing.storage import MemoryStorage
from ebbtide.worker import watcher
from ebbtide.worker.watcher import HEADS_SECONDS, USED_SECONDS, Watcher

GROUP = GroupId("5f0000000000000000000001")
CLUSTER = Cluster(
    id=ClusterId("5f0000000000000000000002"),
    group_id=GROUP,
    name="shop",
    replica_set_name="rs0",
    uri="mongodb://127.0.0.1:27017",
    username=None,
    auth_source="admin",
    password=None,
    keyfile=None,
    mongod_version="6.0.5",
    fcv="6.0",
    state=ClusterState.ACTIVE,
    created=datetime(2026, 1, 1, tzinfo=UTC),
    head_host="127.0.0.1",
    head_port=27018,
)
HEAD = Head(
    id=CLUSTER.id,
    state=HeadState.FOLLOWING,
    state_since=CLUSTER.created,
    host="127.0.0.1",
    port=27018,
    dbpath="heads/x",
    lag_seconds=0.0,
    joined_once=True,
    lease_worker_id="w",
    updated=CLUSTER.created,
)


class SteadyClock:
    """Time passes as the test says."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return CLUSTER.created + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class Watched:
    """A watcher of one head."""

    def __init__(self, catalog: Catalog, heads: Path) -> None:
        self.catalog = catalog
        self.clock = SteadyClock()
        self.storage = MemoryStorage()
        self.asked = 0
        self.context: Any = SimpleNamespace(
            catalog=catalog,
            clock=self.clock,
            worker_id="w",
            settings=resolve_settings(flags={}, environment={}, file=None),
            directory=SimpleNamespace(heads=heads),
            repository=SimpleNamespace(storage=self.storage),
            access=lambda _: SimpleNamespace(set_client=self._set_client),
        )
        self.watcher = Watcher(self.context)
        catalog.clusters.insert(CLUSTER)
        catalog.heads.insert(HEAD)

    def _set_client(self, **_: object) -> Any:
        self.asked += 1
        return SimpleNamespace(close=lambda: None)

    def look(self, *, after: float = HEADS_SECONDS, **changes: Any) -> list[str]:
        """The kinds of events that a look brings, `after` so many seconds."""
        before = self.kinds()
        if changes:
            self.catalog.heads.update(CLUSTER.id, worker_id="w", now=self.clock.now(), **changes)
        self.clock.seconds += after
        self.watcher.look()
        return sorted(self.kinds()[: len(self.kinds()) - len(before)])

    def kinds(self) -> list[str]:
        found = self.catalog.events.page(GROUP, cluster_id=None, skip=0, limit=100)
        return [event.kind for event in found]


@pytest.fixture
def watched(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(watcher, "oplog_window_seconds", lambda _: 3600.0)
    return Watched(catalog, tmp_path)


def test_a_head_that_follows_is_nothing_to_tell(watched: Watched) -> None:
    assert watched.look() == []
    assert watched.look(after=1000.0) == []


def test_lag_beyond_half_of_the_window_is_told_once_until_it_was_over(watched: Watched) -> None:
    assert watched.look(lag_seconds=1700.0, lock_job_id="SNAPSHOT:x") == []
    assert watched.look(lag_seconds=1900.0) == ["head.lagging"]
    assert watched.look(lag_seconds=2000.0) == []
    assert watched.look(lag_seconds=1000.0) == []
    assert watched.look(lag_seconds=10.0) == []
    assert watched.look(lag_seconds=1900.0) == ["head.lagging"]


def test_a_head_that_stays_behind_is_told_of_after_minutes(watched: Watched) -> None:
    assert watched.look(state=HeadState.DOWN) == []
    assert watched.look(after=290.0) == []
    assert watched.look(after=20.0) == ["head.behind"]
    assert watched.look(after=500.0) == []
    assert watched.look(state=HeadState.FOLLOWING) == []
    assert watched.look(lag_seconds=100.0) == []
    assert watched.look(after=310.0) == ["head.behind"]


def test_a_head_that_cannot_be_asked_is_behind_whatever_its_last_lag_was(watched: Watched) -> None:
    assert watched.look(message="the head cannot be asked") == []
    assert watched.look(after=310.0) == ["head.behind"]
    assert watched.look(message="") == []


def test_a_lock_is_told_while_it_is_held_and_each_lock_for_itself(watched: Watched) -> None:
    assert watched.look(lock_job_id="SNAPSHOT:a") == []
    assert watched.look(after=301.0) == ["snapshot.lock_held"]
    assert watched.look(lock_job_id="SNAPSHOT:b") == []
    assert watched.look(after=301.0) == ["snapshot.lock_held"]
    assert watched.look(lock_job_id=None) == []


def test_a_disk_that_fills_up_is_told_of(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 50
    usage = lambda _: SimpleNamespace(free=free, total=100)  # noqa: E731
    monkeypatch.setattr(watcher.shutil, "disk_usage", usage)
    assert watched.look() == []
    free = 4
    assert watched.look() == ["head.disk_low"]
    assert watched.look() == []


def test_the_window_is_asked_for_more_often_while_it_may_matter(watched: Watched) -> None:
    for _ in range(4):
        watched.look(after=30.0)
    assert watched.asked == 1
    for _ in range(4):
        watched.look(after=30.0, lag_seconds=40.0)
    assert watched.asked == 5


def test_a_set_that_does_not_answer_keeps_what_was_known(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.look()

    def away(_: object) -> float:
        raise Unreachable("no primary")

    monkeypatch.setattr(watcher, "oplog_window_seconds", away)
    assert watched.look(after=1000.0, lag_seconds=1900.0, lock_job_id="SNAPSHOT:x") == [
        "head.lagging",
    ]


def test_other_workers_heads_are_theirs_to_watch(watched: Watched) -> None:
    watched.catalog.heads.release_all("w")
    assert watched.look() == []
    assert watched.asked == 0


def test_what_the_repository_takes_is_counted_in_pieces_now_and_then(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "OBJECTS_PER_LOOK", 2)
    monkeypatch.setattr(watched.storage, "free_bytes", lambda: 100)
    for number in range(5):
        watched.storage.put(f"a/{number}", [b"x" * 10])

    def used() -> int | None:
        found = watched.catalog.repository_space.find()
        assert found is not None
        assert found.id == REPOSITORY_SPACE_ID
        return found.used_bytes

    watched.look(after=1.0)
    watched.look(after=1.0)
    assert used() is None
    watched.look(after=1.0)
    assert used() == 50
    watched.storage.put("a/9", [b"x" * 10])
    watched.look(after=60.0)
    assert used() == 50
    watched.look(after=USED_SECONDS)
    for _ in range(3):
        watched.look(after=1.0)
    assert used() == 60


def test_the_watch_outlives_a_catalog_that_is_away_and_stops_when_told(watched: Watched) -> None:
    looked = threading.Event()

    @contextmanager
    def looking() -> Iterator[None]:
        watched.watcher.start()
        yield
        watched.watcher.stop()

    def away() -> None:
        looked.set()
        raise Unreachable("the catalog does not answer")

    watched.watcher.look = away  # type: ignore[method-assign]
    with looking():
        assert looked.wait(60)
    assert not watched.watcher._thread.is_alive()
