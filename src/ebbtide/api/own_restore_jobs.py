"""Ebbtide's own API: a restore job with its progress and transfers, and cancelling it.

Links and keys are in the Atlas family's document only.
"""

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document, effective_state, own_restore_job_document
from ebbtide.domain.ids import RestoreJobId, is_id
from ebbtide.domain.job import JobKind, job_id
from ebbtide.domain.restore_job import RestoreEvent, RestoreJob, apply_event
from ebbtide.restore.requesting import cancel_restore_job


def get_restore_job(call: Call) -> Answer:
    return Answer(document=_document(call, _find_job(call)))


def cancel(call: Call) -> Answer:
    """End a job that has not ended, and kill its link."""
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    job = _find_job(call)
    cancelled = None
    if apply_event(effective_state(job, now=call.now), RestoreEvent.CANCELLED) is not None:
        cancelled = cancel_restore_job(
            job, catalog=call.context.catalog, clock=call.context.clock, actor=call.actor
        )
    if cancelled is None:
        raise refusal("RESTORE_JOB_ENDED", job.id)
    return Answer(document=_document(call, cancelled))


def _find_job(call: Call) -> RestoreJob:
    text = call.path_values["jobId"]
    if not is_id(text):
        raise refusal("INVALID_JOB_ID", text)
    job = call.context.catalog.restore_jobs.find(RestoreJobId(text))
    if job is None or job.group_id != call.group.id:
        raise refusal("RESTORE_JOB_NOT_FOUND_IN_GROUP", text, call.group.id)
    return job


def _document(call: Call, job: RestoreJob) -> Document:
    catalog = call.context.catalog
    return own_restore_job_document(
        job,
        now=call.now,
        work=catalog.jobs.find(job_id(JobKind.RESTORE, job.id)),
        transfers=catalog.transfers.list_for_job(job.id),
        addresses=call.addresses,
    )


_PATH = "/api/ebbtide/v1/groups/{groupId}/restoreJobs/{jobId}"

OPERATIONS = (
    Operation(name="getOwnRestoreJob", method="GET", path=_PATH, handler=get_restore_job, scope=Scope.GROUP),
    Operation(
        name="cancelRestoreJob",
        method="POST",
        path=f"{_PATH}/cancel",
        handler=cancel,
        scope=Scope.GROUP,
        need=Need.WRITE,
        needs_listed_address=True,
    ),
)
