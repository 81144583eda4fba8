"""The audit log's part that no deed tells of: writes that were refused, by whom, from where, and with what code.

What succeeded is an event of its own, recorded by whatever did it. Strangers are not in here: they are not let near an
operation. Nothing of a body or of a query is recorded.
"""

from http import HTTPStatus

from ebbtide.api.operations import Call, Operation
from ebbtide.api.redaction import loggable_path
from ebbtide.api.refusals import Refusal
from ebbtide.domain.event import EventLevel
from ebbtide.events import record_event


def record_refusal(call: Call, operation: Operation, refused: Refusal) -> None:
    """Note that a write of a known caller was refused; reading is never noted."""
    if operation.only_reads or refused.status == HTTPStatus.TOO_MANY_REQUESTS:
        # Who calls too often would write as often.
        return
    path = loggable_path(call.path)
    record_event(
        call.context.catalog,
        call.context.clock,
        level=EventLevel.INFO,
        kind="api.refused",
        message=f"{operation.name} ({call.method} {path}) was refused: {refused.status} {refused.code or ''}".rstrip(),
        group_id=None if call.found_group is None else call.found_group.id,
        cluster_id=None if call.found_cluster is None else call.found_cluster.id,
        actor=call.actor,
    )
