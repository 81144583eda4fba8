"""The rules of `ebbtide doctor`: facts in, findings out. Pure.

A finding is one sentence about one thing, and, unless all is well, what fixes it. FAILED stands in the way of the
next snapshot or restore; WARNING will one day.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ebbtide.domain.cluster import HeadState
from ebbtide.domain.replica_set import major_version, missing_roles

GIB = 1024**3

FREE_BYTES_MIN = 1 * GIB
"""Below this a mongod, a head among them, may stop any moment: its journal alone takes a third of it."""

FREE_BYTES_WARN = 10 * GIB
FREE_SHARE_WARN = 0.05

SKEW_SECONDS_WARN = 2.0
SKEW_SECONDS_MAX = 60.0
"""Restore points are wall-clock times of the set's primary: a minute off, and people restore the wrong minute."""


class Verdict(StrEnum):
    """What a check came to."""

    OK = "OK"
    WARNING = "WARNING"  # it works, and will not always
    FAILED = "FAILED"  # it stands in the way now


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found. `subject` is `machine`, or a cluster's name; `fix` is empty if all is well."""

    subject: str
    name: str
    verdict: Verdict
    what: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class DiskFacts:
    """One directory's filesystem. `device` tells filesystems apart."""

    free_bytes: int
    total_bytes: int
    device: int


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """What this machine answered. A `…_problem` is empty if there is none; None facts could not be had."""

    data_directory: str
    data_problem: str = ""
    data_mode: int | None = None
    data_disk: DiskFacts | None = None
    repository: str = ""
    repository_problem: str = ""
    repository_disk: DiskFacts | None = None
    key_file: str = ""
    key_problem: str = ""
    key_fix: str = ""
    mongod_version: str = ""
    mongod_problem: str = ""
    mongod_fix: str = ""
    catalog_problem: str = ""
    is_serving: bool = False
    api: str = ""
    api_problem: str = ""
    api_fix: str = ""


@dataclass(frozen=True, kw_only=True)
class MemberFacts:
    """One member as seen from here. `skew_seconds` is its clock minus ours, uncertain by `uncertainty_seconds`.

    `head_problem` is None where the member reaches the head, "" where it was not asked.
    """

    host: str
    problem: str = ""
    version: str = ""
    skew_seconds: float | None = None
    uncertainty_seconds: float = 0.0
    is_voting: bool = True
    head_problem: str | None = ""


@dataclass(frozen=True, kw_only=True)
class ClusterFacts:
    """What one cluster and its head answered."""

    name: str
    username: str | None = None
    auth_source: str = "admin"
    key_problem: str = ""
    set_problem: str = ""
    privileges: Sequence[Mapping[str, Any]] | None = None
    members: tuple[MemberFacts, ...] = ()
    head_state: HeadState | None = None
    head_message: str = ""
    head_address: str = ""
    our_version: str = ""


# --- this machine -------------------------------------------------------------------------------------------------


def judge_machine(facts: MachineFacts) -> list[Finding]:
    """Every check of this machine, in the order in which a person would fix them."""
    findings = [_judge_data(facts)]
    if facts.data_disk is not None:
        findings.append(judge_disk("disk", facts.data_directory, facts.data_disk))
    findings += [
        _machine("service key", facts.key_problem, f"{facts.key_file} is private and whole", facts.key_fix),
        _machine("mongod", facts.mongod_problem, f"mongod {facts.mongod_version}", facts.mongod_fix),
    ]
    findings += _judge_repository(facts)
    findings += [_judge_catalog(facts), _judge_api(facts)]
    return findings


def judge_disk(name: str, directory: str, disk: DiskFacts) -> Finding:
    """Whether there is room where `directory` is."""
    free = f"{_gib(disk.free_bytes)} of {_gib(disk.total_bytes)} are free in {directory}"
    fix = "free space there, or move it to a larger disk"
    if disk.free_bytes < FREE_BYTES_MIN:
        return _finding("machine", name, Verdict.FAILED, free, fix)
    if disk.free_bytes < max(FREE_BYTES_WARN, FREE_SHARE_WARN * disk.total_bytes):
        return _finding("machine", name, Verdict.WARNING, free, fix)
    return _finding("machine", name, Verdict.OK, free)


def _judge_data(facts: MachineFacts) -> Finding:
    if facts.data_problem:
        fix = "give --data, the directory of `ebbtide serve`, and run this as the user that runs it"
        return _finding("machine", "data directory", Verdict.FAILED, facts.data_problem, fix)
    if facts.data_mode is not None and facts.data_mode & 0o077:
        what = f"{facts.data_directory} has mode {facts.data_mode:04o}: others may enter it"
        return _finding(
            "machine", "data directory", Verdict.FAILED, what, f"chmod 700 {facts.data_directory}"
        )
    return _finding("machine", "data directory", Verdict.OK, f"{facts.data_directory} is private")


def _judge_repository(facts: MachineFacts) -> list[Finding]:
    fix = "make it writable for this user and mount what is to be mounted there; see repository.path"
    findings = [_machine("repository", facts.repository_problem, f"{facts.repository} can be written", fix)]
    disk, data = facts.repository_disk, facts.data_disk
    if disk is None:
        return findings
    if data is None or disk.device != data.device:
        findings.append(judge_disk("repository's disk", facts.repository, disk))
    else:
        what = f"{facts.repository} is on the same filesystem as {facts.data_directory}"
        fix = (
            "put it on another machine's disk (repository.path): a backup beside its source is half a backup"
        )
        findings.append(_finding("machine", "repository's place", Verdict.WARNING, what, fix))
    return findings


def _judge_catalog(facts: MachineFacts) -> Finding:
    fix = (
        "look at the log of `ebbtide serve`"
        if facts.is_serving
        else "start `ebbtide serve`: it runs the catalog (systemctl start ebbtide)"
    )
    return _machine("catalog", facts.catalog_problem, "the catalog answers", fix)


def _judge_api(facts: MachineFacts) -> Finding:
    if facts.api_problem:
        # People look at an installation from an account that has no profile; nothing is wrong with it then.
        verdict = Verdict.FAILED if facts.api else Verdict.WARNING
        return _finding("machine", "profile and API", verdict, facts.api_problem, facts.api_fix)
    return _finding("machine", "profile and API", Verdict.OK, f"{facts.api} answers and accepts the key")


def _machine(name: str, problem: str, well: str, fix: str) -> Finding:
    if problem:
        return _finding("machine", name, Verdict.FAILED, problem, fix)
    return _finding("machine", name, Verdict.OK, well)


# --- a cluster ----------------------------------------------------------------------------------------------------


def judge_cluster(facts: ClusterFacts) -> list[Finding]:
    """Every check of one cluster whose facts are known."""
    name = facts.name
    if facts.key_problem:
        fix = "put back the right secret.key, or give them again: ebbtide clusters credentials NAME"
        return [_finding(name, "credentials", Verdict.FAILED, facts.key_problem, fix)]
    findings = [_judge_set(facts)]
    if facts.privileges is not None:
        findings.append(_judge_roles(facts, missing_roles(facts.privileges)))
    for member in facts.members:
        findings += _judge_member(facts, member)
    findings.append(_judge_head(facts))
    return findings


def _judge_set(facts: ClusterFacts) -> Finding:
    if facts.set_problem:
        fix = "is a majority of it up, does a firewall let this machine in, and is the password still right?"
        return _finding(facts.name, "reachable", Verdict.FAILED, facts.set_problem, fix)
    return _finding(facts.name, "reachable", Verdict.OK, "its primary answers")


def _judge_roles(facts: ClusterFacts, missing: Sequence[str]) -> Finding:
    if not missing:
        return _finding(facts.name, "roles", Verdict.OK, f"{facts.username} may do what a backup needs")
    grants = ", ".join(f'{{role: "{role}", db: "admin"}}' for role in missing)
    return _finding(
        facts.name,
        "roles",
        Verdict.FAILED,
        f"{facts.username} lacks the roles {', '.join(missing)}",
        f'db.getSiblingDB("{facts.auth_source}").grantRolesToUser("{facts.username}", [{grants}])',
    )


def _judge_member(facts: ClusterFacts, member: MemberFacts) -> list[Finding]:
    label = f"member {member.host}"
    if member.problem:
        # The set may well go on without it; a member without a vote is not even missed.
        verdict = Verdict.FAILED if member.is_voting else Verdict.WARNING
        fix = "start it, and let this machine reach it (name resolution, firewall)"
        return [_finding(facts.name, label, verdict, member.problem, fix)]
    return [
        _judge_version(facts, member, label),
        *_judge_clock(facts, member),
        *_judge_way_back(facts, member),
    ]


def _judge_version(facts: ClusterFacts, member: MemberFacts, label: str) -> Finding:
    ours, theirs = major_version(facts.our_version), major_version(member.version)
    if facts.our_version and ours != theirs:
        what = f"answers, and runs {member.version}; the head's mongod is {facts.our_version}"
        fix = f"set EBBTIDE_MONGOD_BINARIES={theirs}=PATH, or ebbtide clusters set {facts.name} --mongod PATH"
        return _finding(facts.name, label, Verdict.FAILED, what, fix)
    return _finding(facts.name, label, Verdict.OK, f"answers, and runs {member.version}")


def _judge_clock(facts: ClusterFacts, member: MemberFacts) -> list[Finding]:
    if member.skew_seconds is None:
        return []
    # What the question itself took is no skew.
    skew = max(0.0, abs(member.skew_seconds) - member.uncertainty_seconds)
    way = "ahead of" if member.skew_seconds > 0 else "behind"
    name = f"clock of {member.host}"
    if skew < SKEW_SECONDS_WARN:
        return [_finding(facts.name, name, Verdict.OK, "is this machine's")]
    verdict = Verdict.FAILED if skew > SKEW_SECONDS_MAX else Verdict.WARNING
    fix = "let both machines keep time by NTP (timedatectl set-ntp true)"
    return [_finding(facts.name, name, verdict, f"is {skew:.0f} s {way} this machine's", fix)]


def _judge_way_back(facts: ClusterFacts, member: MemberFacts) -> list[Finding]:
    name = f"{member.host} to head"
    if member.head_problem == "" or not facts.head_address:
        return []
    if member.head_problem is None:
        return [_finding(facts.name, name, Verdict.OK, f"reaches {facts.head_address}")]
    verdict = Verdict.FAILED if member.is_voting else Verdict.WARNING
    fix = f"let {member.host} resolve and reach {facts.head_address} (firewall, head.host)"
    return [_finding(facts.name, name, verdict, member.head_problem, fix)]


_ON_ITS_WAY = {
    HeadState.PROVISIONING,
    HeadState.JOINING,
    HeadState.SYNCING,
    HeadState.TOO_STALE,
    HeadState.RESEEDING,
}


def _judge_head(facts: ClusterFacts) -> Finding:
    state = facts.head_state
    if state is HeadState.FOLLOWING:
        return _finding(facts.name, "head", Verdict.OK, f"{facts.head_address} follows the set")
    what = f"its head is {state.value}" if state else "it has no head yet"
    if facts.head_message:
        what += f": {facts.head_message}"
    if state is None or state in _ON_ITS_WAY:
        fix = f"wait for it: ebbtide clusters watch {facts.name}"
        return _finding(facts.name, "head", Verdict.WARNING, what, fix)
    fix = f"see ebbtide clusters show {facts.name}, and heads/ below the data directory for its log"
    return _finding(facts.name, "head", Verdict.FAILED, what, fix)


def _finding(subject: str, name: str, verdict: Verdict, what: str, fix: str = "") -> Finding:
    return Finding(subject=subject, name=name, verdict=verdict, what=what, fix=fix)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB"
