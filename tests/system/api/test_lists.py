"""Lists over the wire: order, pages, counts, envelope, and links that can be followed."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ebbtide.domain.snapshot import SnapshotState


@pytest.fixture(scope="module")
def jobs(service: Any) -> list[str]:
    """Ids of seven restore jobs, newest first; three of them of one moment."""
    snapshot = service.new_snapshot()
    made = []
    for number in range(7):
        job = service.new_job(snapshot)
        created = job.created + timedelta(seconds=min(number, 4))
        service.catalog._database.restore_jobs.update_one({"_id": job.id}, {"$set": {"created": created}})
        made.append(replace(job, created=created))
    return [job.id for job in sorted(made, key=lambda job: (job.created, job.id), reverse=True)]


def test_pages_hold_every_job_once_newest_first(service: Any, jobs: list[str]) -> None:
    seen: list[str] = []
    address: str | None = f"{service.base}/restoreJobs?itemsPerPage=3&pretty=true"
    rels = []
    while address is not None:
        document = service.call("GET", address).json()
        assert document["totalCount"] == 7
        seen += [job["id"] for job in document["results"]]
        links = {link["rel"]: link["href"] for link in document["links"]}
        rels.append(sorted(links))
        assert links["self"].startswith(f"{service.base}/restoreJobs?pretty=true&pageNum=")
        address = links.get("next")
    assert jobs == seen
    assert rels == [["next", "self"], ["next", "previous", "self"], ["previous", "self"]]


def test_paging_defaults_and_past_the_end(service: Any, jobs: list[str]) -> None:
    document = service.call("GET", f"{service.base}/restoreJobs").json()
    assert len(document["results"]) == len(jobs)
    href = f"{service.base}/restoreJobs?pageNum=1&itemsPerPage=100"
    assert [{"rel": "self", "href": href}] == document["links"]
    past = service.call("GET", f"{service.base}/restoreJobs?pageNum=9&includeCount=FALSE").json()
    assert (past["results"], "totalCount" in past) == ([], False)
    assert [link["rel"] for link in past["links"]] == ["self", "previous"]
    far = service.call("GET", f"{service.base}/restoreJobs?pageNum=999999999&itemsPerPage=500")
    assert (far.status_code, far.json()["results"]) == (200, [])


def test_every_self_link_can_be_followed(service: Any, jobs: list[str]) -> None:
    service.new_snapshot()
    atlas, own = f"{service.url}/api/atlas/v1.0", f"{service.url}/api/ebbtide/v1"
    group = f"groups/{service.group.id}"
    for address in (
        f"{atlas}/groups",
        f"{atlas}/{group}/clusters",
        f"{service.base}/restoreJobs",
        f"{service.base}/snapshots",
        f"{own}/{group}/clusters",
        f"{own}/{group}/clusters/Cluster0/snapshots",
    ):
        document = service.call("GET", address).json()
        assert document["results"], address
        for entity in document["results"]:
            (link,) = entity["links"]
            assert link["rel"] == "self"
            assert service.call("GET", link["href"]).json() == entity
    assert jobs


def test_a_cluster_answers_to_its_id_too(service: Any, jobs: list[str]) -> None:
    address = (
        f"{service.url}/api/atlas/v1.0/groups/{service.group.id}/clusters/{service.cluster.id}/restoreJobs"
    )
    assert jobs == [job["id"] for job in service.call("GET", address).json()["results"]]


def test_envelope_of_lists_and_entities(service: Any, jobs: list[str]) -> None:
    listed = service.call("GET", f"{service.base}/restoreJobs?envelope=true").json()
    assert (listed["status"], listed["totalCount"]) == (200, 7)
    single = service.call("GET", f"{service.base}/restoreJobs/{jobs[0]}?envelope=True").json()
    assert (single["status"], single["content"]["id"]) == (200, jobs[0])


def test_pretty_is_indented_and_plain_is_not(service: Any, jobs: list[str]) -> None:
    plain = service.call("GET", f"{service.base}/restoreJobs/{jobs[0]}").text
    pretty = service.call("GET", f"{service.base}/restoreJobs/{jobs[0]}?pretty=true").text
    assert "\n" not in plain
    assert json.dumps(json.loads(plain), indent=2) == pretty


def test_snapshots_by_completeness(service: Any) -> None:
    done = service.new_snapshot().id
    taking = service.new_snapshot(state=SnapshotState.IN_PROGRESS, stable_timestamp=None, completed=None).id
    failed = service.new_snapshot(state=SnapshotState.FAILED).id

    def listed(query: str) -> set[str]:
        document = service.call("GET", f"{service.base}/snapshots{query}").json()
        return {s["id"] for s in document["results"]} & {done, taking, failed}

    assert [{done}, {done}, {taking}, {done, taking}] == [
        listed(query) for query in ("", "?completed=true", "?completed=false", "?completed=all")
    ]
    assert service.call("GET", f"{service.base}/snapshots/{failed}").status_code == 404
    assert service.call("GET", f"{service.base}/snapshots/{taking}").json()["complete"] is False


def test_head_is_answered_without_a_body(service: Any) -> None:
    answer = service.call("HEAD", f"{service.base}/snapshots")
    assert (answer.status_code, answer.content) == (200, b"")
