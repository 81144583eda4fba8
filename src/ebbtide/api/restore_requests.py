"""The body of POST restoreJobs: which restore was asked for, or every field that is wrong with it.

Pure: knows nothing of catalog or caller. Sources: contract sections 6.2, 12 and 13. Fields are judged in the order of
the contract's table, unknown ones last, and all of them are named. Families differ in one field: `delivery.expires` is
read-only in Atlas, and in Cloud and Ops Manager another way to say `expirationHours`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ebbtide.api.bodies import Fields, raise_violations
from ebbtide.api.families import Family
from ebbtide.api.restore_point_fields import POINT_FIELDS, parse_restore_point
from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId
from ebbtide.domain.restore_point import RestorePoint

EXPIRATION_HOURS_DEFAULT = 1
MAX_DOWNLOADS_DEFAULT = 1
EXPIRATION_HOURS_MAX = 100 * 366 * 24
"""A century: far beyond that, dates end."""

_METHODS = ("HTTP", "AUTOMATED_RESTORE")
_METHODS_KNOWN = (*_METHODS, "CLIENT_PIT_HTTP", "CLIENT_PIT_SCP", "QUERY", "SCP", "THIRD_PARTY_COPY")

_DELIVERY_READ_ONLY = ("statusName", "url", "urlV2", "authHeader", "authBearer", "authValue")
_DELIVERY_LINK = ("expirationHours", "maxDownloads", "expires")
_DELIVERY_TARGET = ("targetGroupId", "targetClusterId", "targetClusterName")
_DELIVERY_KNOWN = ("methodName", *_DELIVERY_LINK, *_DELIVERY_TARGET, *_DELIVERY_READ_ONLY)

_READ_ONLY = (
    "id",
    "groupId",
    "batchId",
    "clusterId",
    "clusterName",
    "created",
    "statusName",
    "pointInTime",
    "timestamp",
    "encryptionEnabled",
    "masterKeyUUID",
    "hashes",
    "links",
    "deploymentJobId",
)


@dataclass(frozen=True, kw_only=True)
class HttpRestore:
    """A download of one snapshot. `expires`, where it was asked for, takes the place of `expiration_hours`."""

    snapshot_id: SnapshotId
    expiration_hours: int
    max_downloads: int
    expires: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class AutomatedRestore:
    """A restore into a running cluster of `target_group_id`; well formed as far as the body tells.

    The target is named by id, by name or by both.
    """

    target_group_id: GroupId
    target_cluster_id: ClusterId | None
    target_cluster_name: str | None
    point: RestorePoint


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What a body says about the target."""

    group_id: GroupId
    cluster_id: ClusterId | None
    cluster_name: str | None


@dataclass(frozen=True, kw_only=True)
class _Link:
    """What a body says about the link; None: not sent."""

    hours: int | None = None
    downloads: int | None = None
    expires: datetime | None = None


def parse_restore_request(
    values: dict[str, Any], *, family: Family = Family.ATLAS, is_sharded: bool = False
) -> HttpRestore | AutomatedRestore:
    """The restore that a body asks for. Raises one refusal that names every bad field."""
    top = Fields(values)
    top.require("delivery")
    delivery = top.object("delivery")
    method = _parse_method(delivery) if top.has("delivery") and not top.violations else None
    link = _parse_link(delivery, method, family)
    target = _parse_target(delivery, method)
    snapshot_id, point = None, None
    if method == "AUTOMATED_RESTORE":
        point = parse_restore_point(top, is_sharded=is_sharded)
    else:
        snapshot_id = top.identifier("snapshotId")
    if method == "HTTP":
        _judge_http_point(top)
    delivery.refuse_read_only(_DELIVERY_READ_ONLY)
    delivery.refuse_unknown(_DELIVERY_KNOWN)
    top.refuse_read_only(_READ_ONLY)
    top.refuse_unknown(("delivery", *POINT_FIELDS, *_READ_ONLY))
    of_delivery = [v for v in top.violations if v.field == "delivery"]
    raise_violations(of_delivery, delivery.violations, [v for v in top.violations if v.field != "delivery"])
    if target is not None and point is not None:
        return AutomatedRestore(
            target_group_id=target.group_id,
            target_cluster_id=target.cluster_id,
            target_cluster_name=target.cluster_name,
            point=point,
        )
    return HttpRestore(
        snapshot_id=SnapshotId(snapshot_id or ""),
        expiration_hours=EXPIRATION_HOURS_DEFAULT if link.hours is None else link.hours,
        max_downloads=MAX_DOWNLOADS_DEFAULT if link.downloads is None else link.downloads,
        expires=link.expires,
    )


def _parse_method(delivery: Fields) -> str | None:
    delivery.require("methodName")
    method = delivery.text("methodName")
    if method is None or method in _METHODS:
        return method
    if method in _METHODS_KNOWN:
        delivery.blame("UNSUPPORTED_DELIVERY_METHOD", "methodName", method, "")
    else:
        delivery.blame("INVALID_ENUM_VALUE", "methodName", method, ", ".join(_METHODS))
    return None


def _parse_link(delivery: Fields, method: str | None, family: Family) -> _Link:
    if method == "AUTOMATED_RESTORE":
        for name in _DELIVERY_LINK:
            if delivery.has(name):
                delivery.blame("INVALID_ATTRIBUTE", name, "it goes with HTTP delivery only")
        return _Link()
    hours = delivery.positive("expirationHours")
    if hours is not None and hours > EXPIRATION_HOURS_MAX:
        delivery.blame("INVALID_ATTRIBUTE", "expirationHours", f"it must be at most {EXPIRATION_HOURS_MAX}")
    downloads = delivery.positive("maxDownloads")
    if family is not Family.CLOUD:
        delivery.refuse_read_only(("expires",))
        return _Link(hours=hours, downloads=downloads)
    expires = delivery.date("expires")
    if expires is not None and delivery.has("expirationHours"):
        delivery.blame("INVALID_ATTRIBUTE", "expires", "it and expirationHours exclude each other")
    return _Link(hours=hours, downloads=downloads, expires=expires)


def _parse_target(delivery: Fields, method: str | None) -> _Target | None:
    if method == "HTTP":
        for name in _DELIVERY_TARGET:
            if delivery.has(name):
                delivery.blame("INVALID_ATTRIBUTE", name, "it goes with AUTOMATED_RESTORE only")
        return None
    if method is None:
        return None
    delivery.require("targetGroupId")
    group_id = delivery.identifier("targetGroupId")
    cluster_id = delivery.identifier("targetClusterId")
    cluster_name = delivery.text("targetClusterName")
    if not delivery.has("targetClusterId") and not delivery.has("targetClusterName"):
        delivery.blame_missing_one_of(("targetClusterId", "targetClusterName"))
    return _Target(
        group_id=GroupId(group_id or ""),
        cluster_id=None if cluster_id is None else ClusterId(cluster_id),
        cluster_name=cluster_name,
    )


def _judge_http_point(top: Fields) -> None:
    others = [name for name in POINT_FIELDS[1:] if top.has(name)]
    for name in others:
        top.blame("INVALID_ATTRIBUTE", name, "HTTP delivery restores a snapshotId only")
    if not others:
        top.require("snapshotId")
