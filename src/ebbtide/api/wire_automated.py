"""The wire names of automated restores in Ebbtide's own API: what one has done to its target, and what one would do."""

from collections.abc import Sequence
from typing import Any

from ebbtide.api.wire import bson_timestamp, iso_date
from ebbtide.domain.automated_restore import (
    AutomatedRestore,
    CollectionProgress,
    Comparison,
    RestoreScope,
    TargetState,
    tell_target,
)
from ebbtide.restore.automated_request import AutomatedRequest
from ebbtide.restore.load.plan import Removal

Document = dict[str, Any]


def automated_document(record: AutomatedRestore) -> Document:
    """What a restore job does to its target. `collections` are those of the source that are being put in place."""
    return _present(
        targetGroupId=record.target_group_id,
        targetClusterId=record.target_cluster_id,
        targetClusterName=record.target_name,
        **_scope(record.scope),
        compares=record.compares,
        withUsersAndRoles=record.with_users_and_roles,
        undoes=record.undoes,
        targetState=record.target_state.value,
        targetSays=tell_target(record),
        writeBlock=record.write_block.value,
        undoPoint=None if record.undo_point is None else bson_timestamp(record.undo_point),
        undoUntil=None if record.undo_until is None else iso_date(record.undo_until),
        canBeUndone=record.undo_point is not None and record.target_state is not TargetState.UNTOUCHED,
        foreignWrites=list(record.foreign_writes) or None,
        entriesApplied=record.entries_applied,
        replaySeconds=record.replay_seconds,
        collections=[_collection(found) for found in record.collections],
        collectionsTotal=record.collections_total,
        collectionsDone=record.collections_done,
        comparison=None if record.comparison is None else _comparison(record.comparison),
        seconds=record.seconds,
    )


def plan_document(
    request: AutomatedRequest, *, removed: Sequence[Removal], entries_to_replay: int, problems: Sequence[str]
) -> Document:
    """What a restore would do, were it begun now; nothing was changed."""
    stable = request.base.stable_timestamp
    return _present(
        dryRun=True,
        ok=not problems,
        problems=list(problems),
        snapshotId=request.base.id,
        snapshotTimestamp=None if stable is None else bson_timestamp(stable),
        snapshotCreated=iso_date(request.base.created),
        pointInTime=request.limit is not None,
        limit=None if request.limit is None else bson_timestamp(request.limit),
        entriesToReplay=entries_to_replay,
        targetGroupId=request.target.group_id,
        targetClusterId=request.target.id,
        targetClusterName=request.target.name,
        **_scope(request.scope),
        withUndo=request.wants_undo,
        removed=[
            {"namespace": gone.namespace, "documents": gone.documents, "sizeBytes": gone.size_bytes}
            for gone in removed
        ],
        removedBytes=sum(gone.size_bytes for gone in removed),
    )


def _scope(scope: RestoreScope) -> Document:
    return {
        "everything": scope.is_everything,
        "namespaces": list(scope.namespaces) or None,
        "renameTo": scope.rename_to,
    }


def _collection(found: CollectionProgress) -> Document:
    return {
        "namespace": found.namespace,
        "documents": found.documents,
        "documentsTotal": found.documents_total,
        "bytes": found.size_bytes,
        "bytesTotal": found.size_bytes_total,
        "done": found.is_done,
    }


def _comparison(found: Comparison) -> Document:
    return {
        "collections": found.collections,
        "documents": found.documents,
        "digestsCompared": found.digested,
        "digestSkipped": found.is_digest_skipped,
        "differences": list(found.differences),
    }


def _present(**values: Any) -> Document:
    return {name: value for name, value in values.items() if value is not None}
