"""Bounds that keep Ebbtide from hurting what is around it: rates in bytes per second, and space that stays free.

Rules only. Who waits, and who asks a filesystem, is elsewhere (`storage.throttled`, `worker.watcher`).
"""

from dataclasses import dataclass
from datetime import datetime

BURST_SECONDS = 0.5
"""So much of its rate a bucket holds: long enough to be smooth, short enough not to be felt."""

FREE_SHARE_MIN = 0.05
FREE_BYTES_MIN = 10 * 1024**3
RESUME_SHARE = 0.1
"""There must be a tenth more than the least before work goes on: else it would stop again at once."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A token bucket: `level` bytes may be spent at the moment `at` (seconds of any steady clock).

    A level below 0 is a debt: who made it waits until it is paid, so an amount larger than the bucket is no
    special case.
    """

    bytes_per_second: float
    level: float
    at: float

    @classmethod
    def full(cls, bytes_per_second: float, *, at: float) -> "Bucket":
        return cls(bytes_per_second=bytes_per_second, level=bytes_per_second * BURST_SECONDS, at=at)


def draw(bucket: Bucket, amount: int, *, at: float) -> tuple[Bucket, float]:
    """The bucket after `amount` bytes were taken at `at`, and the seconds to wait before they may be used."""
    burst = bucket.bytes_per_second * BURST_SECONDS
    filled = min(burst, bucket.level + max(0.0, at - bucket.at) * bucket.bytes_per_second)
    level = filled - amount
    left = Bucket(bytes_per_second=bucket.bytes_per_second, level=level, at=max(at, bucket.at))
    return left, max(0.0, -level / bucket.bytes_per_second)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a filesystem has, in bytes. `total_bytes` is None where it does not tell."""

    free_bytes: int
    total_bytes: int | None


def least_free_bytes(space: Space, *, setting: int | None) -> int:
    """What must stay free: `setting`, or the smaller of 5 % and 10 GiB. 0: nothing must."""
    if setting is not None:
        return setting
    if space.total_bytes is None:
        return FREE_BYTES_MIN
    return min(FREE_BYTES_MIN, int(space.total_bytes * FREE_SHARE_MIN))


def is_space_low(space: Space, *, least_bytes: int, was_low: bool) -> bool:
    """Whether too little is free. What was low stays so until there is a tenth more than the least."""
    if least_bytes == 0:
        return False
    wanted = least_bytes + int(least_bytes * RESUME_SHARE) if was_low else least_bytes
    return space.free_bytes < wanted


@dataclass(frozen=True, kw_only=True)
class RepositorySpace:
    """The repository's place as the workers last saw it; `id` is always REPOSITORY_SPACE_ID.

    `used_bytes` is what its objects take, None until they were counted once (at `used_counted`). While `is_low`
    snapshots wait; so it is since `since`.
    """

    id: str
    free_bytes: int
    total_bytes: int | None
    least_free_bytes: int
    is_low: bool
    since: datetime
    updated: datetime
    used_bytes: int | None = None
    used_counted: datetime | None = None


REPOSITORY_SPACE_ID = "repository"


def waiting_for_space(place: RepositorySpace | None) -> str:
    """Why snapshots wait now; empty where they do not."""
    if place is None or not place.is_low:
        return ""
    space = Space(free_bytes=place.free_bytes, total_bytes=place.total_bytes)
    return low_space_reason(space, least_bytes=place.least_free_bytes)


def low_space_reason(space: Space, *, least_bytes: int) -> str:
    """Why snapshots wait, for people."""
    return (
        f"no space is left to spare: the repository has {space.free_bytes / 1024**3:.2f} GiB free and {least_bytes / 1024**3:.2f} GiB must stay so "
        "(repository.min_free_bytes): snapshots wait and go on by themselves once there is space"
    )
