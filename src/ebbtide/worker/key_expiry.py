"""Telling of API keys that end: once before, and once when it has happened.

Enforcing it is the API's, for every call. Crash: a key that was told of and not noted is told of once more.
"""

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.access import ApiKey, shared_group
from ebbtide.domain.event import EventLevel
from ebbtide.domain.expiry import WARN_BEFORE_MAX, ExpiryStage, find_stage
from ebbtide.events import record_event


def tell_key_expiry(catalog: Catalog, clock: Clock) -> None:
    """Record an event for each key that ends soon, or did, and that nobody was told of yet."""
    now = clock.now()
    for key in catalog.api_keys.list_ending(now + WARN_BEFORE_MAX):
        stage = find_stage(created=key.created, expires=key.expires, now=now)
        if stage is not None and stage is not key.expiry_told:
            _tell(catalog, clock, key, stage)
            catalog.api_keys.note_expiry_told(key.id, stage)


def _tell(catalog: Catalog, clock: Clock, key: ApiKey, stage: ExpiryStage) -> None:
    named = f"API key {key.public_key}" + (f" ({key.description})" if key.description else "")
    end = "" if key.expires is None else key.expires.isoformat(timespec="seconds")
    if stage is ExpiryStage.SOON:
        wanted = f"{named} ends at {end}: make another one and put it in its place"
        _record(catalog, clock, key, "key.ends_soon", wanted)
    else:
        _record(catalog, clock, key, "key.ended", f"{named} ended at {end} and is refused")


def _record(catalog: Catalog, clock: Clock, key: ApiKey, kind: str, message: str) -> None:
    record_event(
        catalog,
        clock,
        level=EventLevel.WARNING,
        kind=kind,
        message=message,
        group_id=shared_group(key.grants),
        subject_id=key.id,
    )
