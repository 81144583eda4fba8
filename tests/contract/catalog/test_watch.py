"""What watching keeps: one record of the repository's space, one cursor of the webhook, events in order."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.watch import WebhookCursor
from ebbtide.domain.bounds import REPOSITORY_SPACE_ID, RepositorySpace
from ebbtide.domain.job import JobKind, JobState

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SEEN = RepositorySpace(
    id=REPOSITORY_SPACE_ID,
    free_bytes=100,
    total_bytes=1000,
    least_free_bytes=50,
    is_low=False,
    since=NOW,
    updated=NOW,
)


def test_one_observer_alone_sees_a_change(catalog: Catalog) -> None:
    assert catalog.repository_space.find() is None
    assert catalog.repository_space.observe(SEEN) is None
    low = replace(SEEN, free_bytes=10, is_low=True)
    first, second = catalog.repository_space.observe(low), catalog.repository_space.observe(low)
    assert first is not None
    assert second is not None
    assert (first.is_low, second.is_low) == (False, True)
    assert catalog.repository_space.find() == low


def test_what_was_counted_outlives_what_is_observed(catalog: Catalog) -> None:
    catalog.repository_space.record_used(7, now=NOW)
    assert catalog.repository_space.find() is None
    catalog.repository_space.observe(SEEN)
    catalog.repository_space.record_used(7, now=NOW)
    catalog.repository_space.observe(replace(SEEN, free_bytes=99))
    found = catalog.repository_space.find()
    assert found == replace(SEEN, free_bytes=99, used_bytes=7, used_counted=NOW)


def test_a_cursor_is_replaced(catalog: Catalog) -> None:
    assert catalog.webhook_cursors.find("w") is None
    for event_id in ("a", "b"):
        catalog.webhook_cursors.put(WebhookCursor(id="w", time=NOW, event_id=event_id))
    assert catalog.webhook_cursors.find("w") == WebhookCursor(id="w", time=NOW, event_id="b")


def test_events_after_a_place_come_oldest_first_with_the_id_as_tie_break(
    catalog: Catalog, make: SimpleNamespace
) -> None:
    def insert(event_id: str, seconds: int) -> None:
        catalog.events.insert(make.event(id=event_id, time=NOW + timedelta(seconds=seconds)))

    for event_id, seconds in (("d", 2), ("a", 0), ("c", 1), ("b", 1), ("e", 9)):
        insert(event_id, seconds)

    def after(event_id: str, seconds: int, **options: Any) -> list[str]:
        options = {"until": NOW + timedelta(seconds=5), "limit": 10, **options}
        found = catalog.events.list_after(NOW + timedelta(seconds=seconds), event_id, **options)
        return [event.id for event in found]

    assert after("", 0) == ["a", "b", "c", "d"]
    assert after("b", 1) == ["c", "d"]
    assert after("b", 1, limit=1) == ["c"]
    assert after("d", 2) == []


def test_jobs_that_wait_say_why_and_are_counted(catalog: Catalog, make: SimpleNamespace) -> None:
    waiting = make.job(id="SNAPSHOT:1", kind=JobKind.SNAPSHOT, state=JobState.QUEUED)
    running = make.job(id="SNAPSHOT:2", kind=JobKind.SNAPSHOT, state=JobState.RUNNING)
    other = make.job(id="RESTORE:1", kind=JobKind.RESTORE, state=JobState.QUEUED)
    for job in (waiting, running, other):
        catalog.jobs.enqueue(job)
    catalog.jobs.note_waiting(JobKind.SNAPSHOT, "no space")
    errors = [found.error for job in (waiting, running, other) if (found := catalog.jobs.find(job.id))]
    assert errors == ["no space", running.error, other.error]
    counts = catalog.jobs.count_by_kind_and_state()
    assert len(counts) == len(JobKind) * len(JobState)
    assert counts[JobKind.SNAPSHOT, JobState.QUEUED] == 1
    assert sum(counts.values()) == 3
