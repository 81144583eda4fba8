"""One cluster's head with a mongod of its own: swapped in place, and never stopped for one that cannot be run."""

from pathlib import Path
from typing import Any

from ebbtide.backup.head_requests import set_mongod
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.testing.lab import ReplicaSetLab


def give(installation: Any, cluster: Cluster, mongod: Path | None) -> None:
    set_mongod(
        installation.cluster(cluster),
        mongod=None if mongod is None else str(mongod),
        catalog=installation.catalog,
        clock=installation.context.clock,
        actor="test",
    )


def test_a_mongod_is_swapped_in_place_and_one_that_cannot_run_stops_nothing(
    installation: Any, lab: ReplicaSetLab, mongod_binary: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "mongod"
    other.parent.mkdir()
    other.symlink_to(mongod_binary)
    with installation.working():
        cluster = installation.register_and_follow(lab)
        first = installation.head_process(cluster)

        give(installation, cluster, tmp_path / "absent")
        (missing,) = installation.wait_until(
            lambda: installation.events(cluster, "head.mongod_missing"), what="the event"
        )
        assert missing.level is EventLevel.WARNING
        assert f"there is no mongod at {tmp_path / 'absent'}" in missing.message
        assert first.pid == installation.head_process(cluster).pid
        assert installation.take_snapshot(cluster).stable_timestamp is not None

        give(installation, cluster, other)
        installation.wait_until(
            lambda: (now := installation.head_process(cluster)) is not None and now.identity.binary == other,
            what="the swap",
        )
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        assert installation.take_snapshot(cluster).stable_timestamp is not None
        kinds = [event.kind for event in installation.events(cluster)]
        assert kinds.count("head.mongod_changed") == 1
        # It was stopped on purpose, which is no accident.
        assert "head.down" not in kinds
        assert not first.is_running()
