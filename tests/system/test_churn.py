"""A day of churn: whatever is killed, deleted, pruned or filled up, every snapshot that is listed restores.

A seed decides what happens; it is printed, and EBBTIDE_CHURN_SEED replays it (what the machine does in between it does
not). EBBTIDE_CHURN_SECONDS says how long the long one goes on.

Held at every checkpoint and at the end:
  * every snapshot that is listed as complete verifies, and all its objects are there
  * a sample of them, downloaded, extracted and advanced, equals by dbHash what the head held under our own lock
  * a download that was begun completes with the SHA-1 that the worker reckoned, or ends with 410: never with wrong bytes
  * no head stays locked, no restore job hangs, and nothing is said to be damaged
"""

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pymongo.errors import PyMongoError

from ebbtide.cli.api_errors import ApiRefusal
from ebbtide.demo.copies import hash_advanced
from ebbtide.domain.ids import ClusterId, RestoreJobId, SnapshotId
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.progress import NoProgress
from ebbtide.errors import EbbtideError, IntegrityError, ObjectNotFound
from ebbtide.repository.repository import ReplicaSetStore, Repository, never_cancelled
from ebbtide.repository.verify import verify_snapshot
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.testing.churn import Ended, Pace, SlowDownload, find_wrong_bytes
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.running_service import RunningService
from ebbtide.testing.service import Owner
from ebbtide.testing.workload import BackgroundWorkload, load

Document = dict[str, Any]
T = TypeVar("T")

MEBIBYTE = 1024**2
DISK_BYTES = 768 * MEBIBYTE
LEAST_FREE_BYTES = 32 * MEBIBYTE
LEFT_BYTES = MEBIBYTE // 2
SECONDS_TO_RECOVER = 240.0
DAMAGE_KINDS = frozenset({"restore.damaged", "repository.damaged", "snapshot.failed", "prune.blocked"})

TWO_SECONDS_IN_HOURS = str(2 / 3600)
ENVIRONMENT = {
    "EBBTIDE_REPOSITORY_DELETE_DELAY_HOURS": TWO_SECONDS_IN_HOURS,
    "EBBTIDE_REPOSITORY_PRUNE_GRACE_HOURS": TWO_SECONDS_IN_HOURS,
    "EBBTIDE_REPOSITORY_PRUNE_EVERY_HOURS": str(10 / 3600),
    "EBBTIDE_REPOSITORY_MIN_FREE_BYTES": "0",
    "EBBTIDE_DOWNLOADS_RESUME_MINUTES": "1",
    "EBBTIDE_JOBS_RETRY_MINUTES": "60",
}


def say(text: str) -> None:
    """For whoever reads a failure: pytest shows what a failed test printed."""
    print(f"churn: {text}", flush=True)  # noqa: T201


class Disk:
    """What the repository is on; it can be filled only where it is a filesystem of its own."""

    def __init__(self, path: Path, *, is_mounted: bool) -> None:
        self.path = path
        self.is_mounted = is_mounted
        self._ballast = path / "ballast"

    def fill(self) -> None:
        size = shutil.disk_usage(self.path).free - LEFT_BYTES
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, size))

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def mounted_disk(path: Path) -> Iterator[Disk]:
    path.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        say("this machine mounts no filesystem of ours, so the disk is not filled")
        yield Disk(path, is_mounted=False)
        return
    try:
        yield Disk(path, is_mounted=True)
    finally:
        subprocess.run(["umount", str(path)], check=True)


class Churn:
    """What may happen to one service, its set and its disk, and what must hold all the same. For one thread."""

    def __init__(self, owner: Owner, *, seed: int, disk: Disk, work: Path, binary: Path) -> None:
        self.owner = owner
        self.service = owner.service
        self.rng = random.Random(seed)
        self.disk = disk
        self.hashes: dict[str, Document] = {}
        self.ever_deleted: set[str] = set()
        self.downloads: list[SlowDownload] = []
        self.counts: dict[str, int] = {}
        self._work = work
        self._binary = binary
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        say(f"{time.monotonic() - self._started:6.1f} s  {text}")

    def do(self, name: str) -> None:
        """One thing that happens. What it asks for and is refused, for a good reason, counts as done."""
        self.say(name)
        self.counts[name] = self.counts.get(name, 0) + 1
        ACTIONS[name](self)

    # --- snapshots --------------------------------------------------------------------------------------------------

    def listed(self) -> list[str]:
        """The snapshots that are listed as complete, newest first."""

        def look() -> list[Document]:
            return self.owner.client.list_snapshots(self.owner.group_id, self.owner.name) or [{}]

        found = self.service.wait_until(look, "a list of snapshots", seconds=SECONDS_TO_RECOVER)
        return [str(snapshot["id"]) for snapshot in found if snapshot.get("state") == "COMPLETE"]

    def start_snapshot(self) -> str:
        return self.service.wait_until(
            self.owner.start_snapshot, "a snapshot to be accepted", seconds=SECONDS_TO_RECOVER
        )

    def wait_for(self, snapshot_id: str) -> None:
        self.owner.wait_for_snapshot(snapshot_id, seconds=SECONDS_TO_RECOVER)

    def take_hashed_snapshot(self) -> None:
        """Under a lock of our own around it: locks are counted, so the snapshot's own nests in it."""
        self.wait_for(self.start_snapshot())  # whatever was broken before is mended once this is complete
        with self.owner.head_client() as head:
            head.admin.command("fsync", lock=True)
            try:
                hashes = database_hashes(head)
                snapshot_id = self.start_snapshot()
                self.wait_for(snapshot_id)
            finally:
                head.admin.command("fsyncUnlock")
        self.hashes[snapshot_id] = hashes

    def snapshot_in_trouble(self) -> None:
        """A process dies while a snapshot is under way, at whatever moment."""
        snapshot_id = self.start_snapshot()
        time.sleep(self.rng.uniform(0, 0.6))
        self.kill_something()
        self.wait_for(snapshot_id)

    def snapshot_at_crash_point(self) -> None:
        """The worker, or the api, kills itself right after one of a snapshot's durable steps."""
        names = [
            "snapshot.locked",
            "snapshot.pack_written",
            "snapshot.manifest_written",
            "snapshot.completed",
        ]
        self.service.arm_crash(self.rng.choice(names))
        self.wait_for(self.start_snapshot())

    # --- processes and members --------------------------------------------------------------------------------------

    def kill_something(self) -> None:
        role = self.rng.choice(["head", "worker", "api", "catalog"])
        self.say(f"  kill {role}")
        try:
            pid = self.service.kill(role)
        except LookupError:
            return  # it is being started again already

        def another() -> bool:
            found = self.service.process_ids()[role]
            return found != [] and found != [pid]

        self.service.wait_until(another, f"another process of role {role}", seconds=SECONDS_TO_RECOVER)

    def step_down(self) -> None:
        self.owner.lab.step_down()
        if self.rng.random() < 0.5:
            self.wait_for(self.start_snapshot())

    def member_dies(self) -> None:
        """A member is away for the time of a snapshot; the other two are a majority."""
        index = self.rng.randrange(len(self.owner.lab.members))
        self.owner.lab.kill_member(index)
        try:
            self.wait_for(self.start_snapshot())
        finally:
            self.owner.lab.restart_member(index)

    def restart(self) -> None:
        """`ebbtide serve` is asked to stop, perhaps in the middle of a snapshot, and started again."""
        snapshot_id = self.start_snapshot() if self.rng.random() < 0.5 else None
        time.sleep(self.rng.uniform(0, 0.5))
        self.service.terminate()
        assert not any(self.service.process_ids().values())
        self.start_service()
        if snapshot_id is not None:
            self.wait_for(snapshot_id)

    def supervisor_dies(self) -> None:
        """Everything goes down with it, at once, and in the middle of a snapshot."""
        snapshot_id = self.start_snapshot()
        time.sleep(self.rng.uniform(0, 0.5))
        self.service.kill("serve")
        self.service.wait_until(
            lambda: not any(self.service.process_ids().values()),
            "all processes to end",
            seconds=SECONDS_TO_RECOVER,
        )
        self.start_service()
        self.wait_for(snapshot_id)

    def start_service(self) -> None:
        """With or without space that has to stay free: a disk that fills up is then met early, or in the middle."""
        least = self.rng.choice([0, LEAST_FREE_BYTES])
        self.service.environment["EBBTIDE_REPOSITORY_MIN_FREE_BYTES"] = str(least)
        self.say(f"  start, at least {least // MEBIBYTE} MiB stay free")
        self.service.start()

    # --- deleting ---------------------------------------------------------------------------------------------------

    def pick(self, *, spare: int = 1) -> str | None:
        """One of the listed snapshots, unless that would leave fewer than `spare` of them."""
        listed = self.listed()
        return self.rng.choice(listed) if len(listed) > spare else None

    def delete(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            snapshot_id = self.pick()
            if snapshot_id is not None:
                self._delete(snapshot_id)

    def ask(self, request: Callable[[], T], what: str) -> T | None:
        """What the API answers; None where it refuses. Asked again while it does not answer."""
        answers: list[T | ApiRefusal] = []

        def look() -> bool:
            try:
                answers.append(request())
            except ApiRefusal as refused:
                if refused.retryable:
                    raise
                answers.append(refused)
            return True

        self.service.wait_until(look, what, seconds=SECONDS_TO_RECOVER)
        answer = answers[0]
        if isinstance(answer, ApiRefusal):
            self.say(f"  {what} was refused: {answer.detail}")
            return None
        return answer

    def _delete(self, snapshot_id: str) -> None:
        """Refused where the first answer was lost: then it is deleted already."""
        client, owner = self.owner.client, self.owner
        self.ever_deleted.add(snapshot_id)
        self.ask(
            lambda: client.delete_snapshot(owner.group_id, owner.name, snapshot_id),
            f"deletion of {snapshot_id}",
        )
        assert snapshot_id not in self.listed()

    def expire(self) -> None:
        """Retention deletes it, once nothing uses it and it is not the newest."""
        snapshot_id = self.pick()
        if snapshot_id is None:
            return
        client, owner = self.owner.client, self.owner
        self.ever_deleted.add(snapshot_id)
        change = {"expires": datetime.now(UTC).isoformat(timespec="seconds")}
        self.ask(
            lambda: client.change_snapshot(owner.group_id, owner.name, snapshot_id, change),
            f"an end to {snapshot_id}",
        )

    def undelete(self) -> None:
        """Delete one and bring it back, in a race with prune: it is back whole, or refused."""
        snapshot_id = self.pick()
        if snapshot_id is None:
            return
        client, owner = self.owner.client, self.owner
        self._delete(snapshot_id)
        time.sleep(self.rng.uniform(0, 4))
        self.ask(
            lambda: client.undelete_snapshot(owner.group_id, owner.name, snapshot_id),
            f"bringing back {snapshot_id}",
        )

    def prune(self) -> None:
        self._prune(wait=self.rng.random() < 0.5)

    def prune_killed(self) -> None:
        """The worker dies while it prunes."""
        point = self.rng.choice(["prune.manifest_removed", "prune.marked", "prune.swept"])
        self.service.arm_crash(point)
        self._prune(wait=False)
        time.sleep(self.rng.uniform(0, 2))

    def _prune(self, *, wait: bool) -> None:
        run = self.service.wait_until(
            lambda: self.owner.client.start_prune(dry_run=False),
            "prune to be accepted",
            seconds=SECONDS_TO_RECOVER,
        )
        if wait:
            self.service.wait_until(
                lambda: self.owner.client.get_prune(str(run["id"]))["state"] not in ("QUEUED", "RUNNING"),
                "prune to end",
                seconds=SECONDS_TO_RECOVER,
            )

    # --- downloading ------------------------------------------------------------------------------------------------

    def download(self) -> None:
        """Begin a slow one; now and then its snapshot is deleted before it has even become ready."""
        snapshot_id = self.pick()
        if snapshot_id is None:
            return
        restore_id = self.ask(lambda: self.owner.start_restore(snapshot_id), f"a download of {snapshot_id}")
        if restore_id is None:
            # A snapshot that is past its time is kept for those who are at it, and for nobody new.
            assert snapshot_id in self.ever_deleted
            return
        if self.rng.random() < 0.3:
            self._delete(snapshot_id)
        job = self._end_of(restore_id)
        if job["delivery"]["statusName"] != "READY":
            assert snapshot_id in self.ever_deleted, job
            return
        pace = Pace(
            range_bytes=self.rng.choice([0, 256 * 1024, 3 * MEBIBYTE]),
            bytes_per_second=self.rng.choice([1, 4, 16]) * MEBIBYTE,
        )
        path = self._work / f"{restore_id}.part"
        download = SlowDownload(job, path, pace=pace)
        download.start()
        self.downloads.append(download)
        if self.rng.random() < 0.3:
            time.sleep(self.rng.uniform(0, 0.5))
            self._delete(snapshot_id)

    def _end_of(self, restore_id: str) -> Document:
        """The restore job once its data is ready, or will not be."""

        def look() -> Document | None:
            found = self.owner.restore_job(restore_id)
            return found if found["statusName"] != "IN_PROGRESS" else None

        return self.service.wait_until(look, f"restore job {restore_id} to end", seconds=SECONDS_TO_RECOVER)

    def judge_downloads(self, *, wait: bool) -> None:
        """Those that have ended, or all of them."""
        for download in list(self.downloads):
            if wait:
                download.join(SECONDS_TO_RECOVER)
            if download.is_alive():
                continue
            self.downloads.remove(download)
            self._judge(download)
            download.path.unlink()

    def _judge(self, download: SlowDownload) -> None:
        what = f"download of {download.snapshot_id}: {download.ended}, {download.position} bytes {download.problem}"
        self.say(f"  {what}")
        wrong = find_wrong_bytes(download.path)
        assert wrong == "", f"{what}: {wrong}"
        if download.ended is not Ended.COMPLETE:
            assert download.ended is Ended.GONE, what
            assert download.snapshot_id in self.ever_deleted, what
            return
        expected = self._sha1_of(download)
        assert expected in ("", download.sha1()), what

    def _sha1_of(self, download: SlowDownload) -> str:
        """Of the whole archive, as the worker reckoned it; empty where its snapshot was gone before it did.

        The API tells it only once the download was counted, which one that was broken off by a killed api may never be.
        """

        def look() -> str | None:
            with self.service.catalog() as catalog:
                restore = catalog.restore_jobs.find(RestoreJobId(download.job_id))
                work = catalog.jobs.find(job_id(JobKind.RESTORE, RestoreJobId(download.job_id)))
            if restore is not None and restore.sha1 is not None:
                return restore.sha1
            is_over = work is None or work.state not in (JobState.QUEUED, JobState.RUNNING)
            return "none" if is_over else None

        found = self.service.wait_until(look, "a SHA-1", seconds=SECONDS_TO_RECOVER)
        if found != "none":
            return found
        assert download.snapshot_id in self.ever_deleted
        return ""

    # --- the disk ---------------------------------------------------------------------------------------------------

    def full_disk(self) -> None:
        """Fill it before or while a snapshot is taken; the snapshot waits, and goes on once there is space."""
        if not self.disk.is_mounted:
            return
        snapshot_id = self.start_snapshot() if self.rng.random() < 0.5 else ""
        self.disk.fill()
        try:
            snapshot_id = snapshot_id or self.start_snapshot()
            time.sleep(self.rng.uniform(1, 4))
            if self.rng.random() < 0.5:
                self._prune(wait=False)
            self.wait_until_unlocked()
        finally:
            self.disk.empty()
        self.wait_for(snapshot_id)

    # --- what must hold ---------------------------------------------------------------------------------------------

    def check(self, *, samples: int) -> None:
        """All that this module's docstring promises."""
        self.disk.empty()
        self.check_stored()
        candidates = [snapshot_id for snapshot_id in self.listed() if snapshot_id in self.hashes]
        for snapshot_id in self.rng.sample(candidates, min(samples, len(candidates))):
            self.check_restores(snapshot_id)
        self.judge_downloads(wait=True)
        self.owner.wait_until_following()
        self.wait_until_unlocked()
        told = [
            f"{event['kind']}: {event['message']}"
            for event in self.owner.events()
            if event["kind"] in DAMAGE_KINDS
        ]
        assert told == []

    def check_stored(self) -> None:
        """Every listed snapshot is whole. What is deleted while we read it is nobody's loss."""
        store = self.store()
        listed = self.listed()
        self.say(f"check: {len(listed)} snapshots listed, {len(self.hashes)} with hashes")
        for snapshot_id in listed:
            found = find_damage(store, snapshot_id)
            assert found == [] or snapshot_id not in self.listed(), f"snapshot {snapshot_id}: {found}"

    def store(self) -> ReplicaSetStore:
        cluster = self.service.wait_until(self.owner.cluster, "the cluster", seconds=SECONDS_TO_RECOVER)
        repository = Repository.open(DirectoryStorage(self.disk.path / "repository"))
        return repository.replica_set(ClusterId(cluster["id"]), cluster["replicaSetName"])

    def check_restores(self, snapshot_id: str) -> None:
        """Download it, extract it, advance it as its own member would have done, and compare by dbHash."""
        restore_id = self.ask(lambda: self.owner.start_restore(snapshot_id), f"a download of {snapshot_id}")
        if restore_id is None:
            assert snapshot_id in self.ever_deleted
            return
        archive = self._work / "sample.tar.gz"
        try:
            archive.write_bytes(self.owner.download(self.owner.wait_until_ready(restore_id)))
        except EbbtideError:
            if snapshot_id in self.listed():
                raise
            return  # a deletion asked for before took effect
        with tempfile.TemporaryDirectory(dir=self._work) as directory:
            subprocess.run(["tar", "-xzf", str(archive), "-C", directory], check=True)
            archive.unlink()
            (extracted,) = Path(directory).iterdir()
            found = hash_advanced(
                self._binary, extracted, socket_directory=self._work, hash_databases=database_hashes
            )
        assert found == self.hashes[snapshot_id], f"snapshot {snapshot_id} restores to something else"
        self.say(f"  snapshot {snapshot_id} restores, by dbHash")

    def wait_until_unlocked(self) -> None:
        def look() -> bool:
            try:
                return not self.owner.is_head_locked()
            except PyMongoError:
                return False

        self.service.wait_until(look, "the head to be unlocked", seconds=SECONDS_TO_RECOVER)


ACTIONS: dict[str, Callable[[Churn], None]] = {
    "a snapshot with hashes": Churn.take_hashed_snapshot,
    "a snapshot, and something is killed": Churn.snapshot_in_trouble,
    "a snapshot that kills its process": Churn.snapshot_at_crash_point,
    "something is killed": Churn.kill_something,
    "the primary steps down": Churn.step_down,
    "a member is away": Churn.member_dies,
    "the service is restarted": Churn.restart,
    "the supervisor is killed": Churn.supervisor_dies,
    "snapshots are deleted": Churn.delete,
    "a snapshot's time is over": Churn.expire,
    "a snapshot is deleted and brought back": Churn.undelete,
    "prune": Churn.prune,
    "prune is killed": Churn.prune_killed,
    "a slow download": Churn.download,
    "the disk is full": Churn.full_disk,
}
OFTEN = ("a snapshot with hashes", "snapshots are deleted", "prune", "a slow download", "a slow download")


def find_damage(store: ReplicaSetStore, snapshot_id: str) -> list[str]:
    try:
        manifest = store.load_manifest(SnapshotId(snapshot_id))
        found = verify_snapshot(
            store, manifest, threads=2, progress=NoProgress(), check_cancelled=never_cancelled
        )
    except (IntegrityError, ObjectNotFound) as error:
        return [error.message]
    return [f"{finding.object_name}: {finding.problem}" for finding in found]


def chosen_seed() -> int:
    seed = int(os.environ.get("EBBTIDE_CHURN_SEED") or random.SystemRandom().randrange(2**32))
    say(f"EBBTIDE_CHURN_SEED={seed}")
    return seed


@contextmanager
def churning(
    new_service: Callable[..., RunningService],
    new_owner: Callable[[RunningService], Owner],
    lab: ReplicaSetLab,
    binary: Path,
) -> Iterator[Churn]:
    """A service whose set is written to all the time. At the end nothing of it must be left."""
    seed = chosen_seed()
    with (
        tempfile.TemporaryDirectory(prefix="ebc-") as directory,
        mounted_disk(Path(directory) / "disk") as disk,
    ):
        repository = disk.path / "repository"
        service = new_service(environment=ENVIRONMENT, flags=["--repository", str(repository)])
        try:
            owner = new_owner(service.start())
            with lab.client() as client:
                load(client, scale=0.01)
            with BackgroundWorkload(lab.client, seed=seed, operations_per_second=20):
                owner.register()
                work = Path(directory) / "work"
                work.mkdir(mode=0o700)
                churn = Churn(owner, seed=seed, disk=disk, work=work, binary=binary)
                try:
                    yield churn
                finally:
                    for download in churn.downloads:
                        download.stop()
                        download.join(SECONDS_TO_RECOVER)
            service.terminate()
            assert not any(service.process_ids().values())
        finally:
            service.stop()


@pytest.mark.long
def test_a_short_round_of_churn(
    new_service: Callable[..., RunningService],
    new_owner: Callable[[RunningService], Owner],
    shared_lab: ReplicaSetLab,
    mongod_binary: Path,
) -> None:
    with churning(new_service, new_owner, shared_lab, mongod_binary) as churn:
        churn.do("a snapshot with hashes")
        churn.do("a slow download")
        churn.do("a slow download")
        for name in churn.rng.sample(
            ["a snapshot, and something is killed", "snapshots are deleted", "prune is killed", "prune"], 4
        ):
            churn.do(name)
        churn.do("a slow download")
        churn.do("snapshots are deleted")
        churn.do("a snapshot with hashes")
        churn.check(samples=1)


@pytest.mark.long
def test_a_day_of_churn(
    new_service: Callable[..., RunningService],
    new_owner: Callable[[RunningService], Owner],
    shared_lab: ReplicaSetLab,
    mongod_binary: Path,
) -> None:
    seconds = float(os.environ.get("EBBTIDE_CHURN_SECONDS") or 600)
    with churning(new_service, new_owner, shared_lab, mongod_binary) as churn:
        ends = time.monotonic() + seconds
        churn.do("a snapshot with hashes")
        while time.monotonic() < ends:
            names = [*ACTIONS, *OFTEN]
            churn.rng.shuffle(names)
            for name in names:
                churn.do(name)
                churn.judge_downloads(wait=False)
            churn.check(samples=2)
        churn.say(f"in all: {churn.counts}")
        told = Counter(event["kind"] for event in churn.owner.events())
        churn.say(f"events: {dict(told)}")
        assert told["prune.done"] > 0
