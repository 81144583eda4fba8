"""What a restore into a running cluster would do, were it begun now. Read-only: nothing is recorded, nothing changed."""

from dataclasses import dataclass

from ebbtide.domain.automated_restore import SourceFacts, judge_target
from ebbtide.domain.cluster import ClusterKind
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.oplog.archive import OplogArchive
from ebbtide.repository.repository import Repository
from ebbtide.restore.automated_request import AutomatedRequest, BatchPart
from ebbtide.restore.load.inventory import read_inventory
from ebbtide.restore.load.plan import Removal, plan_removals
from ebbtide.restore.preflight import gather_facts, look_at_sharded_target
from ebbtide.restore.target_access import TargetAccess
from ebbtide.sealing import ServiceKey


@dataclass(frozen=True, kw_only=True)
class Preview:
    """`problems` are reasons why it would not begin, as far as they show without the source's data being built."""

    removed: tuple[Removal, ...]
    entries_to_replay: int
    problems: tuple[str, ...]


def preview_restore(request: AutomatedRequest, *, service_key: ServiceKey, repository: Repository) -> Preview:
    """Ask target and repository. Raises what they answer."""
    source = SourceFacts(fcv=request.base.fcv, data_bytes=_data_bytes(request))
    access = TargetAccess(cluster=request.target, service_key=service_key)
    if request.target.kind is ClusterKind.SHARDED:
        with access.parts() as clients:
            removed, problems = look_at_sharded_target(clients, request.target, source)
    else:
        with access.writer() as client:
            removed = plan_removals(read_inventory(client), request.scope)
            problems = judge_target(gather_facts(client, request.target, removed), source)
    return Preview(
        removed=removed,
        entries_to_replay=sum(
            _entries_to_replay(part, request.limit, repository) for part in (request.leader, *request.shards)
        ),
        problems=problems,
    )


def _data_bytes(request: AutomatedRequest) -> int:
    """An estimate: a part of the data is not known before it was built."""
    if not request.scope.is_everything:
        return 0
    return sum(part.base.data_size_bytes for part in (request.leader, *request.shards))


def _entries_to_replay(part: BatchPart, limit: OplogTimestamp | None, repository: Repository) -> int:
    """An estimate, by the names of the slices in the archive: nothing is read for it."""
    stable = part.base.stable_timestamp
    if limit is None or stable is None:
        return 0
    archive = OplogArchive(repository.replica_set(part.cluster.id, part.base.replica_set_name))
    return sum(
        found.entry_count
        for found in archive.slices()
        if found.last.timestamp > stable and found.first.timestamp <= limit
    )
