"""Recording events: in the catalog for people who ask the API, and in the log for people who watch."""

import structlog

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.event import Event, EventLevel
from ebbtide.domain.ids import ClusterId, GroupId, new_id
from ebbtide.errors import EbbtideError
from ebbtide.logs import redact

_log = structlog.get_logger()


def record_event(
    catalog: Catalog,
    clock: Clock,
    *,
    level: EventLevel,
    kind: str,
    message: str,
    group_id: GroupId | None = None,
    cluster_id: ClusterId | None = None,
    subject_id: str | None = None,
    actor: str | None = None,
) -> None:
    """Say what happened. A catalog that does not answer costs the entry, never the work that it tells of."""
    message = redact(message)
    fields = {"cluster_id": cluster_id, "subject_id": subject_id, "actor": actor}
    log = {EventLevel.INFO: _log.info, EventLevel.WARNING: _log.warning, EventLevel.ERROR: _log.error}[level]
    log(kind, message=message, **{name: value for name, value in fields.items() if value is not None})
    try:
        catalog.events.insert(
            Event(
                id=new_id(),
                time=clock.now(),
                level=level,
                kind=kind,
                message=message,
                group_id=group_id,
                cluster_id=cluster_id,
                subject_id=subject_id,
                actor=actor,
            )
        )
    except EbbtideError as error:
        _log.warning("event.not_recorded", kind=kind, message=str(error))
