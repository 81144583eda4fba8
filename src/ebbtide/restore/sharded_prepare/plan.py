"""Which directory is which part, and whether these directories can become one cluster. Pure: by restoreInfo.txt alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.sharding import check_versions
from ebbtide.errors import Refused
from ebbtide.restore.archive_directory import ArchiveInfo, DirectorySight, find_problems
from ebbtide.restore.sharded_prepare.targets import PartTarget

Problem = tuple[str, str]
"""What is wrong, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """One part whose files are here, and where it will be."""

    directory: Path
    info: ArchiveInfo
    target: PartTarget

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def is_config_server(self) -> bool:
        return self.target.is_config_server

    @property
    def replica_set_name(self) -> str:
        return self.target.replica_set_name or self.info.replica_set_name

    @property
    def host(self) -> str:
        """Of the member that begins with the files."""
        return self.target.hosts[0]


@dataclass(frozen=True, kw_only=True)
class ShardedPlan:
    """The parts that are here, the config server first; `targets` has every part's, `elsewhere` are the others' names.

    `moment` is the cluster time that all parts were cut at.
    """

    sharded_cluster: str
    moment: OplogTimestamp
    parts: tuple[PartPlan, ...]
    targets: Mapping[str, PartTarget]
    elsewhere: tuple[str, ...]


def is_part(sight: DirectorySight) -> bool:
    """Whether a directory says that it is a part of a sharded cluster."""
    return sight.info is not None and bool(sight.info.part)


def plan_sharded_prepare(
    sights: Sequence[DirectorySight], targets: Mapping[str, PartTarget], *, others_elsewhere: bool
) -> ShardedPlan:
    """The plan. Raises Refused with every problem together, and for server versions on which it was not tried.

    With `others_elsewhere` parts without a directory are prepared on other machines; else each target needs one.
    """
    problems = [(f"{sight.directory}: {what}", fix) for sight in sights for what, fix in find_problems(sight)]
    infos = [(sight, sight.info) for sight in sights if sight.info is not None]
    problems += [problem for sight, info in infos for problem in _part_problems(sight, info, targets)]
    problems += _sameness_problems([info for _, info in infos if info.part])
    here = {info.part for _, info in infos}
    elsewhere = tuple(name for name in targets if name not in here)
    if elsewhere and not others_elsewhere and not any(sight.info is None for sight in sights):
        problems.append(
            (
                f"no directory is of {', '.join(elsewhere)}",
                "name the directory of every part; or, where the others are prepared on other machines, run the "
                "same command there with their directories, each with --others-elsewhere",
            )
        )
    limits = [info.limit for _, info in infos if info.limit is not None]
    if not problems:
        # Where the servers keep whom they talk to differs between versions.
        check_versions({info.part: info.mongod_version for _, info in infos})
    if problems or not limits:
        raise refusal(problems)
    parts = [
        PartPlan(directory=sight.directory, info=info, target=targets[info.part]) for sight, info in infos
    ]
    return ShardedPlan(
        sharded_cluster=infos[0][1].sharded_cluster,
        moment=limits[0],
        parts=tuple(sorted(parts, key=lambda part: (not part.is_config_server, part.name))),
        targets=targets,
        elsewhere=elsewhere,
    )


def refusal(problems: Sequence[Problem]) -> Refused:
    """One error about all of them."""
    what = "; ".join(what for what, _ in problems)
    fixes = dict.fromkeys(fix for _, fix in problems if fix)
    return Refused(f"the parts cannot be prepared: {what}", hint="; ".join(fixes))


def _part_problems(
    sight: DirectorySight, info: ArchiveInfo, targets: Mapping[str, PartTarget]
) -> list[Problem]:
    if not info.part:
        return [
            (
                f"{sight.directory} is no part of a sharded cluster",
                "a whole replica set is prepared with --replset and --host",
            )
        ]
    problems = []
    if info.part not in targets:
        fix = f"add --part {info.part}=HOST:PORT"
        problems.append((f"{sight.directory} is of {info.part}, and it is not said where that will be", fix))
    if info.limit is None:
        problems.append(
            (
                f"{sight.directory} is a snapshot of {info.part} alone, cut at no common time with other parts",
                "restore the sharded cluster, not one of its parts: that cuts all of them at one moment",
            )
        )
    return problems


def _sameness_problems(infos: Sequence[ArchiveInfo]) -> list[Problem]:
    """What shows that these are not the parts of one restore."""
    problems: list[Problem] = []
    names = [info.part for info in infos]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append((f"two directories are of {name}", "name one of each part"))
    clusters = sorted({info.sharded_cluster for info in infos})
    if len(clusters) > 1:
        problems.append((f"they are of different clusters: {', '.join(clusters)}", ""))
    elif len({info.batch for info in infos}) > 1:
        batches = ", ".join(f"{info.part} of {info.batch or 'none'}" for info in infos)
        problems.append((f"they are of different batches: {batches}", "use the archives of one batch"))
    limits = {info.part: info.limit for info in infos if info.limit is not None}
    if len(set(limits.values())) > 1:
        moments = ", ".join(f"{name} at {limit}" for name, limit in limits.items())
        problems.append(
            (
                f"they were cut at different moments: {moments}",
                "use the archives of one restore of the cluster",
            )
        )
    return problems
