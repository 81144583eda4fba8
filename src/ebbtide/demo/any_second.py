"""The second half of the walk: a download of any moment, and a dropped collection that comes back.

A moment is recorded behind Ebbtide's back: with the head locked, its newest oplog entry and the dbHash of every user
database. A download of that very oplog timestamp must equal it. Then a collection is dropped, and restored into the
running set as it was the second before.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pymongo import MongoClient

from ebbtide.cli.client import EbbtideClient
from ebbtide.cli.render.quantities import human_seconds
from ebbtide.domain.automated_restore import RESTORE_ROLES
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab

Document = dict[str, Any]
Client = MongoClient[Document]

DATABASE, COLLECTION = "accounts", "ledger"
NAMESPACE = f"{DATABASE}.{COLLECTION}"
ENTRIES = 20_000
"""So many that the time to replay them is more than that of starting mongod."""

RESTORE_USER, RESTORE_PASSWORD = "demo-restorer", "only for this demo"
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class AnySecondResult:
    """What was shown. `replay_ops_per_second`: insertion and mongod's starts included."""

    pit_exact: bool
    replay_ops_per_second: float
    automated_restore_ok: bool
    automated_restore_seconds: float

    def document(self) -> Document:
        """The part of it that `--once --json` prints."""
        return {
            "pit_exact": self.pit_exact,
            "replay_ops_per_second": round(self.replay_ops_per_second, 1),
            "automated_restore_ok": self.automated_restore_ok,
            "automated_restore_seconds": round(self.automated_restore_seconds, 3),
        }


class Waiting(Protocol):
    """Looks again and again until a document is done, or has failed."""

    def __call__(
        self,
        look: Callable[[], Document],
        *,
        done: Callable[[Document], bool],
        failed: Callable[[Document], bool],
    ) -> Document: ...


def recorded_hashes(client: Client) -> Document:
    """The dbHash of every user database. What servers keep for themselves differs from copy to copy."""
    return database_hashes(client, exclude=("local", "config", "admin"))


@dataclass(frozen=True, kw_only=True)
class AnySecond:
    """What the walk lends: its set, its service, and how it downloads and starts copies."""

    client: EbbtideClient
    lab: ReplicaSetLab
    group_id: str
    cluster_name: str
    open_head: Callable[[], Client]
    fetch: Callable[[str], Path]
    hash_copy: Callable[[Path], Document]
    wait: Waiting
    say: Callable[[str], None]

    def show(self) -> AnySecondResult:
        """Both halves of it. Raises what stopped it."""
        self._fill()
        moment, expected = self._record_moment()
        exact = self._show_moment(moment, expected)
        restored, seconds, is_back = self._show_dropped()
        replayed = restored["automated"]
        return AnySecondResult(
            pit_exact=exact,
            replay_ops_per_second=replayed["entriesApplied"] / (replayed.get("replaySeconds") or 1.0),
            automated_restore_ok=is_back and restored["automated"]["targetState"] == "RESTORED",
            automated_restore_seconds=seconds,
        )

    # --- any moment -------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        with self.lab.client(w="majority") as client:
            ledger = client[DATABASE][COLLECTION]
            ledger.create_index("account")
            for first in range(0, ENTRIES, 1000):
                ledger.insert_many(
                    [
                        {"_id": number, "account": number % 97, "cents": number * 7}
                        for number in range(first, first + 1000)
                    ]
                )
        self.say(f"an important collection: {NAMESPACE}, with {ENTRIES} documents")

    def _record_moment(self) -> tuple[OplogTimestamp, Document]:
        """An oplog timestamp, and what the set held then."""
        with self.open_head() as head:
            head.admin.command("fsync", lock=True)
            try:
                newest = next(head.local["oplog.rs"].find().sort("$natural", -1).limit(1))
                expected = recorded_hashes(head)
            finally:
                head.admin.command("fsyncUnlock")
        moment = OplogTimestamp.from_bson(newest["ts"])
        self.say(f"noted behind Ebbtide's back: what is there at oplog timestamp {moment}")
        return moment, expected

    def _show_moment(self, moment: OplogTimestamp, expected: Document) -> bool:
        job = self.client.create_point_in_time_restore(
            self.group_id,
            self.cluster_name,
            point={"oplogTs": moment.seconds, "oplogInc": moment.increment},
            expiration_hours=24,
            max_downloads=10,
        )
        started = time.monotonic()
        self._wait_for(str(job["id"]))
        self.say(f"a download of that very entry: ready after {human_seconds(time.monotonic() - started)}")
        is_exact = self.hash_copy(self.fetch(str(job["id"]))) == expected
        self.say(f"  started plainly, its dbHash {'equals' if is_exact else 'DIFFERS FROM'} what was noted")
        return is_exact

    # --- a dropped collection ---------------------------------------------------------------------------------------

    def _show_dropped(self) -> tuple[Document, float, bool]:
        self._consent()
        with self.lab.client(w="majority") as client:
            before = self._hash_ledger()
            second = self._wait_for_next_second(client)
            client[DATABASE][COLLECTION].drop()
        self.say(f"somebody drops {NAMESPACE} …")
        started = time.monotonic()
        job = self.client.create_automated_restore(
            self.group_id,
            self.cluster_name,
            {
                "targetClusterName": self.cluster_name,
                "namespaces": [NAMESPACE],
                "pointInTimeUTCMillis": second * 1000,
            },
        )
        done = self._wait_for(str(job["id"]))
        seconds = time.monotonic() - started
        is_back = self._hash_ledger() == before
        compared = done["automated"]["comparison"]
        self.say(
            f"  restored into the running set as it was the second before: {compared['documents']} documents, "
            f"{'equal' if is_back else 'NOT EQUAL'} by dbHash, after {human_seconds(seconds)}"
        )
        return done, seconds, is_back

    def _consent(self) -> None:
        """The owner lets restores write: with an account of its own, as the one for backup cannot."""
        with self.lab.client(w="majority") as client:
            client.admin.command("createUser", RESTORE_USER, pwd=RESTORE_PASSWORD, roles=list(RESTORE_ROLES))
        body = {"enabled": True, "username": RESTORE_USER, "password": RESTORE_PASSWORD}
        self.client.set_restore_target(self.group_id, self.cluster_name, body)

    def _wait_for_next_second(self, client: Client) -> int:
        """A second of the oplog that is over, with the collection in it."""
        second = _newest_second(client)
        while _newest_second(client) == second:
            time.sleep(_LOOK_SECONDS)
        return second

    def _hash_ledger(self) -> Any:
        with self.lab.member_client(self.lab.primary().index) as client:
            return client[DATABASE].command("dbHash", collections=[COLLECTION])["collections"]

    def _wait_for(self, job_id: str) -> Document:
        return self.wait(
            lambda: self.client.get_restore_progress(self.group_id, job_id),
            done=lambda found: found["statusName"] == "FINISHED",
            failed=lambda found: found["statusName"] in ("BROKEN", "KILLED"),
        )


def _newest_second(client: Client) -> int:
    """Of an entry that is written for it."""
    reply = client.admin.command("appendOplogNote", 1, data={"demo": "the time"})
    return int(reply["operationTime"].time)
