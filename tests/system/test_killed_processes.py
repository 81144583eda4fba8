"""Kill -9 of every process that `ebbtide serve` runs, idle and in the middle of a snapshot: the rest puts it right.

To be in the middle for sure, the worker freezes itself (SIGSTOP) as soon as the head is locked.
"""

import signal
from collections.abc import Callable

import pytest

from ebbtide.testing.running_service import RunningService, ServiceNotReady
from ebbtide.testing.service import Owner

TRIES_MAX = 20


@pytest.fixture(scope="module")
def owner(new_service: Callable[..., RunningService], new_owner: Callable[[RunningService], Owner]) -> Owner:
    owner = new_owner(new_service().start())
    owner.register()
    return owner


def freeze_under_lock(owner: Owner, *, megabytes: int = 0) -> str:
    """Start a snapshot, with so much to store, and freeze the worker once the head is locked; the snapshot's id."""
    owner.write(megabytes=megabytes)
    owner.service.arm_freeze("snapshot.locked")
    snapshot_id = owner.start_snapshot()
    owner.service.wait_until(owner.service.has_crashed, "the worker to freeze")
    assert owner.is_head_locked()
    return snapshot_id


def check_all_is_well(owner: Owner) -> None:
    assert not owner.is_head_locked()
    owner.wait_until_written_to_head()
    assert owner.damage() == []


def wait_for_another(owner: Owner, role: str, pid: int) -> None:
    def look() -> bool:
        found = owner.service.process_ids()[role]
        return found != [] and found != [pid]

    owner.service.wait_until(look, f"another process of role {role}")


@pytest.mark.parametrize("role", ["api", "worker", "catalog", "head"])
def test_a_killed_process_is_replaced_and_snapshots_go_on(owner: Owner, role: str) -> None:
    heads = owner.service.process_ids()["head"]

    pid = owner.service.kill(role)
    wait_for_another(owner, role, pid)
    snapshot_id = owner.service.wait_until(owner.start_snapshot, "a snapshot to be accepted")
    owner.wait_for_snapshot(snapshot_id)

    check_all_is_well(owner)
    if role != "head":
        assert owner.service.process_ids()["head"] == heads


@pytest.mark.parametrize("role", ["worker", "catalog", "head"])
def test_a_process_killed_while_a_snapshot_is_taken_costs_time_only(owner: Owner, role: str) -> None:
    snapshot_id = freeze_under_lock(owner)

    pid = owner.service.kill(role)
    if role != "worker":
        owner.service.send("worker", signal.SIGCONT)
    wait_for_another(owner, role, pid)
    owner.wait_for_snapshot(snapshot_id)

    check_all_is_well(owner)


def test_a_killed_supervisor_takes_everything_with_it_and_the_next_start_works(owner: Owner) -> None:
    snapshot_id = freeze_under_lock(owner)

    owner.service.kill("serve")
    owner.service.send("worker", signal.SIGCONT)
    owner.service.wait_until(lambda: not any(owner.service.process_ids().values()), "all processes to end")
    owner.service.start()
    owner.wait_for_snapshot(snapshot_id)

    check_all_is_well(owner)


def test_a_stop_in_the_middle_of_a_snapshot_unlocks_and_the_next_start_finishes_it(owner: Owner) -> None:
    for _ in range(TRIES_MAX):
        snapshot_id = freeze_under_lock(owner, megabytes=40)

        seen = len(owner.service.log_text())
        owner.service.send("worker", signal.SIGTERM, signal.SIGCONT)
        owner.service.terminate()
        was_finished = '"snapshot.complete"' in owner.service.log_text()[seen:]

        assert not any(owner.service.process_ids().values())
        owner.service.start()
        owner.wait_for_snapshot(snapshot_id)
        check_all_is_well(owner)
        if not was_finished:
            return
        # What was left to do took no longer than the stop.
    raise ServiceNotReady("every snapshot was finished before the stop reached it")
