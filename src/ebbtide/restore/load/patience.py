"""Trying again through elections and lost connections, for a bounded time at a stretch."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError, WTimeoutError

T = TypeVar("T")

MAJORITY: Mapping[str, Any] = {"w": "majority", "wtimeout": 30_000}
"""How writes are acknowledged: within less than the time that a client waits for an answer."""

OUTAGE_SECONDS_MAX = 120.0
"""How long a target may be without a primary before the attempt ends; the job tries again later."""

PAUSE_SECONDS = 0.5

# InterruptedAtShutdown, InterruptedDueToReplStateChange, NotWritablePrimary, NotPrimaryNoSecondaryOk,
# NotPrimaryOrSecondary, PrimarySteppedDown, ShutdownInProgress, HostUnreachable, HostNotFound, NetworkTimeout,
# WriteConflict, LockTimeout, MaxTimeMSExpired, WriteConcernFailed (wtimeout), ExceededTimeLimit, TemporarilyUnavailable,
# TransactionTooLargeForCache (dirty pages fill the cache), IndexBuildAborted, IndexBuildAlreadyInProgress,
# BackgroundOperationInProgressForNamespace, ReadConcernMajorityNotAvailableYet, InterruptedDueToStorageChange; of
# sharded clusters LockBusy, StaleShardVersion, ConflictingOperationInProgress, StaleDbVersion, StaleConfig
_PASSING_CODES = frozenset(
    {11600, 11602, 10107, 13435, 13436, 189, 91, 6, 7, 89, 112, 24, 50, 64, 262, 365, 388, 276, 378, 12587}
    | {134, 355}
    | {46, 63, 117, 249, 13388}
)


def is_passing(error: PyMongoError) -> bool:
    """Whether such an error goes away by itself, so that the same command may be sent again."""
    if isinstance(error, ConnectionFailure) or error.has_error_label("RetryableWriteError"):
        return True
    return isinstance(error, OperationFailure) and error.code in _PASSING_CODES


def is_passing_code(code: int) -> bool:
    """The same, for the code of a refused write."""
    return code in _PASSING_CODES


def acknowledged(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer of a command that was to be acknowledged by a majority. Raises WTimeoutError where it was not yet."""
    late = answer.get("writeConcernError")
    if late:
        raise WTimeoutError(late.get("errmsg", ""), late.get("code"), dict(late))
    return answer


class Patience:
    """One thing that is tried: `pause` is called after each failure, and raises it where it is time to give up.

    Time counts from the first failure of a stretch: a build that was well for hours before an election has all of it.
    `check` is called during each pause, and may raise.
    """

    def __init__(
        self,
        check: Callable[[], None],
        *,
        seconds: float = OUTAGE_SECONDS_MAX,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._check = check
        self._seconds = seconds
        self._monotonic = monotonic
        self._sleep = sleep
        self._first: float | None = None
        self._latest = 0.0

    def pause(self, error: PyMongoError) -> None:
        """Raises `error` where it does not pass, or has not passed for too long."""
        now = self._monotonic()
        if self._first is None or now - self._latest > self._seconds:
            self._first = now
        self._latest = now
        if not is_passing(error) or now - self._first > self._seconds:
            raise error
        self._check()
        self._sleep(PAUSE_SECONDS)


def persist(operation: Callable[[], T], *, check: Callable[[], None]) -> T:
    """The answer of an operation that may safely be made twice. Raises PyMongo's errors that do not pass."""
    patience = Patience(check)
    while True:
        try:
            return operation()
        except PyMongoError as error:
            patience.pause(error)
