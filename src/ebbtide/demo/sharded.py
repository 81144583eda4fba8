"""The walk on a sharded cluster: money moves between two shards all the time, and whatever is restored holds all of it.

    lab        a config server and two shards; a bank, with transfers across shards and chunks that move
    backup     the whole is registered, a snapshot of all parts is taken, then a checkpoint
    download   a moment as a batch, an archive per part; `ebbtide restores prepare` makes a cluster of them on new ports,
               which starts, has the right total, and moves a chunk
    restore    every balance is lost; the running cluster is brought back to the checkpoint

Like `demo.walk`, whose pieces it uses, it talks to `ebbtide serve` over HTTP. The lab asks config server and shards directly
for what a router would ask: there is none.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebbtide.cli.client import EbbtideClient
from ebbtide.cli.render.quantities import human_seconds
from ebbtide.demo.walk import CLUSTER_NAME, DemoFailed, Walk
from ebbtide.mongod.ports import free_port
from ebbtide.testing.bank import COLLECTION, DATABASE, NAMESPACE, BackgroundBank, Bank
from ebbtide.testing.prepared_cluster import PreparedCluster, move_some_chunk
from ebbtide.testing.sharded_lab import CONFIG, ShardedLab

Document = dict[str, Any]

TRANSFERS = 20
"""So many at least between two steps."""


@dataclass(frozen=True, kw_only=True)
class ShardedResult:
    """What the walk showed. `parts` and `batch_jobs` are counts: two shards and the config server."""

    snapshot_id: str
    bank_total_conserved: bool
    parts: int
    batch_jobs: int
    checkpoint_restorable: bool
    automated_restore_ok: bool

    @property
    def ok(self) -> bool:
        is_whole = self.parts == self.batch_jobs > 0
        return (
            self.bank_total_conserved
            and is_whole
            and self.checkpoint_restorable
            and self.automated_restore_ok
        )

    @property
    def snapshot_ids(self) -> tuple[str, ...]:
        return (self.snapshot_id,)

    def document(self) -> Document:
        """What `--once --json` prints."""
        return {
            "ok": self.ok,
            "bank_total_conserved": self.bank_total_conserved,
            "parts": self.parts,
            "batch_jobs": self.batch_jobs,
            "checkpoint_restorable": self.checkpoint_restorable,
            "automated_restore_ok": self.automated_restore_ok,
        }


class ShardedWalk(Walk):
    """One demo on a sharded cluster."""

    def run_sharded(self) -> ShardedResult:
        """Walk from the empty directory to the verdict. Raises what stopped it."""
        self.place.work.mkdir(mode=0o700, exist_ok=True)
        lab, bank, background = self._start_bank()
        client = self.start_serve()
        self._register_whole(lab, client)
        background.wait_for(transfers=background.transfers + TRANSFERS)
        snapshot = self._take_whole_snapshot(client)
        background.wait_for(transfers=background.transfers + TRANSFERS)
        checkpoint = self._take_checkpoint(client)
        background.wait_for(transfers=background.transfers + TRANSFERS)
        jobs, total = self._bring_up_elsewhere(client, lab, bank)
        background.stop()
        restored = self._restore_in_place(client, lab, bank, checkpoint)
        return ShardedResult(
            snapshot_id=str(snapshot["id"]),
            bank_total_conserved=total == bank.expected_total,
            parts=len(client.get_cluster(self.group_id, CLUSTER_NAME)["parts"]),
            batch_jobs=len(jobs),
            checkpoint_restorable=bool(checkpoint["restorable"]),
            automated_restore_ok=restored,
        )

    def _start_bank(self) -> tuple[ShardedLab, Bank, BackgroundBank]:
        with self.timed("starting a sharded cluster: a config server, and two shards"):
            lab = self.stack.enter_context(ShardedLab(self.binary))
            self.lab = lab.config
        with self.timed(f"opening a bank: {NAMESPACE}, with accounts on both shards"):
            bank = self.stack.enter_context(Bank(lab))
        background = self.stack.enter_context(BackgroundBank(bank))
        self.say(
            f"  from now on money moves between the shards, and chunks too; in all there is {bank.expected_total}"
        )
        return lab, bank, background

    def _register_whole(self, lab: ShardedLab, client: EbbtideClient) -> None:
        with self.timed("registering the whole cluster; a head joins each of its three sets"):
            registration = {
                "name": CLUSTER_NAME,
                "uri": lab.config.uri,
                "username": lab.config.backup_username,
                "password": lab.config.backup_password,
                "keyfile": lab.config.keyfile_text,
            }
            client.add_cluster(self.group_id, registration)
            self.wait(
                lambda: client.get_cluster(self.group_id, CLUSTER_NAME),
                done=lambda found: _head_states(found) == {"FOLLOWING"},
                failed=lambda found: "FAILED" in _head_states(found),
            )

    def _take_whole_snapshot(self, client: EbbtideClient) -> Document:
        with self.timed("a snapshot of all parts; the balancer rests meanwhile"):
            return self.take_snapshot(client)

    def _take_checkpoint(self, client: EbbtideClient) -> Document:
        with self.timed("a checkpoint: a moment between snapshots"):
            asked = client.create_checkpoint(self.group_id, CLUSTER_NAME)
            return self.wait(
                lambda: client.get_checkpoint(self.group_id, CLUSTER_NAME, str(asked["id"])),
                done=lambda found: bool(found["restorable"]),
                failed=lambda found: found.get("state") == "FAILED",
            )

    # --- downloaded, and brought up on new ports --------------------------------------------------------------------

    def _bring_up_elsewhere(
        self, client: EbbtideClient, lab: ShardedLab, bank: Bank
    ) -> tuple[list[Document], int]:
        """The jobs of the batch, and what the bank holds in the cluster that they become."""
        started = time.monotonic()
        made = client.create_point_in_time_restore(
            self.group_id, CLUSTER_NAME, point={"now": True}, expiration_hours=24, max_downloads=10
        )
        jobs = [self._wait_until_ready(client, str(job["id"])) for job in made["jobs"]]
        at = jobs[0]["timestamp"]
        self.say(
            f"a batch of {len(jobs)} restore jobs: ready after {human_seconds(time.monotonic() - started)}, "
            f"all at {at['date']}, {at['increment']}"
        )
        directories = {
            name: self.extract(self.download(client, str(job["id"]))[0], f"new-{name}")
            for name, job in zip((CONFIG, *lab.shards), jobs, strict=True)
        }
        ports = _free_ports(directories)
        self._prepare(directories, ports)
        with (
            self.timed("starting the new cluster on its new ports"),
            PreparedCluster(
                self.binary, directories, ports, keyfile_text=lab.config.keyfile_text or ""
            ) as cluster,
        ):
            restored = Bank(cluster)
            try:
                total = restored.total()
                move_some_chunk(restored)
            finally:
                restored.close()
        verdict = "all of it is there" if total == bank.expected_total else "MONEY IS LOST"
        self.say(f"  the bank in it holds {total}: {verdict}; and a chunk was moved")
        return jobs, total

    def _wait_until_ready(self, client: EbbtideClient, job_id: str) -> Document:
        return self.wait(
            lambda: client.get_restore_job(self.group_id, CLUSTER_NAME, job_id),
            done=lambda found: found["delivery"]["statusName"] == "READY",
            failed=lambda found: found["statusName"] in ("BROKEN", "KILLED"),
        )

    def _prepare(self, directories: Mapping[str, Path], ports: Mapping[str, int]) -> None:
        command = [sys.executable, "-m", "ebbtide", "restores", "prepare", *map(str, directories.values())]
        for name, port in ports.items():
            command += ["--part", f"{name}=127.0.0.1:{port}"]
        with self.timed("ebbtide restores prepare: new addresses everywhere, nothing half decided"):
            done = subprocess.run(
                [*command, "--mongod", str(self.binary), "--yes", "-o", "json"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env={**os.environ},
            )
        if done.returncode:
            raise DemoFailed(f"the archives could not be prepared:\n{done.stderr}")

    # --- restored into the running cluster --------------------------------------------------------------------------

    def _restore_in_place(
        self, client: EbbtideClient, lab: ShardedLab, bank: Bank, checkpoint: Document
    ) -> bool:
        for shard in lab.shards:
            lab.admin_client(shard)[DATABASE][COLLECTION].update_many({}, {"$set": {"balance": 0}})
        self.say(f"somebody sets every balance to 0: the bank holds {bank.total()} …")
        client.set_restore_target(self.group_id, CLUSTER_NAME, {"enabled": True})
        started = time.monotonic()
        body = {"targetClusterName": CLUSTER_NAME, "checkpointId": str(checkpoint["id"]), "undo": False}
        job = client.create_automated_restore(self.group_id, CLUSTER_NAME, body)
        done = self.wait(
            lambda: client.get_restore_progress(self.group_id, str(job["id"])),
            done=lambda found: found["statusName"] == "FINISHED",
            failed=lambda found: found["statusName"] in ("BROKEN", "KILLED"),
        )
        total = bank.total()
        is_back = total == bank.expected_total and done["automated"]["targetState"] == "RESTORED"
        self.say(
            f"  restored into the running cluster as it was at the checkpoint: it holds {total} again, "
            f"after {human_seconds(time.monotonic() - started)}"
            if is_back
            else f"  NOT RESTORED: it holds {total}: {json.dumps(done)}"
        )
        return is_back


def _head_states(cluster: Document) -> set[str]:
    return {(part.get("head") or {}).get("state", "") for part in cluster["parts"]}


def _free_ports(names: Mapping[str, Any]) -> dict[str, int]:
    ports: set[int] = set()
    while len(ports) < len(names):
        ports.add(free_port())
    return dict(zip(names, ports, strict=True))
