"""Wire names of what happens by itself: schedules, and runs of prune. As `wire`, of which it is a part."""

from ebbtide.api.families import Family
from ebbtide.api.wire import Addresses, Document, iso_date, self_links
from ebbtide.domain.prune_run import PruneReport, PruneRun
from ebbtide.domain.schedule import SnapshotSchedule


def schedule_document(
    schedule: SnapshotSchedule, *, cluster_name: str, is_sharded: bool = False, addresses: Addresses
) -> Document:
    """Contract section 9: the reference time in all families but Atlas, the day of the full read in one; the interval
    of checkpoints of sharded clusters alone."""
    document: Document = {
        "clusterId": schedule.id,
        "groupId": schedule.group_id,
        "snapshotIntervalHours": schedule.interval_hours,
        "snapshotRetentionDays": schedule.retention_days,
        "dailySnapshotRetentionDays": schedule.daily_retention_days,
        "weeklySnapshotRetentionWeeks": schedule.weekly_retention_weeks,
        "monthlySnapshotRetentionMonths": schedule.monthly_retention_months,
        "pointInTimeWindowHours": schedule.point_in_time_window_hours,
    }
    if is_sharded:
        document["clusterCheckpointIntervalMin"] = schedule.checkpoint_interval_minutes
    if addresses.family in (Family.CLOUD, Family.OWN):
        document["referenceHourOfDay"] = schedule.reference_hour
        document["referenceMinuteOfHour"] = schedule.reference_minute
        document["referenceTimeZoneOffset"] = schedule.reference_offset
    if addresses.family is Family.CLOUD:
        document["fullIncrementalDayOfWeek"] = schedule.full_incremental_day
    place = addresses.cluster(schedule.group_id, schedule.id, cluster_name)
    if addresses.family is Family.CLOUD:
        place = addresses.backup_config(schedule.group_id, schedule.id)
    document["links"] = self_links(f"{place}/snapshotSchedule")
    return document


def prune_document(run: PruneRun, *, addresses: Addresses) -> Document:
    """A run of prune and what it did, or in a dry run would do, in each replica set."""
    document: Document = {
        "id": run.id,
        "dryRun": run.dry_run,
        "state": run.state.value,
        "requested": iso_date(run.requested),
        "requestedBy": run.requested_by,
        "removedBytes": sum(report.removed_bytes for report in run.reports),
        "waitingBytes": sum(report.waiting_bytes for report in run.reports),
        "liveBytes": sum(report.live_bytes for report in run.reports),
        "replicaSets": [_report_document(report) for report in run.reports],
        "links": self_links(f"{addresses.ebbtide}/repository/prune/{run.id}"),
    }
    for name, moment in (("started", run.started), ("ended", run.ended)):
        if moment is not None:
            document[name] = iso_date(moment)
    return {**document, "error": run.error} if run.error else document


def _report_document(report: PruneReport) -> Document:
    document: Document = {
        "clusterId": report.cluster_id,
        "replicaSetName": report.replica_set_name,
        "snapshots": report.snapshots,
        "removed": {
            "snapshots": report.removed_manifests,
            "recipes": report.removed_recipes,
            "packs": report.removed_packs,
            "bytes": report.removed_bytes,
        },
        "movedPacks": report.moved_packs,
        "waiting": {"objects": report.waiting_objects, "bytes": report.waiting_bytes},
        "live": {"objects": report.live_objects, "bytes": report.live_bytes},
        "interrupted": report.interrupted,
    }
    return {**document, "problem": report.problem} if report.problem else document
