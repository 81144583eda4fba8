"""Every published example goes through the types that describe our wire, and comes out the same.

Only ids are put right first: those of the examples are placeholders, or have letters that no id has.
"""

import re
from typing import Any

import conformance_reference as reference
import pytest
from pydantic import TypeAdapter

from ebbtide.api.openapi import documents, requests

RESPONSES: list[tuple[str, Any, bool]] = [
    ("001-create-one-restore-job.response.json", documents.RestoreJob, True),
    ("002-get-all-restore-jobs.response.json", documents.RestoreJob, True),
    ("003-get-all-legacy-backup-restore-jobs.response.json", documents.RestoreJob, True),
    ("other/get-one-restore-job.response.json", documents.RestoreJob, False),
    ("other/create-sccc-restore-job.response.json", documents.HostRestoreJob, False),
    ("other/list-snapshots.response.json", documents.Snapshot, True),
    ("other/change-snapshot-expiry.response.json", documents.Snapshot, False),
    ("other/list-checkpoints.response.json", documents.Checkpoint, True),
    ("other/patch-snapshot-schedule.response.json", documents.SnapshotSchedule, False),
    ("other/unauthorized.response.json", documents.Error, False),
]
REQUESTS: list[tuple[str, Any]] = [
    ("001-create-one-restore-job.request.json", requests.RestoreJobRequest),
    ("other/create-automated-oplog-restore-job.request.json", requests.RestoreJobRequest),
    ("other/create-automated-pit-restore-job.request.json", requests.RestoreJobRequest),
    ("other/change-snapshot-expiry.request.json", requests.SnapshotChange),
    ("other/patch-snapshot-schedule.request.json", requests.ScheduleChange),
]
# What examples leave out that is older than the field, or that the page elides.
LEFT_OUT = {
    documents.Snapshot: {"clusterName": "Cluster0", "incremental": False},
    documents.SnapshotSchedule: {"clusterId": "0" * 24, "groupId": "0" * 24},
}
LEFT_OUT_OF_PARTS = {"replicaState": "SECONDARY"}


def with_ids(node: Any, name: str = "") -> Any:
    """The example with every id that is none replaced by one."""
    if isinstance(node, dict):
        return {key: with_ids(value, key) for key, value in node.items()}
    if isinstance(node, list):
        return [with_ids(item, name) for item in node]
    if (name == "id" or name.endswith("Id")) and not re.fullmatch("[0-9a-f]{24}", node):
        return "0" * (32 if name == "hostId" else 24)
    return node


def round_trip(kind: Any, value: Any) -> Any:
    adapter = TypeAdapter(kind)
    return adapter.dump_python(adapter.validate_python(value), mode="json")


@pytest.mark.parametrize(("name", "kind", "is_list"), RESPONSES, ids=[row[0] for row in RESPONSES])
def test_an_answer_comes_out_as_it_went_in(name: str, kind: Any, is_list: bool) -> None:
    example = with_ids(reference.load_json(f"fixtures/{name}"))
    for entity in example["results"] if is_list else [example]:
        whole = {**LEFT_OUT.get(kind, {}), **entity}
        if kind is documents.Snapshot:
            whole["parts"] = [{**LEFT_OUT_OF_PARTS, **part} for part in whole["parts"]]
        assert round_trip(kind, whole) == whole


@pytest.mark.parametrize(("name", "kind"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_a_body_comes_out_as_it_went_in(name: str, kind: Any) -> None:
    example = with_ids(reference.load_json(f"fixtures/{name}"))
    assert round_trip(kind, example) == example


def test_no_fixture_is_forgotten() -> None:
    there = {path.relative_to(reference.REFERENCE / "fixtures").as_posix() for path in
             (reference.REFERENCE / "fixtures").rglob("*.json")}  # fmt: skip
    assert there == {row[0] for row in RESPONSES} | {row[0] for row in REQUESTS}
