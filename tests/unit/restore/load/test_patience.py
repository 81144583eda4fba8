"""For how long a load tries again, and what for."""

import pytest
from pymongo.errors import AutoReconnect, NotPrimaryError, OperationFailure, PyMongoError, WTimeoutError

from ebbtide.errors import JobCancelled
from ebbtide.restore.load.patience import PAUSE_SECONDS, Patience, acknowledged, is_passing


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AutoReconnect("connection closed"), True),
        (NotPrimaryError("not primary"), True),
        (OperationFailure("the cache is full of dirty pages", 388), True),
        (WTimeoutError("waiting for replication timed out", 64), True),
        (OperationFailure("x", 1, {"errorLabels": ["RetryableWriteError"]}), True),
        (OperationFailure("not authorized", 13), False),
        (OperationFailure("duplicate key", 11000), False),
    ],
)
def test_errors_that_go_away_by_themselves(error: PyMongoError, expected: bool) -> None:
    assert expected is is_passing(error)


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def patience(time: Time, seconds: float) -> Patience:
    return Patience(lambda: None, seconds=seconds, monotonic=time.monotonic, sleep=time.sleep)


def test_an_outage_is_borne_for_its_time_and_no_longer() -> None:
    time = Time()
    waiting = patience(time, 10 * PAUSE_SECONDS)

    def suffer() -> None:
        while True:
            waiting.pause(AutoReconnect("gone"))

    with pytest.raises(AutoReconnect):
        suffer()
    assert time.now == pytest.approx(11 * PAUSE_SECONDS)


def test_time_without_a_failure_does_not_count() -> None:
    time = Time()
    waiting = patience(time, 5.0)
    for _ in range(5):
        time.now += 3600
        waiting.pause(AutoReconnect("gone"))


def test_what_does_not_pass_is_raised_at_once() -> None:
    time = Time()
    with pytest.raises(OperationFailure):
        patience(time, 5.0).pause(OperationFailure("not authorized", 13))
    assert time.now == 0


def test_whoever_waits_can_be_stopped() -> None:
    def check() -> None:
        raise JobCancelled("stop")

    with pytest.raises(JobCancelled):
        Patience(check).pause(AutoReconnect("gone"))


def test_a_late_acknowledgement_is_an_error() -> None:
    assert acknowledged({"ok": 1}) == {"ok": 1}
    with pytest.raises(WTimeoutError):
        acknowledged({"ok": 1, "writeConcernError": {"code": 64, "errmsg": "timed out"}})
