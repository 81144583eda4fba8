"""Which errors the background workload takes for passing, and how it ends."""

import time
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, NotPrimaryError, OperationFailure, PyMongoError

from ebbtide.testing import workload
from ebbtide.testing.workload import BackgroundWorkload, is_passing


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AutoReconnect("connection closed"), True),
        (NotPrimaryError("not primary"), True),
        (OperationFailure("x", 112), True),
        (OperationFailure("x", 11602), True),
        (OperationFailure("x", 1, {"errorLabels": ["TransientTransactionError"]}), True),
        (OperationFailure("not authorized", 13), False),
        (OperationFailure("x", 11000), False),
        (PyMongoError("x"), False),
    ],
)
def test_errors_that_go_away_by_themselves(error: PyMongoError, expected: bool) -> None:
    assert is_passing(error) is expected


def unconnected_client() -> "MongoClient[dict[str, Any]]":
    return MongoClient("127.0.0.1", 1, connect=False)


def test_passing_errors_are_counted_and_others_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter([None, AutoReconnect("gone"), None, OperationFailure("not authorized", 13)])

    def one_operation(*_: object) -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(workload, "_one_operation", one_operation)
    running = BackgroundWorkload(unconnected_client, operations_per_second=1000).start()
    with pytest.raises(OperationFailure, match="not authorized"):
        running.wait_for_operations(3)
    with pytest.raises(OperationFailure, match="not authorized"):
        running.stop()
    assert (running.operations, running.interruptions) == (2, 1)


def test_an_outage_that_lasts_too_long_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_operation(*_: object) -> None:
        raise AutoReconnect("gone")

    monkeypatch.setattr(workload, "_one_operation", one_operation)
    monkeypatch.setattr(workload, "OUTAGE_SECONDS_MAX", 0.0)
    running = BackgroundWorkload(unconnected_client, operations_per_second=1000).start()
    with pytest.raises(AutoReconnect):
        running.wait_for_operations(1, timeout_seconds=60)
    with pytest.raises(AutoReconnect):
        running.stop()


def test_operations_keep_to_their_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "_one_operation", lambda *_: None)
    began = time.monotonic()
    with BackgroundWorkload(unconnected_client, operations_per_second=100) as running:
        running.wait_for_operations(20)
    assert time.monotonic() - began >= 0.18
