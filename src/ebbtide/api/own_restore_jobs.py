"""Ebbtide's own API: a restore job with its progress and transfers, and cancelling it.

Links and keys are in the Atlas family's document only.
"""

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document, effective_state
from ebbtide.api.wire_automated import automated_document
from ebbtide.api.wire_own import own_restore_job_document
from ebbtide.domain.ids import RestoreJobId, is_id
from ebbtide.domain.job import JobKind, job_id
from ebbtide.domain.restore_job import DeliveryMethod, RestoreEvent, RestoreJob, apply_event
from ebbtide.restore.requesting import cancel_restore_job


def get_restore_job(call: Call) -> Answer:
    return Answer(document=_document(call, find_own_job(call)))


def cancel(call: Call) -> Answer:
    """End a job that has not ended, and kill its link."""
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    job = find_own_job(call)
    cancelled = None
    if apply_event(effective_state(job, now=call.now), RestoreEvent.CANCELLED) is not None:
        cancelled = cancel_restore_job(
            job, catalog=call.context.catalog, clock=call.context.clock, actor=call.actor
        )
    if cancelled is None:
        raise refusal("RESTORE_JOB_ENDED", job.id)
    return Answer(document=_document(call, cancelled))


def find_own_job(call: Call) -> RestoreJob:
    """The path's restore job, of the path's group."""
    text = call.path_values["jobId"]
    if not is_id(text):
        raise refusal("INVALID_JOB_ID", text)
    job = call.context.catalog.restore_jobs.find(RestoreJobId(text))
    if job is None or job.group_id != call.group.id:
        raise refusal("RESTORE_JOB_NOT_FOUND_IN_GROUP", text, call.group.id)
    return job


def own_restore_job_answer(call: Call, job: RestoreJob) -> Answer:
    """A restore job as Ebbtide's own API shows it."""
    return Answer(document=_document(call, job))


def _document(call: Call, job: RestoreJob) -> Document:
    catalog = call.context.catalog
    record = None
    if job.method is DeliveryMethod.AUTOMATED_RESTORE:
        record = catalog.automated_restores.find(job.id)
    return own_restore_job_document(
        job,
        now=call.now,
        work=catalog.jobs.find(job_id(JobKind.RESTORE, job.id)),
        transfers=catalog.transfers.list_for_job(job.id),
        automated=None if record is None else automated_document(record),
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
