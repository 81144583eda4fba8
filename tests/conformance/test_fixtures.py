"""Published examples, read into our records and written again: the same JSON, but for what a replica set lacks.

Ids of the examples are kept; `batchId` is of sharded clusters only, hosts and names of links are the service's own.
"""

from datetime import datetime
from typing import Any

import conformance_reference as reference
import pytest

from ebbtide.api.wire import Addresses, restore_job_document, snapshot_document
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import DeliveryStatus, RestoreJob, RestoreStatus
from ebbtide.domain.sealed import Sealed
from ebbtide.domain.snapshot import Snapshot, SnapshotState

ADDRESSES = Addresses("https://cloud.mongodb.com")
SEALED = Sealed(key_id="", nonce=b"", ciphertext=b"")


def job_examples() -> list[dict[str, Any]]:
    names = (
        "001-create-one-restore-job.response.json",
        "002-get-all-restore-jobs.response.json",
        "003-get-all-legacy-backup-restore-jobs.response.json",
    )
    return [job for name in names for job in reference.load_json(f"fixtures/{name}")["results"]] + [
        reference.load_json("fixtures/other/get-one-restore-job.response.json")
    ]


def read_date(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def read_timestamp(document: dict[str, Any]) -> OplogTimestamp:
    moment = datetime.fromisoformat(document["date"])
    return OplogTimestamp(int(moment.timestamp()), document["increment"])


def read_job(document: dict[str, Any]) -> RestoreJob:
    delivery, hashes = document["delivery"], document.get("hashes", [])
    url = delivery.get("url", "")
    created = read_date(document["created"])
    if created is None:
        raise ValueError(document)
    return RestoreJob(
        id=RestoreJobId(document["id"]),
        group_id=GroupId(document["groupId"]),
        cluster_id=ClusterId(document["clusterId"]),
        cluster_name=document["clusterName"],
        replica_set_name="",
        snapshot_id=SnapshotId(document["snapshotId"]),
        created=created,
        status=RestoreStatus(document["statusName"]),
        delivery_status=DeliveryStatus(delivery["statusName"]),
        timestamp=read_timestamp(document["timestamp"]),
        expiration_hours=delivery["expirationHours"],
        max_downloads=delivery["maxDownloads"],
        requested_by="",
        expires=read_date(delivery.get("expires")),
        file_name=url.rsplit("/", 1)[-1],
        download_key=SEALED if url else None,
        sha1=hashes[0]["hash"] if hashes else None,
        completed_downloads=len(hashes),
    )


def key_of(document: dict[str, Any]) -> str | None:
    import base64

    url = document["delivery"].get("url")
    return None if url is None else base64.b64decode(url.split("/")[-2]).decode()


@pytest.mark.parametrize("place", range(10))
def test_jobs_round_trip(place: int) -> None:
    example = job_examples()[place]
    job = read_job(example)
    written = restore_job_document(job, now=job.created, addresses=ADDRESSES, download_key=key_of(example))
    for added in ("urlV2", "authHeader", "authBearer", "authValue"):
        assert (added in written["delivery"]) is ("url" in example["delivery"])
        written["delivery"].pop(added, None)
    expected = {name: value for name, value in example.items() if name not in ("batchId", "links")}
    if "url" in expected["delivery"]:
        path = expected["delivery"]["url"].split("/backup/", 1)[1]
        # One example's link names another job than its own: its ids were edited.
        path = path.replace(path.split("/")[3], job.id, 1)
        expected = {
            **expected,
            "delivery": {**expected["delivery"], "url": f"https://cloud.mongodb.com/backup/{path}"},
        }
    (link,) = written.pop("links")
    assert expected == written
    assert example["links"][0]["href"].split("mongodb.com")[1] == link["href"].split("mongodb.com")[1]


def test_snapshots_round_trip() -> None:
    (example,) = reference.load_json("fixtures/other/list-snapshots.response.json")["results"]
    (part,) = example["parts"]
    created = read_date(example["created"]["date"])
    if created is None:
        raise ValueError(example)
    snapshot = Snapshot(
        id=SnapshotId(example["id"]),
        group_id=GroupId(example["groupId"]),
        cluster_id=ClusterId(example["clusterId"]),
        cluster_name="Cluster0",
        replica_set_name=part["replicaSetName"],
        created=created,
        state=SnapshotState.COMPLETE,
        stable_timestamp=read_timestamp(example["lastOplogAppliedTimestamp"]),
        mongod_version=part["mongodVersion"],
        data_size_bytes=part["dataSizeBytes"],
        storage_size_bytes=part["storageSizeBytes"],
        file_size_bytes=part["fileSizeBytes"],
        do_not_delete=example["doNotDelete"],
        expires=read_date(example["expires"]),
    )
    written = snapshot_document(snapshot, addresses=ADDRESSES)
    assert {"clusterName", "incremental"} == written.keys() - example.keys()
    assert part == {name: written["parts"][0][name] for name in part}
    del example["parts"]
    assert example == {name: written[name] for name in example}


def test_the_401_document(service: Any) -> None:
    import requests

    answer = requests.get(f"{service.base}/restoreJobs", timeout=60)
    assert reference.load_json("fixtures/other/unauthorized.response.json") == answer.json()
