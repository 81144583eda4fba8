"""Shapes of the bodies that operations take, as types. `null` counts as not sent everywhere."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ebbtide.api.openapi.documents import INT32_MAX, Date, Id, Weekday
from ebbtide.api.restore_point_fields import POINT_IN_TIME_MILLIS_MIN
from ebbtide.api.restore_requests import EXPIRATION_HOURS_MAX
from ebbtide.domain.access import Role
from ebbtide.domain.cluster import CLUSTER_NAME_LENGTH_MAX
from ebbtide.domain.group import GROUP_NAME_LENGTH_MAX
from ebbtide.domain.service_account import SECRET_HOURS_MAX, SECRET_HOURS_MIN

Positive = Annotated[int, Field(ge=1, le=INT32_MAX)]
ClusterName = Annotated[str, Field(pattern="^[a-zA-Z0-9][a-zA-Z0-9-]*$", max_length=CLUSTER_NAME_LENGTH_MAX)]
IdOrEmpty = Annotated[str, Field(pattern="^([0-9a-f]{24})?$")]
SecretHours = Annotated[int, Field(ge=SECRET_HOURS_MIN, le=SECRET_HOURS_MAX)]
Decimal = Annotated[str, Field(pattern="^[0-9]{1,10}$")]


class Nothing(TypedDict):
    """No field at all; the body may be left out."""


class DeliveryRequest(TypedDict):
    """How the result shall arrive. `expires` in the family of Cloud and Ops Manager only."""

    methodName: Literal["HTTP", "AUTOMATED_RESTORE"]
    expirationHours: NotRequired[Annotated[int, Field(ge=1, le=EXPIRATION_HOURS_MAX)]]
    maxDownloads: NotRequired[Positive]
    expires: NotRequired[Date]
    targetGroupId: NotRequired[Id]
    targetClusterId: NotRequired[Id]
    targetClusterName: NotRequired[ClusterName]


class RestorePoint(TypedDict):
    """When: exactly one of `snapshotId`, `checkpointId`, `oplogTs` with `oplogInc`, and `pointInTimeUTCMillis`."""

    snapshotId: NotRequired[Id]
    checkpointId: NotRequired[Id]
    checkPointId: NotRequired[Id]
    oplogTs: NotRequired[Annotated[int, Field(ge=1, lt=2**32)] | Decimal | Date]
    oplogInc: NotRequired[Annotated[int, Field(ge=1, lt=2**32)] | Decimal]
    pointInTimeUTCMillis: NotRequired[Annotated[int, Field(ge=POINT_IN_TIME_MILLIS_MIN, lt=2**63)]]


class RestoreJobRequest(RestorePoint):
    """A restore, and one restore point; HTTP takes a `snapshotId` only."""

    delivery: DeliveryRequest


class HostDelivery(TypedDict):
    """How a host's restore shall arrive. `expires` goes before `expirationHours`."""

    methodName: Literal["HTTP"]
    expirationHours: NotRequired[Annotated[int, Field(ge=1, le=EXPIRATION_HOURS_MAX)]]
    maxDownloads: NotRequired[Positive]
    expires: NotRequired[Date]
    statusName: NotRequired[str]
    url: NotRequired[str]


class HostRestoreJobRequest(TypedDict):
    """A download of a mirrored config server's snapshot."""

    delivery: HostDelivery
    snapshotId: Id


class HostRequest(TypedDict):
    """A mongod by itself, declared a mirrored config server, and the account that copies it."""

    address: Annotated[str, Field(min_length=1)]
    username: NotRequired[str]
    password: NotRequired[str]
    authSource: NotRequired[str]


class PointInTimeRequest(RestorePoint):
    """A download of a moment."""

    now: NotRequired[bool]
    expirationHours: NotRequired[Annotated[int, Field(ge=1, le=EXPIRATION_HOURS_MAX)]]
    maxDownloads: NotRequired[Positive]
    dryRun: NotRequired[bool]


class AutomatedRequest(RestorePoint):
    """A restore into a running cluster: of everything, or of some namespaces, one of them under another name."""

    now: NotRequired[bool]
    targetGroupId: NotRequired[Id]
    targetClusterId: NotRequired[Id]
    targetClusterName: NotRequired[ClusterName]
    namespaces: NotRequired[list[str]]
    renameTo: NotRequired[str]
    compare: NotRequired[bool]
    withUsersAndRoles: NotRequired[bool]
    undo: NotRequired[bool]
    dryRun: NotRequired[bool]


class SnapshotChange(TypedDict):
    """One of both; in Cloud and Ops Manager `doNotDelete: true` wins over `expires`."""

    doNotDelete: NotRequired[bool]
    expires: NotRequired[Date]


class ScheduleChange(TypedDict):
    """What is not sent stays. Atlas has closed lists of values, Cloud and Ops Manager ranges."""

    clusterId: NotRequired[IdOrEmpty]
    groupId: NotRequired[IdOrEmpty]
    snapshotIntervalHours: NotRequired[Literal[6, 8, 12, 24]]
    snapshotRetentionDays: NotRequired[Annotated[int, Field(ge=1, le=5)]]
    dailySnapshotRetentionDays: NotRequired[Annotated[int, Field(ge=0, le=365)]]
    weeklySnapshotRetentionWeeks: NotRequired[Annotated[int, Field(ge=0, le=52)]]
    monthlySnapshotRetentionMonths: NotRequired[Annotated[int, Field(ge=0, le=36)]]
    pointInTimeWindowHours: NotRequired[Annotated[int, Field(ge=0)]]
    clusterCheckpointIntervalMin: NotRequired[Literal[0, 15, 30, 60]]
    referenceHourOfDay: NotRequired[Annotated[int, Field(ge=0, le=23)]]
    referenceMinuteOfHour: NotRequired[Annotated[int, Field(ge=0, le=59)]]
    referenceTimeZoneOffset: NotRequired[
        Annotated[str, Field(pattern="^(Z|[+-](0[0-9]|1[0-4]):?[0-5][0-9])$")]
    ]
    fullIncrementalDayOfWeek: NotRequired[Weekday]


class BackupConfigChange(TypedDict):
    """What shall become of a backup. The other fields can be repeated and not changed."""

    groupId: NotRequired[IdOrEmpty]
    clusterId: NotRequired[IdOrEmpty]
    statusName: NotRequired[Literal["STARTED", "STOPPED", "TERMINATING"]]
    storageEngineName: NotRequired[Literal["WIRED_TIGER"]]
    authMechanismName: NotRequired[Literal["NONE", "MONGODB_CR"]]
    username: NotRequired[str]
    password: NotRequired[str]
    sslEnabled: NotRequired[bool]
    syncSource: NotRequired[Literal["PRIMARY", "SECONDARY"]]
    encryptionEnabled: NotRequired[Literal[False]]
    excludedNamespaces: NotRequired[Annotated[list[str], Field(max_length=0)]]
    includedNamespaces: NotRequired[Annotated[list[str], Field(max_length=0)]]


class ProjectRequest(TypedDict):
    """A project's name."""

    name: Annotated[str, Field(min_length=1, max_length=GROUP_NAME_LENGTH_MAX)]


class RolesRequest(TypedDict):
    """The roles in one project."""

    roles: list[Literal["GROUP_OWNER", "GROUP_BACKUP_ADMIN", "GROUP_READ_ONLY"]]


class Registration(TypedDict):
    """A replica set to back up; files are given by their contents."""

    name: ClusterName
    uri: str
    username: NotRequired[str]
    password: NotRequired[str]
    authSource: NotRequired[str]
    keyfile: NotRequired[str]
    tlsCa: NotRequired[str]
    tlsCertificate: NotRequired[str]
    headHost: NotRequired[str]
    headPort: NotRequired[Annotated[int, Field(ge=1, le=65535)]]
    dryRun: NotRequired[bool]


class ClusterChange(TypedDict):
    """The mongod that a cluster's head runs; null: the one that the settings say."""

    mongod: str | None


class CertificateRequest(TypedDict):
    """Another certificate for a head, in PEM with its private key."""

    tlsCertificate: str
    tlsCa: NotRequired[str]


class Credentials(TypedDict):
    """What opens a cluster's set; what is not sent stays as it is."""

    username: NotRequired[str]
    password: NotRequired[str]
    authSource: NotRequired[str]
    keyfile: NotRequired[str]
    tlsCa: NotRequired[str]
    tlsCertificate: NotRequired[str]


class DryRun(TypedDict):
    """Whether only to say what would be done."""

    dryRun: NotRequired[bool]


class GrantRequest(TypedDict):
    """A role; without a group it is a global one."""

    role: Role
    groupId: NotRequired[Id]


class NetworkRequest(TypedDict):
    """A network: one of both."""

    ipAddress: NotRequired[str]
    cidrBlock: NotRequired[str]


class RestoreTarget(TypedDict):
    """Whether restores may replace a cluster's data, and the account that would do so."""

    enabled: bool
    username: NotRequired[str]
    password: NotRequired[str]
    authSource: NotRequired[str]


class KeyRequest(TypedDict):
    """A key to make."""

    description: NotRequired[str]
    expires: NotRequired[Date]
    grants: list[GrantRequest]
    accessList: NotRequired[list[NetworkRequest]]


class KeyChange(TypedDict):
    """What is not sent stays."""

    description: NotRequired[str]
    grants: NotRequired[list[GrantRequest]]


class ServiceAccountRequest(TypedDict):
    """A service account to make, with its first secret."""

    name: str
    description: NotRequired[str]
    grants: list[GrantRequest]
    accessList: NotRequired[list[NetworkRequest]]
    secretExpiresAfterHours: NotRequired[SecretHours]


class ServiceAccountChange(TypedDict):
    """What is not sent stays."""

    name: NotRequired[str]
    description: NotRequired[str]
    grants: NotRequired[list[GrantRequest]]


class SecretRequest(TypedDict):
    """Another secret."""

    secretExpiresAfterHours: NotRequired[SecretHours]
