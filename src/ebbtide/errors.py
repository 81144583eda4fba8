"""The tree of errors.

Each class is a noun an operator can act on. It knows its exit code (what a script sees), whether trying
again may help (`retryable`: only the job runner loops), and carries a `hint`: the next thing to do.

    EbbtideError                  1
    ├── InvalidInput              2   a value the caller gave; names the field and what was expected
    │   └── InvalidSetting        2
    ├── Refused                   3   a precondition is not met; nothing was changed
    │   ├── RegistrationRefused   3   all failed checks together
    │   └── NotFound              4
    ├── AccessDenied              5   the API did not let us in
    ├── Unreachable               6   a server did not answer; retryable
    ├── StorageError              7   retryable
    │   ├── ObjectNotFound        7   not retryable
    │   └── StorageFull           7   retryable: space may be freed
    ├── IntegrityError            8   stored bytes are not what was written; never retryable
    ├── MongodError               9   a mongod of ours: retryable
    │   ├── MongodBinaryMissing   9   not retryable
    │   ├── MongodStartFailed     9
    │   └── MongodDied            9
    ├── HeadUnavailable          10   the head cannot be used now; retryable
    ├── SnapshotUnusable         10   what was captured cannot be a snapshot; retryable
    ├── JobFailed                11   a job ended BROKEN, KILLED or FAILED
    ├── JobCancelled             11   somebody asked this job to stop
    └── LeaseLost                12   another worker owns this now; stop quietly

Exit code 130 is an interrupt by the user. docs/exit-codes.md repeats the table, and a test compares them.
"""

from collections.abc import Sequence


class EbbtideError(Exception):
    """Base of every error that Ebbtide raises on purpose: one sentence, and a hint what to do next."""

    exit_code: int = 1
    retryable: bool = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidInput(EbbtideError):
    """A value that a caller gave cannot be used."""

    exit_code = 2

    def __init__(self, field: str, *, expected: str, got: object = None, hint: str = "") -> None:
        shown = "" if got is None else f", not {got!r}"
        super().__init__(f"{field}: expected {expected}{shown}", hint=hint)
        self.field = field
        self.expected = expected


class InvalidSetting(InvalidInput):
    """One or more settings cannot be used; all problems are in the message."""


class Refused(EbbtideError):
    """A precondition is not met; nothing was changed."""

    exit_code = 3


class RegistrationRefused(Refused):
    """A cluster cannot be registered; `problems` has one (what, fix) pair per failed check."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        lines = "; ".join(f"{what} ({fix})" if fix else what for what, fix in problems)
        super().__init__(f"the cluster cannot be registered: {lines}")
        self.problems = tuple(problems)


class NotFound(Refused):
    """A named thing does not exist."""

    exit_code = 4


class AccessDenied(EbbtideError):
    """The API did not accept the key, its role or its address."""

    exit_code = 5


class Unreachable(EbbtideError):
    """A server did not answer. Whether it received the request is not known."""

    exit_code = 6
    retryable = True


class StorageError(EbbtideError):
    """The storage failed an operation on one object. A failed write may or may not have left a temporary object."""

    exit_code = 7
    retryable = True

    def __init__(self, operation: str, object_name: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"storage: {operation} {object_name!r}: {problem}", hint=hint)
        self.operation = operation
        self.object_name = object_name


class ObjectNotFound(StorageError):
    """A named object is not in the storage."""

    retryable = False

    def __init__(self, object_name: str, *, operation: str = "get") -> None:
        super().__init__(operation, object_name, "no such object")


class StorageFull(StorageError):
    """No space is left; nothing readable was left behind under the object's name."""

    def __init__(self, operation: str, object_name: str) -> None:
        super().__init__(
            operation,
            object_name,
            "no space is left",
            hint="free space where the repository is; the job goes on by itself",
        )


class IntegrityError(EbbtideError):
    """Stored bytes are not the bytes that were written."""

    exit_code = 8

    def __init__(self, object_name: str, problem: str, *, hint: str = "") -> None:
        super().__init__(
            f"{object_name}: {problem}",
            hint=hint or "the object is damaged: other snapshots may not use it, so try another one",
        )
        self.object_name = object_name
        self.problem = problem


class MongodError(EbbtideError):
    """A mongod that Ebbtide runs did not do what it should."""

    exit_code = 9
    retryable = True


class MongodBinaryMissing(MongodError):
    """There is no mongod of the version needed."""

    retryable = False


class MongodStartFailed(MongodError):
    """A mongod did not come up in time; the message ends with the last lines of its log."""


class MongodDied(MongodError):
    """A mongod ended while it was needed."""


class HeadUnavailable(EbbtideError):
    """A cluster's head cannot be used now."""

    exit_code = 10
    retryable = True


class SnapshotUnusable(EbbtideError):
    """What was captured from the head cannot be a snapshot (no stable timestamp, files missing)."""

    exit_code = 10
    retryable = True


class JobFailed(EbbtideError):
    """A job that the caller waited for ended without a result."""

    exit_code = 11


class JobCancelled(EbbtideError):
    """Somebody asked this job to stop."""

    exit_code = 11


class LeaseLost(EbbtideError):
    """Another worker owns this now: stop without touching anything more."""

    exit_code = 12
