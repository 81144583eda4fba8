"""Whether a cluster is backed up, in the words of Cloud and Ops Manager, and which of them may be asked for. Pure.

Source: contract section 10: start from INACTIVE or STOPPED, stop from STARTED, terminate from STOPPED.
"""

from enum import StrEnum

from ebbtide.domain.cluster import Cluster, ClusterKind, ClusterState, Head


class BackupStatus(StrEnum):
    """A backup's `statusName`."""

    INACTIVE = "INACTIVE"  # terminated: no head; the last snapshot stays
    PROVISIONING = "PROVISIONING"  # its head has not joined yet
    STARTED = "STARTED"  # snapshots are taken
    STOPPED = "STOPPED"  # paused: the head follows, and no snapshot is begun
    TERMINATING = "TERMINATING"  # its head is leaving the set


class StatusChange(StrEnum):
    """What a wish for a status comes to."""

    NOTHING = "NOTHING"  # it is so already
    RESUME = "RESUME"
    REVIVE = "REVIVE"  # a new head for a cluster that was terminated
    PAUSE = "PAUSE"
    REMOVE = "REMOVE"


_CHANGES = {
    (BackupStatus.STOPPED, BackupStatus.STARTED): StatusChange.RESUME,
    (BackupStatus.INACTIVE, BackupStatus.STARTED): StatusChange.REVIVE,
    (BackupStatus.PROVISIONING, BackupStatus.STARTED): StatusChange.NOTHING,
    (BackupStatus.STARTED, BackupStatus.STOPPED): StatusChange.PAUSE,
    (BackupStatus.STOPPED, BackupStatus.TERMINATING): StatusChange.REMOVE,
}


def backup_status(cluster: Cluster, head: Head | None) -> BackupStatus:
    """The status that a cluster and its head add up to."""
    match cluster.state:
        case ClusterState.REMOVED:
            return BackupStatus.INACTIVE
        case ClusterState.REMOVING:
            return BackupStatus.TERMINATING
        case ClusterState.ACTIVE:
            if cluster.is_paused:
                return BackupStatus.STOPPED
            has_joined = head is not None and head.joined_once
            return BackupStatus.STARTED if has_joined else BackupStatus.PROVISIONING


def decide_change(now: BackupStatus, wanted: BackupStatus) -> StatusChange | None:
    """How to get from one status to another; None where the contract refuses it."""
    return StatusChange.NOTHING if now is wanted else _CHANGES.get((now, wanted))


def forgot_secrets(cluster: Cluster) -> bool:
    """Whether a terminated cluster cannot be reached any more without secrets that were forgotten with it."""
    if cluster.kind is ClusterKind.SHARDED or cluster.parent_id is not None:
        # Its balancer is asked with the keyfile, and its parts are registered together.
        return True
    return cluster.authorization or cluster.username is not None or cluster.tls_ca is not None
