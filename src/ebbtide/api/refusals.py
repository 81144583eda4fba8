"""Refusals: every error document that the API sends, and the table of its codes.

Source: contract section 5. A refusal is raised anywhere below a handler and becomes one error document; nothing was
changed when it is raised. Sentences are for people: command lines show them as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


@dataclass(frozen=True)
class Code:
    """HTTP status and sentence of an error code; `{0}`, `{1}` … are the document's `parameters`."""

    status: int
    sentence: str


_NUMBER = Code(400, "Attribute {0} cannot be {1}; it is one of: {2}.")

CODES: dict[str, Code] = {
    # who and from where
    "USER_UNAUTHORIZED": Code(401, "Current user is not authorized to perform this action."),
    "API_KEY_EXPIRED": Code(401, "API key {0} ended at {1}; ask whoever made it for another one."),
    "NOT_IN_GROUP": Code(401, "The current user is not in the group, or the group does not exist: {0}."),
    "IP_ADDRESS_NOT_ON_ACCESS_LIST": Code(
        403,
        "IP address {0} is not allowed to access this resource. To allow it: ebbtide {3} allow {1} {2}",
    ),
    # what the path names
    "RESOURCE_NOT_FOUND": Code(404, "Cannot find resource {0}."),
    "METHOD_NOT_ALLOWED": Code(405, "Method {0} is not allowed here; allowed: {1}."),
    "INVALID_GROUP_ID": Code(404, "An invalid group ID {0} was specified."),
    "INVALID_CLUSTER_ID": Code(404, "An invalid cluster ID {0} was specified."),
    "CLUSTER_NOT_FOUND": Code(404, "No cluster with ID {0} exists in group {1}."),
    "HOST_NOT_FOUND": Code(404, "No host with ID {0} exists in group {1}."),
    "NOT_CONFIG_SERVER": Code(404, "Host {0} is not a mirrored (SCCC) config server."),
    "CONFIG_SNAPSHOT_NOT_FOUND": Code(404, "No snapshot with ID {0} exists for host {1}."),
    "CONFIG_RESTORE_JOB_NOT_FOUND": Code(404, "No restore job with ID {0} exists for host {1}."),
    "INVALID_CHECKPOINT_ID": Code(404, "An invalid checkpoint ID {0} was specified."),
    "CHECKPOINT_NOT_FOUND": Code(404, "No checkpoint with ID {0} exists for cluster {1}."),
    "CLUSTER_NAME_INVALID": Code(400, "The cluster name {0} is invalid: letters, digits and hyphens only."),
    "CLUSTER_NAME_NOT_FOUND": Code(404, "No cluster named {0} exists in group {1}."),
    "INVALID_SNAPSHOT_ID": Code(404, "An invalid snapshot ID {0} was specified."),
    "SNAPSHOT_NOT_FOUND": Code(404, "No snapshot with ID {0} exists for cluster {1}."),
    "INVALID_JOB_ID": Code(404, "An invalid restore job ID {0} was specified."),
    "RESTORE_JOB_NOT_FOUND": Code(404, "No restore job with ID {0} exists for cluster {1}."),
    "RESTORE_JOB_NOT_FOUND_IN_GROUP": Code(404, "No restore job with ID {0} exists in group {1}."),
    "API_KEY_NOT_FOUND": Code(400, "No API key {0} exists."),
    "API_KEY_ACCESS_LIST_NOT_FOUND": Code(404, "{0} is not on the access list of API key {1}."),
    "ACCESS_LIST_NOT_FOUND": Code(404, "{0} is not on the access list of service account {1}."),
    "SERVICE_ACCOUNT_NOT_FOUND": Code(404, "No service account {0} exists."),
    "SERVICE_ACCOUNT_SECRET_NOT_FOUND": Code(404, "No secret {0} exists for service account {1}."),
    # query
    "INVALID_QUERY_PARAMETER": Code(400, "Query parameter {0} is invalid: expected {1}."),
    # body
    "INVALID_JSON": Code(400, "The request body is not usable JSON: {0}."),
    "INVALID_JSON_ATTRIBUTE": Code(400, "Attribute {0} has the wrong shape: expected {1}."),
    "INVALID_ATTRIBUTE": Code(400, "Attribute {0} is invalid: {1}."),
    "MISSING_ATTRIBUTE": Code(400, "The required attribute {0} was not specified."),
    "MISSING_ONE_OF_ATTRIBUTES": Code(400, "One of these attributes must be specified: {0}."),
    "ATTRIBUTE_READ_ONLY": Code(400, "Attribute {0} is read-only and cannot be specified."),
    "ATTRIBUTE_NEGATIVE_OR_ZERO": Code(400, "Attribute {0} must be at least 1."),
    "INVALID_ENUM_VALUE": Code(400, "Attribute {0} has an invalid value {1}; expected one of: {2}."),
    "UNSUPPORTED_DELIVERY_METHOD": Code(400, "Delivery method {1} is not supported{2}."),
    "FRACTIONAL_TIMESTAMP": Code(
        400, "Attribute {0} has a fraction of a second; only whole seconds are taken."
    ),
    "UNSUPPORTED_SET_BACKUP_STATE": Code(403, "{0} cannot be set to {1}; it can be set to one of: {2}."),
    "INVALID_FILTERLIST": Code(
        400, "Attribute {0} must be empty: a snapshot is of data files, and so of every namespace."
    ),
    "GROUP_MISMATCH": Code(400, "Attribute {0} names group {1}, which is not the group of the path."),
    "INVALID_SNAPSHOT_INTERVAL": _NUMBER,
    "INVALID_SNAPSHOT_RETENTION_PERIOD": _NUMBER,
    "INVALID_DAILY_SNAPSHOT_RETENTION_PERIOD": _NUMBER,
    "INVALID_WEEKLY_SNAPSHOT_RETENTION_PERIOD": _NUMBER,
    "INVALID_MONTHLY_SNAPSHOT_RETENTION_PERIOD": _NUMBER,
    "INVALID_CLUSTER_CHECKPOINT_INTERVAL": _NUMBER,
    "INVALID_REFERENCE_HOUR_OF_DAY": _NUMBER,
    "INVALID_REFERENCE_MINUTE_OF_HOUR": _NUMBER,
    "INVALID_REFERENCE_TIMEZONE_OFFSET": Code(400, "Attribute {0} must be Z or like +0000, not {1}."),
    "CANNOT_SET_POINT_IN_TIME_WINDOW": Code(400, "Attribute {0} cannot be negative."),
    "CANNOT_SET_CLUSTER_CHECKPOINT_INTERVAL_FOR_REPLICA_SET": Code(
        400, "Attribute {0} cannot be set: checkpoints are of sharded clusters only."
    ),
    "UNSUPPORTED_MEDIA_TYPE": Code(415, "The request body must be application/json, not {0}."),
    "MALFORMED_REQUEST": Code(400, "The request is not HTTP, or its address is far too long."),
    "REQUEST_HEAD_TOO_LARGE": Code(431, "The request line and headers are larger than {0} bytes."),
    "REQUEST_BODY_TOO_LARGE": Code(413, "The request body is larger than {0} bytes."),
    "INVALID_IP_ADDRESS_OR_CIDR_NOTATION": Code(400, "{1} is not an IP address or a CIDR block."),
    "BAD_ACCESS_LIST_ADD_REQUEST": Code(
        400, "Each entry needs either an ipAddress or a cidrBlock, never both, in an array."
    ),
    "DUPLICATE_ADDRESSES_IN_INPUT": Code(400, "{0} is in the request more than once."),
    # state
    "ADDRESS_ALREADY_IN_ACCESS_LIST": Code(409, "{0} is on the access list of {1} already."),
    "CLUSTER_RESTORE_IN_PROGRESS_CANNOT_UPDATE": Code(409, "{0}"),
    "NOTHING_TO_UNDO": Code(409, "{0}"),
    "CANNOT_RESTORE_TO_TARGET": Code(403, "Restoring into group {0} is not allowed to this API key."),
    "CANNOT_START_RESTORE_JOB_FOR_INCOMPLETE_CLUSTER_SNAPSHOT": Code(
        409, "Snapshot {0} is not complete yet, so it cannot be restored."
    ),
    "CANNOT_START_RESTORE_JOB_FOR_DELETED_SNAPSHOT": Code(
        409, "Snapshot {0} was deleted, so it cannot be restored."
    ),
    "CANNOT_DELETE_FROM_CLUSTER_SNAPSHOT": Code(
        403, "Snapshot {0} is a part of a snapshot of a sharded cluster; delete that one."
    ),
    "CANNOT_MODIFY_SHARD_BACKUP_CONFIG": Code(
        409, "Cluster {0} is a part of a sharded cluster; change the backup of that one."
    ),
    "ALREADY_EXPIRED": Code(400, "Snapshot {0} has expired already, so it cannot be changed."),
    "SNAPSHOT_NOT_UNDELETABLE": Code(409, "{0}"),
    "SNAPSHOT_NEEDED_TO_UNDO": Code(409, "{0}"),
    "LINK_EXPIRATION_AFTER_SNAPSHOT_DELETION": Code(
        409,
        "The link would expire after snapshot {0} is deleted; ask for fewer hours, or keep the snapshot: "
        "ebbtide snapshots keep {1} {0}",
    ),
    "CANNOT_START_BACKUP_INVALID_STATE": Code(409, "The backup of cluster {0} cannot be started: it is {1}."),
    "CANNOT_STOP_BACKUP_INVALID_STATE": Code(409, "The backup of cluster {0} cannot be stopped: it is {1}."),
    "CANNOT_TERMINATE_BACKUP_INVALID_STATE": Code(
        409, "The backup of cluster {0} cannot be terminated unless it is STOPPED: it is {1}."
    ),
    "RESTORE_JOB_ENDED": Code(409, "Restore job {0} has ended already; there is nothing to cancel."),
    "CLUSTER_NAME_TAKEN": Code(409, "A cluster named {0} is registered in this group already."),
    "CLUSTER_NOT_ACTIVE": Code(409, "Cluster {0} is being removed, or was."),
    "CREDENTIALS_REFUSED": Code(409, "The set does not accept these credentials: {0}"),
    "REGISTRATION_REFUSED": Code(409, "The cluster cannot be registered: {0}"),
    "SNAPSHOT_IN_PROGRESS": Code(409, "{0}"),
    "HEAD_NOT_READY": Code(409, "{0}"),
    "REFUSED": Code(409, "{0}"),
    "CANNOT_REMOVE_CALLER_FROM_ACCESS_LIST": Code(
        400, "Removing {0} would shut out the address that you call from, {1}."
    ),
    # downloads
    "LINK_NOT_USABLE": Code(410, "{0}"),
    "RANGE_NOT_SATISFIABLE": Code(416, "The range begins after the end of the file of {0} bytes."),
    "PRECONDITION_FAILED": Code(412, "The file is not the one that If-Match names."),
    "TOO_MANY_TRANSFERS": Code(429, "This link has {0} transfers under way already; try again later."),
    # how often
    "RATE_LIMITED": Code(429, "There were too many {0}: at most {1} every {2} minutes; try again later."),
    # our side
    "UNEXPECTED_ERROR": Code(500, "Unexpected error. {0}"),
}


@dataclass(frozen=True)
class Violation:
    """One bad field of a body: `code` and the parameters of its sentence, of which the first is the field."""

    code: str
    parameters: tuple[str, ...]

    @property
    def field(self) -> str:
        return self.parameters[0]

    @property
    def sentence(self) -> str:
        return CODES[self.code].sentence.format(*self.parameters)


def violation(code: str, field: str, *parameters: str) -> Violation:
    """One bad field; `code` is in `CODES`."""
    return Violation(code, (field, *parameters))


class Refusal(Exception):
    """An answer other than success. `extra` are members beside the usual ones of the error document."""

    def __init__(
        self,
        *,
        status: int,
        detail: str,
        code: str | None = None,
        parameters: Sequence[str] = (),
        violations: Sequence[Violation] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        self.parameters = tuple(parameters)
        self.violations = tuple(violations)
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def document(self, *, names_bad_fields: bool = True) -> dict[str, Any]:
        """The error document of contract section 5; `badRequestDetail` only with `names_bad_fields`."""
        document: dict[str, Any] = {
            "error": self.status,
            "reason": HTTPStatus(self.status).phrase,
            "detail": self.detail,
        }
        if self.code is not None:
            document["errorCode"] = self.code
            document["parameters"] = list(self.parameters)
        if self.violations and names_bad_fields:
            fields = [{"field": v.field, "description": v.sentence} for v in self.violations]
            document["badRequestDetail"] = {"fields": fields}
        return {**document, **self.extra}


def refusal(
    code: str,
    *parameters: str,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Refusal:
    """The refusal `code`, its sentence filled with `parameters`."""
    row = CODES[code]
    return Refusal(
        status=row.status,
        detail=row.sentence.format(*parameters),
        code=code,
        parameters=parameters,
        headers=headers,
        extra=extra,
    )


def refuse_fields(violations: Sequence[Violation]) -> Refusal:
    """All bad fields of one body: the first one's code, every one in `badRequestDetail`."""
    first = violations[0]
    return Refusal(
        status=CODES[first.code].status,
        detail=first.sentence,
        code=first.code,
        parameters=first.parameters,
        violations=violations,
    )


def not_logged_in(challenge: str) -> Refusal:
    """The answer to missing or wrong credentials: it alone has no error code, as in the hosted service."""
    return Refusal(
        status=401,
        detail="You are not authorized for this resource.",
        headers={"WWW-Authenticate": challenge},
    )
