"""Looking whether the repository has space for more, before it is full.

A snapshot under way stops as soon as less is free than must stay so: its head is unlocked at once, and its job waits.
The worker claims no snapshot until there is a tenth more than that (`worker.watcher`).
"""

from ebbtide.clock import Clock
from ebbtide.domain.bounds import Space, is_space_low, least_free_bytes, low_space_reason
from ebbtide.jobs.runner import JobPaused
from ebbtide.settings import Settings
from ebbtide.storage.protocol import Storage

LOOK_SECONDS = 0.5


def see_space(storage: Storage) -> Space | None:
    """What the storage has; None where it cannot tell. Raises StorageError."""
    free_bytes = storage.free_bytes()
    if free_bytes is None:
        return None
    return Space(free_bytes=free_bytes, total_bytes=storage.total_bytes())


def least_bytes(space: Space, settings: Settings) -> int:
    """What must stay free there."""
    return least_free_bytes(space, setting=settings["repository.min_free_bytes"])


class SpaceGuard:
    """For one snapshot. `check` may be called often and from many threads; it looks twice a second at most."""

    def __init__(self, storage: Storage, *, settings: Settings, clock: Clock) -> None:
        self._storage = storage
        self._settings = settings
        self._clock = clock
        self._looked_at = float("-inf")

    def check(self) -> None:
        """Raise JobPaused once too little is free."""
        now = self._clock.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self.check_now()

    def check_now(self) -> None:
        """As `check`, and looks at once."""
        space = see_space(self._storage)
        if space is None:
            return
        least = least_bytes(space, self._settings)
        if is_space_low(space, least_bytes=least, was_low=False):
            raise JobPaused(low_space_reason(space, least_bytes=least))
