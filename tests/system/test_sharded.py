"""A sharded cluster under the real `ebbtide serve`: registered whole by any of its servers, shown, paused and removed; and
downloaded as a batch, all parts of one moment, with all of the money in it."""

import os
import random
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import Timestamp

from ebbtide.cli.api_errors import ApiRefusal
from ebbtide.cli.client import EbbtideClient
from ebbtide.cli.download import download_to_file
from ebbtide.cli.download_fetch import link_of
from ebbtide.demo.copies import hash_plainly
from ebbtide.testing.bank import COLLECTION, DATABASE, NAMESPACE, BackgroundBank, Bank, StopAfter
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.service import RunningService
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab

Document = dict[str, Any]

NAME = "orders"
PARTS = [f"{NAME}-config", f"{NAME}-shard0", f"{NAME}-shard1"]


class ShardedOwner:
    """What the owner of a service does with one sharded cluster."""

    def __init__(self, service: RunningService, lab: ShardedLab) -> None:
        self.service = service
        self.lab = lab
        self.client: EbbtideClient = service.client()
        self.group_id = service.group_id

    def registration(self, part: str = CONFIG, **changes: Any) -> Document:
        """The document that registers the lab whole, by one of its parts."""
        named: ReplicaSetLab = self.lab.parts[part]
        found = {
            "name": NAME,
            "uri": named.uri,
            "username": named.backup_username,
            "password": named.backup_password,
            "keyfile": self.lab.config.keyfile_text,
        }
        return {name: value for name, value in (found | changes).items() if value is not None}

    def cluster(self, name: str = NAME) -> Document:
        return self.client.get_cluster(self.group_id, name)

    def names(self) -> list[str]:
        return [str(found["name"]) for found in self.client.list_clusters(self.group_id)]

    def take_snapshot(self) -> Document:
        """A snapshot of all parts, once it is complete."""
        snapshot_id = str(self.client.create_snapshot(self.group_id, NAME)["id"])

        def look() -> Document | None:
            found = self.client.get_snapshot(self.group_id, NAME, snapshot_id)
            assert found["state"] != "FAILED", found
            return found if found["state"] == "COMPLETE" else None

        return self.service.wait_until(look, "the snapshot of all parts")

    def wait_until_ready(self, job_id: str) -> Document:
        """A restore job of a part, once its link can be used."""

        def look() -> Document | None:
            found = self.client.get_restore_job(self.group_id, NAME, job_id)
            return found if found["statusName"] != "IN_PROGRESS" else None

        found = self.service.wait_until(look, f"restore job {job_id}")
        assert found["delivery"]["statusName"] == "READY", self.client.get_restore_progress(
            self.group_id, job_id
        )
        return found

    def download(self, job: Document, directory: Path) -> Path:
        """The files of one part."""
        link = link_of(job, base_url=self.client.base_url)
        archive = directory / link.file_name
        download_to_file(
            self.client,
            link,
            archive,
            fetch_job=lambda: self.client.get_restore_job(self.group_id, NAME, str(job["id"])),
            report=lambda *_: None,
        )
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
        return directory / link.file_name.removesuffix(".tar.gz")

    def wait_until_following(self) -> Document:
        def look() -> Document | None:
            cluster = self.cluster()
            states = {(part.get("head") or {}).get("state") for part in cluster["parts"]}
            return cluster if states == {"FOLLOWING"} else None

        return self.service.wait_until(look, f"the heads of {NAME} to follow")


@pytest.fixture(scope="module")
def service(new_service: Callable[..., RunningService]) -> RunningService:
    return new_service().start()


@pytest.fixture
def owner(service: RunningService, sharded_lab: ShardedLab) -> Iterator[ShardedOwner]:
    owner = ShardedOwner(service, sharded_lab)
    yield owner
    if NAME in owner.names():
        owner.client.remove_cluster(owner.group_id, NAME)
    service.wait_until(lambda: owner.names() == [], "the cluster to be removed")
    owner.client.close()


def test_it_is_registered_whole_paused_and_removed(owner: ShardedOwner) -> None:
    report = owner.client.check_cluster(owner.group_id, owner.registration())
    assert report["ok"], report
    assert [part["name"] for part in report["parts"]] == PARTS
    owner.client.add_cluster(owner.group_id, owner.registration())
    cluster = owner.wait_until_following()

    assert cluster["kind"] == "SHARDED"
    assert [(part["name"], part.get("shardName")) for part in cluster["parts"]] == [
        (PARTS[0], None),
        (PARTS[1], "shard0"),
        (PARTS[2], "shard1"),
    ]
    assert owner.names() == [NAME, *PARTS]
    assert owner.cluster(PARTS[1])["partOf"] == cluster["id"]
    for what in ("pause", "detach"):
        with pytest.raises(ApiRefusal, match=f"part of the sharded cluster {NAME}"):
            owner.client.ask_head(owner.group_id, PARTS[1], what)
    with pytest.raises(ApiRefusal, match=f"part of the sharded cluster {NAME}"):
        owner.client.remove_cluster(owner.group_id, PARTS[0])
    assert owner.client.ask_head(owner.group_id, NAME, "pause")["paused"] is True
    assert "paused" not in owner.client.ask_head(owner.group_id, NAME, "resume")

    owner.client.remove_cluster(owner.group_id, NAME)
    owner.service.wait_until(lambda: owner.names() == [], "the cluster to be removed")
    for name, part in owner.lab.parts.items():
        members = owner.lab.admin_client(name).admin.command("replSetGetConfig")["config"]["members"]
        assert len(members) == len(part.members), name


def test_a_shard_leads_to_the_whole_cluster_and_what_is_missing_is_said(owner: ShardedOwner) -> None:
    report = owner.client.check_cluster(owner.group_id, owner.registration("shard1"))
    assert [part["name"] for part in report["parts"]] == PARTS

    with pytest.raises(ApiRefusal, match="--keyfile"):
        owner.client.add_cluster(owner.group_id, owner.registration(keyfile=None))
    assert owner.names() == []


def test_all_parts_of_a_snapshot_are_downloaded_at_one_moment(
    owner: ShardedOwner, mongod_binary: Path, tmp_path: Path
) -> None:
    client, group_id = owner.client, owner.group_id
    with Bank(owner.lab) as bank, BackgroundBank(bank, moves=False) as transfers:
        client.add_cluster(group_id, owner.registration())
        owner.wait_until_following()
        transfers.wait_for(transfers=5)
        snapshot_id = str(owner.take_snapshot()["id"])
        jobs = client.create_restore_jobs(
            group_id, NAME, snapshot_id=snapshot_id, expiration_hours=1, max_downloads=3
        )
        transfers.wait_for(transfers=transfers.transfers + 5)
        owned = bank.owned_accounts()

    assert len({job["batchId"] for job in jobs}) == 1
    assert {job["clusterName"] for job in jobs} == {NAME}
    assert [job["clusterId"] for job in jobs] == [part["id"] for part in owner.cluster()["parts"]]
    batch = client.list_restore_jobs(group_id, NAME, batch_id=str(jobs[0]["batchId"]))
    assert {job["id"] for job in batch} == {job["id"] for job in jobs}
    ready = [owner.wait_until_ready(str(job["id"])) for job in jobs]
    assert len({(job["timestamp"]["date"], job["timestamp"]["increment"]) for job in ready}) == 1
    assert [link_of(job, base_url=client.base_url).file_name.split("-")[0] for job in ready] == [
        *("config", "shard0", "shard1")
    ]
    total = 0
    for shard, job in zip(("shard0", "shard1"), ready[1:], strict=True):
        files = owner.download(job, tmp_path)
        balances = hash_plainly(
            mongod_binary, files, socket_directory=tmp_path, hash_databases=_read_balances
        )
        total += sum(balances[account] for account in owned[shard])
    assert total == bank.expected_total


def _read_balances(client: Any) -> dict[int, int]:
    return {found["_id"]: found["balance"] for found in client[DATABASE][COLLECTION].find()}


ROUNDS = 10
BETWEEN = 8
"""Transfers between two snapshots."""


@pytest.mark.long
def test_ten_restores_to_any_time_conserve_the_total(
    owner: ShardedOwner, mongod_binary: Path, tmp_path: Path
) -> None:
    """Under transfers and migrations, with transfers that stop between prepare and commit, and between two commits."""
    client, group_id = owner.client, owner.group_id
    chosen = random.Random(7)
    moments: list[Timestamp] = []
    with Bank(owner.lab) as bank, BackgroundBank(bank) as background:
        client.add_cluster(group_id, owner.registration())
        owner.wait_until_following()
        for number in range(ROUNDS):
            background.wait_for(transfers=background.transfers + BETWEEN)
            owner.take_snapshot()
            background.wait_for(transfers=background.transfers + BETWEEN)
            moments.append(owner.lab.gossip_note())
            stop_after = (None, StopAfter.PREPARE, StopAfter.FIRST_COMMIT)[number % 3]
            stopped = bank.transfer(stop_after=stop_after)
            try:
                moments.append(owner.lab.gossip_note())
            finally:
                if stopped is not None:
                    stopped.finish()
        background.wait_for(transfers=background.transfers + BETWEEN)
    for number, moment in enumerate(chosen.sample(moments, ROUNDS)):
        point: Document = {"oplogTs": moment.time, "oplogInc": moment.inc}
        if number % 2:
            point = {"pointInTimeUTCMillis": moment.time * 1000}
        made = client.create_point_in_time_restore(
            group_id, NAME, point=point, expiration_hours=1, max_downloads=1
        )
        jobs = [owner.wait_until_ready(str(job["id"])) for job in made["jobs"]]
        directory = tmp_path / str(number)
        directory.mkdir()
        files = [owner.download(job, directory) for job in jobs]
        chunks = hash_plainly(
            mongod_binary, files[0], socket_directory=owner.service.data, hash_databases=_read_chunks
        )
        total = 0
        for shard, copied in zip(("shard0", "shard1"), files[1:], strict=True):
            balances = hash_plainly(
                mongod_binary, copied, socket_directory=owner.service.data, hash_databases=_read_balances
            )
            total += sum(
                balance for account, balance in balances.items() if _owner_of(account, chunks) == shard
            )
        assert total == bank.expected_total, (point, jobs[0]["timestamp"])
        shutil.rmtree(directory)


@pytest.mark.long
def test_no_part_is_cut_earlier_because_a_shard_does_not_answer(owner: ShardedOwner) -> None:
    client, group_id = owner.client, owner.group_id
    client.add_cluster(group_id, owner.registration())
    owner.wait_until_following()
    owner.take_snapshot()
    reached = owner.lab.gossip_note()
    point: Document = {"oplogTs": reached.time, "oplogInc": reached.inc}
    # All archives have it before the shard falls silent.
    client.create_point_in_time_restore(
        group_id, NAME, point={**point, "dryRun": True}, expiration_hours=1, max_downloads=1
    )
    pid = owner.lab.shards["shard1"].primary().process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        later = _moment_after(owner.lab, reached.time + 3)
        beyond = {"oplogTs": later.time, "oplogInc": later.inc}
        with pytest.raises(ApiRefusal, match=f"{NAME}-shard1 is behind"):
            client.create_point_in_time_restore(
                group_id, NAME, point=beyond, expiration_hours=1, max_downloads=1
            )
        assert client.list_restore_jobs(group_id, NAME) == []
        made = client.create_point_in_time_restore(
            group_id, NAME, point=point, expiration_hours=1, max_downloads=1
        )
        jobs = [owner.wait_until_ready(str(job["id"])) for job in made["jobs"]]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert len({(job["timestamp"]["date"], job["timestamp"]["increment"]) for job in jobs}) == 1
    owner.lab.gossip_note()
    made = client.create_point_in_time_restore(
        group_id, NAME, point=beyond, expiration_hours=1, max_downloads=1
    )
    for job in made["jobs"]:
        owner.wait_until_ready(str(job["id"]))


def _moment_after(lab: ShardedLab, seconds: int) -> Timestamp:
    """When shard0 wrote an entry, in a second after `seconds` since 1970."""

    def note() -> Timestamp:
        reply = lab.admin_client("shard0").admin.command("appendOplogNote", 1, data={"test": 1})
        written: Timestamp = reply["operationTime"]
        return written

    while (written := note()).time <= seconds:
        time.sleep(0.2)
    return written


def _read_chunks(client: Any) -> list[Document]:
    uuid = client.config.collections.find_one({"_id": NAMESPACE})["uuid"]
    return list(client.config.chunks.find({"uuid": uuid}))


def _owner_of(account: int, chunks: list[Document]) -> str:
    (found,) = [
        chunk["shard"]
        for chunk in chunks
        if (not isinstance(chunk["min"]["_id"], int) or chunk["min"]["_id"] <= account)
        and (not isinstance(chunk["max"]["_id"], int) or account < chunk["max"]["_id"])
    ]
    return str(found)
