"""Whom an archive is made from: in which order members are tried, and when nobody has what is needed any more."""

from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from ebbtide.backup import archive_sources
from ebbtide.backup.archive_sources import ArchiveSources, NoSource, Source
from ebbtide.domain.cluster import Head, HeadState
from ebbtide.domain.ids import ClusterId
from ebbtide.domain.optime import OpTime
from ebbtide.errors import Unreachable
from ebbtide.oplog.tail import SourceBehind, SourceDiverged, SourceTooShort
from ebbtide.testing.oplog import make_optime

NOW = datetime(2026, 5, 1, tzinfo=UTC)
HEAD, SECONDARY, PRIMARY = "head:1", "second:1", "first:1"
POSITION = make_optime(100)
CONFIGURATION = {
    "members": [{"host": PRIMARY}, {"host": SECONDARY}, {"host": HEAD, "hidden": True, "priority": 0}]
}
STATUS = {"members": [{"name": PRIMARY, "state": 1}, {"name": SECONDARY, "state": 2}]}

OK = "ok"
AWAY = Unreachable("away")
BEHIND, SHORT, DIVERGED = SourceBehind("behind"), SourceTooShort("short"), SourceDiverged("diverged")


class FakeSet:
    """Members that answer as told; which were tried is kept."""

    def __init__(self, answers: dict[str, Any], *, answers_as_set: bool = True) -> None:
        self.answers = answers
        self.answers_as_set = answers_as_set
        self.tried: list[str] = []
        self.closed = 0

    def member_client(self, address: str, **_: Any) -> Any:
        return FakeClient(self, address)

    @contextmanager
    def set_client(self, **_: Any) -> Any:
        if not self.answers_as_set:
            raise AWAY
        yield SimpleNamespace()


class FakeClient:
    def __init__(self, members: FakeSet, address: str) -> None:
        self.members = members
        self.address = address

    def __enter__(self) -> "FakeClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.members.closed += 1


class FakeTail:
    def __init__(self, client: FakeClient, start: OpTime, *, includes_start: bool) -> None:
        client.members.tried.append(client.address)
        answer = client.members.answers.get(client.address, AWAY)
        if isinstance(answer, Exception):
            raise answer
        self.start, self.includes_start = start, includes_start

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def fake_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = {"replSetGetConfig": {"config": CONFIGURATION}, "replSetGetStatus": STATUS}
    monkeypatch.setattr(archive_sources, "run_admin", lambda _, command, **__: replies[command])
    monkeypatch.setattr(archive_sources, "OplogTail", FakeTail)
    monkeypatch.setattr(archive_sources, "find_oldest", lambda _, **__: make_optime(40))
    monkeypatch.setattr(archive_sources, "find_newest", lambda _: make_optime(140))


def head(**changes: Any) -> Head:
    values: dict[str, Any] = {
        "id": ClusterId("a" * 24),
        "state": HeadState.FOLLOWING,
        "state_since": NOW,
        "host": "head",
        "port": 1,
        "dbpath": "x",
        "updated": NOW,
        "lag_seconds": 0.0,
    }
    return Head(**(values | changes))


def search(members: FakeSet, found: Head) -> Source | NoSource:
    access: Any = members
    return ArchiveSources(access, found, lag_max=15.0).follow(POSITION)


@pytest.mark.parametrize(
    ("why", "changes", "answers", "tried"),
    [
        ("the head first", {}, {HEAD: OK, SECONDARY: OK}, [HEAD]),
        ("then a secondary", {}, {HEAD: AWAY, SECONDARY: OK}, [HEAD, SECONDARY]),
        ("then the primary", {}, {HEAD: SHORT, SECONDARY: BEHIND, PRIMARY: OK}, [HEAD, SECONDARY, PRIMARY]),
        ("not a locked head", {"lock_job_id": "x"}, {HEAD: OK, SECONDARY: OK}, [SECONDARY]),
        ("not one that lags", {"lag_seconds": 16.0}, {HEAD: OK, SECONDARY: OK}, [SECONDARY]),
        ("not one that is down", {"state": HeadState.DOWN}, {HEAD: OK, SECONDARY: OK}, [SECONDARY]),
        (
            "a locked one rather than none",
            {"lock_job_id": "x"},
            {HEAD: OK},
            [SECONDARY, PRIMARY, HEAD],
        ),
    ],
)
def test_members_are_tried_in_order(
    why: str, changes: dict[str, Any], answers: dict[str, Any], tried: list[str]
) -> None:
    members = FakeSet(answers)
    found = search(members, head(**changes))
    assert isinstance(found, Source), why
    assert (members.tried, found.address, found.is_head) == (tried, tried[-1], tried[-1] == HEAD), why
    assert found.window_seconds == 100.0
    # The others are not held open.
    assert members.closed >= len(tried) - 1


@pytest.mark.parametrize(
    ("why", "changes", "answers", "as_set", "lost", "certain"),
    [
        ("all say so", {}, {HEAD: SHORT, SECONDARY: SHORT, PRIMARY: DIVERGED}, True, True, True),
        ("one does not answer", {}, {HEAD: SHORT, SECONDARY: SHORT, PRIMARY: AWAY}, True, True, False),
        ("one is not there yet", {}, {HEAD: SHORT, SECONDARY: SHORT, PRIMARY: BEHIND}, True, True, False),
        ("a head that is down is not asked", {"state": HeadState.DOWN}, {SECONDARY: SHORT, PRIMARY: SHORT}, True, True, True),
        ("the set cannot be asked who there is", {}, {HEAD: SHORT}, False, True, False),
        ("nobody answers", {}, {}, True, False, False),
        ("all are behind", {}, {HEAD: BEHIND, SECONDARY: BEHIND, PRIMARY: BEHIND}, True, False, False),
    ],
)  # fmt: skip
def test_what_is_lost_is_certain_only_if_everybody_said_so(
    why: str, changes: dict[str, Any], answers: dict[str, Any], as_set: bool, lost: bool, certain: bool
) -> None:
    found = search(FakeSet(answers, answers_as_set=as_set), head(**changes))
    assert isinstance(found, NoSource)
    assert (found.is_lost, found.is_certain) == (lost, certain), why
    assert found.message
