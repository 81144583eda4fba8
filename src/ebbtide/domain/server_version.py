"""Which server versions are backed up, and which of the mongods at hand runs a set's head: pure rules.

A member may run any binary that knows the set's feature compatibility version (FCV). A binary knows the FCV of its
own major version and of the one before; so during an upgrade (binaries first, FCV last) both will do.
docs/versions.md publishes `SERVER_VERSIONS`, and a test compares the two.
"""

from collections.abc import Mapping
from enum import StrEnum

from ebbtide.domain.replica_set import major_version


class Support(StrEnum):
    """How sure we are that a server version is backed up and restored right."""

    TESTED = "tested"  # `make test-versions` (or `make test`) runs against it
    EXPECTED = "expected"  # nothing that we know of stands in the way, and nobody has run it
    REFUSED = "refused"  # registration says no


SERVER_VERSIONS: Mapping[str, Support] = {
    "4.2": Support.REFUSED,
    "4.4": Support.TESTED,
    "5.0": Support.TESTED,
    "6.0": Support.TESTED,
    "7.0": Support.EXPECTED,
    "8.0": Support.EXPECTED,
}
"""Each major version that was looked at. What is not here is refused: rapid releases, and what is newer than we are."""


def support_of(version: str) -> Support:
    """What a set that runs `version` ("6.0.5") can count on."""
    return SERVER_VERSIONS.get(major_version(version), Support.REFUSED)


def supported_versions() -> str:
    """ "4.4, 5.0, …": what is not refused, for people."""
    return ", ".join(v for v, support in SERVER_VERSIONS.items() if support is not Support.REFUSED)


def choose_binary(
    major: str, *, own: str | None, binaries: Mapping[str, str], default: str | None
) -> str | None:
    """The path of the mongod to try for major version `major`; None is the packaged one.

    `own` is the cluster's, and stands above all; `binaries` is the setting `mongod.binaries`, by major version;
    `default` the setting `mongod`. Whether it is of that version is for who runs it to see.
    """
    return own or binaries.get(major) or default


def head_versions(*, mongod_version: str, fcv: str) -> tuple[str, ...]:
    """The major versions that a set's head may run, the one to be preferred first.

    The set's own; and, while the FCV lags behind (an upgrade is under way, or one can still go back), the one that
    the FCV is named after, so that a head without the new binary goes on until the FCV is raised.
    """
    own = major_version(mongod_version)
    return (own,) if fcv in ("", own) else (own, fcv)


def runs_after_fcv(*, head_version: str, fcv: str) -> bool:
    """Whether a head of `head_version` knows the FCV; one that does not ends as soon as the FCV reaches it."""
    return _order(fcv) <= _order(major_version(head_version))


def _order(major: str) -> tuple[int, ...]:
    return tuple(int(part) for part in major.split(".") if part.isdigit())
