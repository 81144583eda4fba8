"""Targets that a restore has let go of without tidying up: a worker was killed, a job was cancelled while it waited.

A target belongs to a restore while its record is active. Once the job is over and nobody works on it any more, what
still keeps writers off is taken away, and the claim given back. What cannot be done now (the target does not answer) is
done at a later look. Crash: the next look does it.
"""

from datetime import timedelta

import structlog

from ebbtide.backup.context import BackupContext
from ebbtide.domain.automated_restore import AutomatedRestore, WriteBlock
from ebbtide.domain.cluster import Cluster, ClusterKind
from ebbtide.domain.event import EventLevel
from ebbtide.domain.job import JobKind, JobState, job_id
from ebbtide.domain.restore_job import RestoreStatus
from ebbtide.errors import EbbtideError
from ebbtide.events import record_event
from ebbtide.restore.target_access import TargetAccess
from ebbtide.restore.write_block import unblock_writes

CLAIM_SECONDS = 60.0
"""A claim without a job is that old only if whoever asked died in between."""

_log = structlog.get_logger()


def settle_abandoned(context: BackupContext) -> None:
    """Do it for every restore that is over. Troubles are told, and met again at the next look."""
    try:
        over = [r for r in context.catalog.automated_restores.list_active() if is_over(context, r)]
    except EbbtideError as error:
        _log.warning("automated.not_settled", message=str(error))
        return
    for restore in over:
        try:
            let_go(context, restore)
        except EbbtideError as error:
            _log.warning("automated.not_settled", restore_job_id=restore.id, message=str(error))


def is_over(context: BackupContext, restore: AutomatedRestore) -> bool:
    """Whether nobody works on it, or will."""
    now = context.clock.now()
    job = context.catalog.restore_jobs.find(restore.id)
    if job is None:
        return now - restore.requested > timedelta(seconds=CLAIM_SECONDS)
    if job.status is RestoreStatus.IN_PROGRESS:
        return False
    work = context.catalog.jobs.find(job_id(JobKind.RESTORE, restore.id))
    is_worked_on = (
        work is not None
        and work.state is JobState.RUNNING
        and work.lease_until is not None
        and work.lease_until > now
    )
    return not is_worked_on


def let_go(context: BackupContext, restore: AutomatedRestore) -> None:
    """Let others write into the target, and restore into it. Raises what the target's set answers."""
    if restore.write_block is not WriteBlock.OFF:
        _unblock(context, restore)
    context.catalog.automated_restores.release(restore.id)


def _unblock(context: BackupContext, restore: AutomatedRestore) -> None:
    cluster = context.catalog.clusters.find(restore.target_cluster_id)
    is_reachable = cluster is not None and _has_writer(cluster)
    if cluster is None or not is_reachable:
        # Removed, or no target any more: there is nobody left to log in as.
        if restore.write_block is WriteBlock.SET:
            record_event(
                context.catalog,
                context.clock,
                level=EventLevel.ERROR,
                kind="restore.still_blocked",
                message=f"{restore.target_name} may still refuse writes, and Ebbtide has no account any more to end "
                "that; on its primary, or a router: db.adminCommand({setUserWriteBlockMode: 1, global: false})",
                group_id=restore.target_group_id,
                cluster_id=restore.target_cluster_id,
                subject_id=restore.id,
            )
        return
    access = TargetAccess(cluster=cluster, service_key=context.service_key)
    with access.writer() as client:
        is_sharded = cluster.kind is ClusterKind.SHARDED
        unblock_writes(client, restore, context.catalog, is_sharded=is_sharded)


def _has_writer(cluster: Cluster) -> bool:
    """Whether there is somebody left to log in as."""
    if cluster.kind is ClusterKind.SHARDED:
        return cluster.keyfile is not None
    return cluster.username is None or cluster.restore_password is not None
