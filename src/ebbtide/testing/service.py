"""What the owner of a running service does with one replica set: registers it, takes snapshots, restores, looks."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient

from ebbtide.domain.ids import ClusterId, SnapshotId
from ebbtide.domain.oplog import OplogRange
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.progress import NoProgress
from ebbtide.errors import IntegrityError, ObjectNotFound
from ebbtide.oplog.archive import OplogArchive
from ebbtide.repository.repository import ReplicaSetStore, Repository, never_cancelled
from ebbtide.repository.verify import Finding, verify_snapshot
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.oplog import set_between
from ebbtide.testing.running_service import WAIT_SECONDS, RunningService, ServiceNotReady

Document = dict[str, Any]


class Owner:
    """What the owner of a running service does with one replica set. One thread uses it; `close` it."""

    def __init__(self, service: RunningService, lab: ReplicaSetLab, *, name: str = "shop") -> None:
        self.service = service
        self.lab = lab
        self.name = name
        self.client = service.client()
        self.group_id = service.group_id

    def close(self) -> None:
        self.client.close()

    # Clusters

    def registration(self) -> Document:
        """The document that registers the lab, with its secrets where it has some."""
        found: Document = {"name": self.name, "uri": self.lab.uri}
        if self.lab.keyfile_path is not None:
            found |= {"username": self.lab.backup_username, "password": self.lab.backup_password}
            found["keyfile"] = self.lab.keyfile_path.read_text()
        return found

    def register(self) -> Document:
        """Register the lab and wait until its head follows; the cluster."""
        self.client.add_cluster(self.group_id, self.registration())
        return self.wait_until_following()

    def cluster(self) -> Document:
        return self.client.get_cluster(self.group_id, self.name)

    def wait_until_following(self) -> Document:
        def look() -> Document | None:
            cluster = self.cluster()
            return cluster if (cluster.get("head") or {}).get("state") == "FOLLOWING" else None

        return self.service.wait_until(look, f"the head of {self.name} to follow")

    def wait_until_removed(self) -> None:
        """Until the cluster is said to be removed; its head then has left the set."""

        def look() -> bool:
            return all(found["name"] != self.name for found in self.client.list_clusters(self.group_id))

        self.service.wait_until(look, f"{self.name} to be removed")

    # Snapshots

    def start_snapshot(self) -> str:
        return str(self.client.create_snapshot(self.group_id, self.name)["id"])

    def snapshot(self, snapshot_id: str) -> Document:
        return self.client.get_snapshot(self.group_id, self.name, snapshot_id)

    def wait_for_snapshot(self, snapshot_id: str, *, seconds: float = WAIT_SECONDS) -> Document:
        """The snapshot once it is complete. Raises ServiceNotReady, at once where it failed."""

        def look() -> Document | None:
            found = self.snapshot(snapshot_id)
            return found if found["state"] != "IN_PROGRESS" else None

        found = self.service.wait_until(look, f"snapshot {snapshot_id}", seconds=seconds)
        if found["state"] != "COMPLETE":
            raise ServiceNotReady(f"the snapshot failed: {found}")
        return found

    def take_snapshot(self) -> Document:
        return self.wait_for_snapshot(self.start_snapshot())

    def damage(self) -> list[Finding]:
        """What verifying every complete snapshot of the cluster finds; empty where all can be restored."""
        cluster = self.cluster()
        store = self.store()
        findings: list[Finding] = []
        for snapshot in self.client.list_snapshots(self.group_id, self.name):
            if snapshot["state"] == "COMPLETE" and snapshot["clusterId"] == cluster["id"]:
                findings += _verify(store, SnapshotId(snapshot["id"]))
        return findings

    def store(self) -> ReplicaSetStore:
        """The cluster's part of the repository."""
        repository = Repository.open(DirectoryStorage(self.service.data / "repository"))
        cluster = self.cluster()
        return repository.replica_set(ClusterId(cluster["id"]), cluster["replicaSetName"])

    # Restore jobs

    def start_restore(self, snapshot_id: str, *, max_downloads: int = 3) -> str:
        return str(
            self.client.create_restore_job(
                self.group_id,
                self.name,
                snapshot_id=snapshot_id,
                expiration_hours=1,
                max_downloads=max_downloads,
            )["id"]
        )

    def start_point_in_time_restore(self, point: Mapping[str, Any] | None = None) -> str:
        """Ask for a download of a moment, as the API takes it; of now, where none is named."""
        made = self.client.create_point_in_time_restore(
            self.group_id, self.name, point=point or {"now": True}, expiration_hours=1, max_downloads=3
        )
        return str(made["id"])

    def restore_job(self, job_id: str) -> Document:
        return self.client.get_restore_job(self.group_id, self.name, job_id)

    def restore_progress(self, job_id: str) -> Document:
        return self.client.get_restore_progress(self.group_id, job_id)

    def wait_until_ready(self, job_id: str) -> Document:
        """The restore job once its link can be used. Raises ServiceNotReady, at once where it ended otherwise."""

        def look() -> Document | None:
            found = self.restore_job(job_id)
            return found if found["statusName"] != "IN_PROGRESS" else None

        found = self.service.wait_until(look, f"restore job {job_id}")
        if found["delivery"]["statusName"] != "READY":
            raise ServiceNotReady(f"the restore job is not ready: {self.restore_progress(job_id)}")
        return found

    def wait_until_hashed(self, job_id: str) -> None:
        """Until the worker has read the whole archive once."""
        self.service.wait_until(
            lambda: (self.restore_progress(job_id).get("job") or {}).get("state") == "DONE",
            f"the hash of restore job {job_id}",
        )

    def download(self, job: Document) -> bytes:
        """The whole archive, by the v3 link (key in a header)."""
        delivery = job["delivery"]
        header = {delivery["authHeader"]: f"{delivery['authBearer']} {delivery['authValue']}"}
        with self.client.open_download(delivery["urlV2"], header) as response:
            return response.read()

    # The oplog archive

    def archive(self) -> OplogArchive:
        return OplogArchive(self.store())

    def want_archive(self) -> OplogTimestamp:
        """Ask for everything that the set has now to be archived; up to where that is."""
        with self.lab.client() as client, self.service.catalog() as catalog:
            note: Document = {"appendOplogNote": 1, "data": {"test": 1}, "writeConcern": {"w": "majority"}}
            reply = client.admin.command(note)
            wanted = OplogTimestamp.from_bson(reply["operationTime"])
            catalog.archives.want(ClusterId(self.cluster()["id"]), wanted)
        return wanted

    def wait_until_archived(self) -> OplogArchive:
        """The archive, once it holds everything that the set has now."""
        wanted, archive = self.want_archive(), self.archive()

        def look() -> bool:
            newest = archive.newest()
            return newest is not None and newest.last.timestamp >= wanted

        self.service.wait_until(look, f"the archive of {self.name}")
        return archive

    def oplog_between(self, covered: OplogRange) -> list[tuple[OplogTimestamp, str]]:
        """The set's own entries beyond the first of a range."""
        return set_between(self.lab, covered)

    # The head

    @contextmanager
    def head_client(self) -> Iterator["MongoClient[Document]"]:
        """A client to the head alone, as root."""
        head = self.cluster()["head"]
        client: MongoClient[Document] = MongoClient(
            head["host"],
            head["port"],
            directConnection=True,
            readPreference="secondary",
            username=self.lab.root_username,
            password=self.lab.root_password,
        )
        with client:
            yield client

    def is_head_locked(self) -> bool:
        with self.head_client() as client:
            return bool(client.admin.command("currentOp").get("fsyncLock", False))

    def write(self, *, megabytes: int = 0) -> Any:
        """Write one more document to the set, and as much of noise as is asked for; the document's id."""
        with self.lab.client(w="majority") as client:
            for _ in range(megabytes):
                client.shop.noise.insert_one({"data": os.urandom(1024**2)})
            return client.shop.things.insert_one({"text": "x" * 1000}).inserted_id

    def wait_until_written_to_head(self) -> None:
        """Write to the set, and wait until that has reached the head."""
        written = self.write()
        with self.head_client() as client:
            self.service.wait_until(
                lambda: client.shop.things.find_one({"_id": written}), "a write to reach the head"
            )

    def events(self) -> list[Document]:
        return self.client.list_events(self.group_id, cluster=None, limit=500)


def _verify(store: ReplicaSetStore, snapshot_id: SnapshotId) -> list[Finding]:
    try:
        manifest = store.load_manifest(snapshot_id)
    except (IntegrityError, ObjectNotFound) as error:
        return [Finding(object_name=error.object_name, problem=error.message)]
    return verify_snapshot(store, manifest, threads=2, progress=NoProgress(), check_cancelled=never_cancelled)
