"""Snapshots on demand, in the words of Ops Manager (contract section 10): how long to keep it is said in the query."""

from datetime import timedelta

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call
from ebbtide.api.own_snapshots import ask_for_snapshot
from ebbtide.api.queries import parse_number
from ebbtide.api.responses import Answer
from ebbtide.api.wire_cloud import on_demand_document

RETENTION_DAYS = 15
RETENTION_DAYS_MAX = 100 * 366
"""A century: far beyond that, dates end."""


def create_on_demand(call: Call) -> Answer:
    """Ask for a snapshot that is kept for `retentionDays`; a worker takes it."""
    days = parse_number(call.query, "retentionDays", default=RETENTION_DAYS, highest=RETENTION_DAYS_MAX)
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)
    snapshot = ask_for_snapshot(call, expires=call.now + timedelta(days=days))
    return Answer(document=on_demand_document(snapshot))
