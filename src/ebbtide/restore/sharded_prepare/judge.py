"""What is to be changed in each part, given what the files say; or why nothing is. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.restore.new_set import cut_point, is_new_set
from ebbtide.restore.sharded_prepare.plan import PartPlan, Problem, ShardedPlan, refusal
from ebbtide.restore.sharded_prepare.survey import PartSurvey

Surveys = Mapping[str, PartSurvey]


@dataclass(frozen=True, kw_only=True)
class PartChange:
    """What will be written into one part; nothing where it `was_prepared`.

    `cut` is where its oplog is to end, None to leave it whole; `term` is the newest in it. `addresses` are of all parts,
    as the servers write them.
    """

    plan: PartPlan
    was_prepared: bool
    cut: OplogTimestamp | None
    data_at: OplogTimestamp
    term: int
    addresses: Mapping[str, str]

    @property
    def shard_addresses(self) -> dict[str, str]:
        return {name: address for name, address in self.addresses.items() if name != CONFIG_PART}


def judge(plan: ShardedPlan, surveys: Surveys) -> tuple[PartChange, ...]:
    """The change of each part, in the plan's order.

    Raises Refused with every problem together, IntegrityError for files that are not at the timestamp that they say.
    """
    problems = [problem for part in plan.parts for problem in _identity_problems(part, surveys[part.name])]
    problems += _membership_problems(plan, surveys)
    if problems:
        raise refusal(problems)
    addresses = new_addresses(plan, surveys)
    changes = []
    for part in plan.parts:
        found = surveys[part.name]
        was_prepared = _is_prepared(part, found, addresses)
        has_lived = found.newest.timestamp > part.info.newest
        if has_lived and not was_prepared:
            problems.append(
                (
                    f"{part.directory} has lived on since it was extracted, as a part of another cluster",
                    "start that; for a new one, extract the archives again into other directories",
                )
            )
        elif found.unfinished and not has_lived:
            problems.append(
                (
                    f"{part.name} was cut in the middle of {', '.join(found.unfinished)}",
                    "restore the cluster to another moment",
                )
            )
        cut = None if has_lived else cut_point(found.recovery, part.info)
        changes.append(
            PartChange(
                plan=part,
                was_prepared=was_prepared,
                cut=cut,
                data_at=cut or found.newest.timestamp,
                term=found.newest.term,
                addresses=addresses,
            )
        )
    if problems:
        raise refusal(problems)
    return tuple(changes)


def new_addresses(plan: ShardedPlan, surveys: Surveys) -> dict[str, str]:
    """`set/host:port,…` of every part, by the part's name.

    A set keeps its name unless the target gives another. The name of a part that is elsewhere is known from the others.
    """
    old = {name: address for found in surveys.values() for name, address in found.shards.items()}
    old.update((CONFIG_PART, found.config_address) for found in surveys.values() if found.config_address)
    here = {part.name: part.replica_set_name for part in plan.parts}
    addresses = {}
    for name, target in plan.targets.items():
        set_name = here.get(name) or target.replica_set_name or old.get(name, "").partition("/")[0]
        # Members that are still to be added as well: no shard of 6.0 writes that down by itself, only a router does.
        addresses[name] = f"{set_name}/{','.join(target.hosts)}"
    return addresses


def remarks_about(plan: ShardedPlan, surveys: Surveys) -> tuple[str, ...]:
    """What a person should know, given what the files came with."""
    remarks = []
    for part in plan.parts:
        configuration = surveys[part.name].configuration or {}
        is_new = is_new_set(configuration, replica_set_name=part.replica_set_name, host=part.host)
        old_hosts = {member.get("host") for member in configuration.get("members", [])}
        if not is_new and old_hosts & set(part.target.hosts):
            remarks.append(
                f"{part.host} is the address of a member of the old {part.name}: make sure that it is gone for good"
            )
    config = surveys.get(CONFIG_PART)
    if config is not None:
        state = "off, as it was at that moment" if config.balancer_is_off else "on, and will move chunks"
        remarks.append(
            f"the balancer is {state} (sh.startBalancer() and sh.stopBalancer(), through a router)"
        )
    if plan.elsewhere:
        remarks.append(
            f"{', '.join(plan.elsewhere)}: to be prepared with the same --part options and of the same moment, "
            f"{plan.moment}"
        )
    return tuple(remarks)


def _identity_problems(part: PartPlan, found: PartSurvey) -> list[Problem]:
    """Where the files are not the part that restoreInfo.txt says."""
    is_config = found.shard_name is None and bool(found.shards)
    actual = CONFIG_PART if is_config else found.shard_name
    if actual == part.name:
        return []
    return [(f"{part.directory} says it is {part.name}, and its files are of {actual or 'no part'}", "")]


def _membership_problems(plan: ShardedPlan, surveys: Surveys) -> list[Problem]:
    """Where the parts are not those of one cluster, or not all of them."""
    problems: list[Problem] = []
    if len({found.cluster_id for found in surveys.values()}) > 1:
        problems.append(("they are parts of different clusters", "name the directories of one cluster"))
    config = surveys.get(CONFIG_PART)
    if config is None:
        return problems
    wanted = set(plan.targets) - {CONFIG_PART}
    missing, foreign = sorted(set(config.shards) - wanted), sorted(wanted - set(config.shards))
    if missing:
        fix = "add " + " ".join(f"--part {name}=HOST:PORT" for name in missing)
        problems.append((f"the cluster has {', '.join(missing)} too", fix))
    if foreign:
        problems.append((f"the cluster has no {', '.join(foreign)}", "leave that --part out"))
    return problems


def _is_prepared(part: PartPlan, found: PartSurvey, addresses: Mapping[str, str]) -> bool:
    """Whether the files are what preparing leads to, or what became of it."""
    if not is_new_set(found.configuration, replica_set_name=part.replica_set_name, host=part.host):
        return False
    wanted = {name: address for name, address in addresses.items() if name != CONFIG_PART}
    if part.is_config_server:
        return wanted.keys() == found.shards.keys() and all(
            _begins_at(found.shards[name], address) for name, address in wanted.items()
        )
    return found.config_address is not None and _begins_at(found.config_address, addresses[CONFIG_PART])


def _begins_at(found: str, wanted: str) -> bool:
    """Whether an address is of that set and has its first member. The servers add and remove others by themselves."""
    set_name, _, hosts = found.partition("/")
    wanted_set, _, wanted_hosts = wanted.partition("/")
    return set_name == wanted_set and wanted_hosts.split(",")[0] in hosts.split(",")
