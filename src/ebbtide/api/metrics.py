"""`/metrics` in Prometheus' text format: what the catalog knows of heads, snapshots, repository and jobs, and what this
process has answered.

Everything but the counters of requests is read from the catalog when it is asked for, so one endpoint tells of all
workers, and several API processes tell the same.

Names of clusters are in it. It is open to the addresses of `metrics.allow` (loopback by default), but not through a
proxy on this machine, which would lend its own address to everybody; others need a key that owns the service.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from importlib.metadata import version

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from ebbtide.api.access import Gate
from ebbtide.api.context import ApiContext
from ebbtide.api.queries import Presentation
from ebbtide.api.refusals import Refusal, refusal
from ebbtide.api.responses import render_refusal
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.domain.access import is_global_owner
from ebbtide.domain.access_list import AccessEntry, Address, find_entry, parse_network, read_address
from ebbtide.domain.archive_state import ArchiveState, lag_at
from ebbtide.domain.cluster import Cluster, Head, HeadState
from ebbtide.domain.snapshot import Snapshot, SnapshotState
from ebbtide.errors import EbbtideError, InvalidInput, InvalidSetting
from ebbtide.settings import Settings

METRICS_PATH = "/metrics"
THREADS = 2
HEARTBEAT_MAX = timedelta(seconds=30)

_CLUSTER = ("group_id", "cluster_id", "cluster")
_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"})
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_PLAIN = Presentation(pretty=False, envelope=False)


class RequestCounts:
    """What this process has answered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "ebbtide_api_requests", "Requests answered.", ("method", "status"), registry=registry
        )
        self._bytes = Counter("ebbtide_api_response_bytes", "Bytes of bodies sent.", registry=registry)

    def count(self, *, method: str, status: int, sent_bytes: int) -> None:
        """One request. Methods that nobody knows count as one, so that a caller cannot make up labels."""
        self._requests.labels(method if method in _METHODS else "other", str(status)).inc()
        self._bytes.inc(sent_bytes)


class CatalogCollector(Collector):
    """Gauges from the catalog; a scrape that it does not answer fails as a whole."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Nothing: else registering would ask the catalog."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Raises the catalog's errors."""
        now = self._clock.now()
        yield gauge("ebbtide_build_info", "The version that answers.", {"version": version("ebbtide")}, 1)
        yield from self._collect_clusters(now)
        yield from self._collect_repository()
        jobs = GaugeMetricFamily("ebbtide_jobs", "Jobs by kind and state.", labels=("kind", "state"))
        for (kind, state), count in self._catalog.jobs.count_by_kind_and_state().items():
            jobs.add_metric((kind.value, state.value), count)
        yield jobs
        alive = sum(now - worker.heartbeat <= HEARTBEAT_MAX for worker in self._catalog.workers.list_all())
        yield gauge("ebbtide_workers", "Workers that have reported within 30 s.", {}, alive)

    def _collect_clusters(self, now: datetime) -> Iterator[Metric]:
        heads, archives, snapshots = _HeadGauges(), _ArchiveGauges(), _SnapshotGauges()
        for cluster in self._catalog.clusters.list_live():
            labels = (cluster.group_id, cluster.id, cluster.name)
            head = self._catalog.heads.find(cluster.id)
            if head is not None:
                heads.add(labels, head)
            archive = self._catalog.archives.find(cluster.id)
            if archive is not None:
                archives.add(labels, archive, now=now)
            last = self._catalog.snapshots.newest_complete(cluster.id)
            snapshots.add(labels, last, count=self._count(cluster), now=now)
        yield from heads.families
        yield from archives.families
        yield from snapshots.families

    def _count(self, cluster: Cluster) -> int:
        return self._catalog.snapshots.count(cluster.id, states=(SnapshotState.COMPLETE,))

    def _collect_repository(self) -> Iterator[Metric]:
        place = self._catalog.repository_space.find()
        if place is None:
            return
        yield gauge("ebbtide_repository_free_bytes", "Space left where it is.", {}, place.free_bytes)
        least = "Below so much free space snapshots wait."
        yield gauge("ebbtide_repository_least_free_bytes", least, {}, place.least_free_bytes)
        low = "1 while snapshots wait for space."
        yield gauge("ebbtide_repository_low_space", low, {}, int(place.is_low))
        if place.total_bytes is not None:
            yield gauge("ebbtide_repository_total_bytes", "Size of its filesystem.", {}, place.total_bytes)
        if place.used_bytes is not None:
            used = "What its objects take; counted every 15 minutes."
            yield gauge("ebbtide_repository_used_bytes", used, {}, place.used_bytes)


class _HeadGauges:
    def __init__(self) -> None:
        self._lag = GaugeMetricFamily(
            "ebbtide_head_lag_seconds", "How far it is behind its primary.", labels=_CLUSTER
        )
        self._state = GaugeMetricFamily(
            "ebbtide_head_state", "1 for the state that it is in.", labels=(*_CLUSTER, "state")
        )
        self._locked = GaugeMetricFamily(
            "ebbtide_head_locked", "1 while a snapshot has it locked.", labels=_CLUSTER
        )
        self.families = (self._lag, self._state, self._locked)

    def add(self, labels: tuple[str, ...], head: Head) -> None:
        # A lag that was measured before it went down, or could not be asked any more, says nothing now.
        if head.lag_seconds is not None and head.state is HeadState.FOLLOWING and not head.message:
            self._lag.add_metric(labels, head.lag_seconds)
        for state in HeadState:
            self._state.add_metric((*labels, state.value), int(state is head.state))
        self._locked.add_metric(labels, int(head.lock_job_id is not None))


class _ArchiveGauges:
    def __init__(self) -> None:
        self._lag = GaugeMetricFamily(
            "ebbtide_oplog_lag_seconds", "How far its oplog archive is behind.", labels=_CLUSTER
        )
        self._gaps = GaugeMetricFamily(
            "ebbtide_oplog_gaps", "Gaps in its oplog archive, until they are trimmed.", labels=_CLUSTER
        )
        self.families = (self._lag, self._gaps)

    def add(self, labels: tuple[str, ...], state: ArchiveState, *, now: datetime) -> None:
        lag = lag_at(state, now)
        if lag is not None:
            self._lag.add_metric(labels, lag)
        self._gaps.add_metric(labels, len(state.gaps))


class _SnapshotGauges:
    """Of the newest complete snapshot of each cluster; a cluster without one has only the count."""

    def __init__(self) -> None:
        def family(name: str, about: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"ebbtide_{name}", about, labels=_CLUSTER)

        self._count = family("snapshots", "Complete snapshots that can be restored.")
        self._age = family("last_snapshot_age_seconds", "Since the moment whose data the newest one holds.")
        self._duration = family("last_snapshot_duration_seconds", "From the request until it was complete.")
        self._lock = family("last_snapshot_lock_seconds", "How long its head was locked.")
        self._files = family("last_snapshot_file_bytes", "Bytes of its files.")
        self._stored = family("last_snapshot_stored_bytes", "Bytes that all of it takes, stored.")
        self._new = family("last_snapshot_new_stored_bytes", "Bytes that it added to the repository.")
        self.families = (
            self._count,
            self._age,
            self._duration,
            self._lock,
            self._files,
            self._stored,
            self._new,
        )

    def add(self, labels: tuple[str, ...], last: Snapshot | None, *, count: int, now: datetime) -> None:
        self._count.add_metric(labels, count)
        if last is None:
            return
        moment = last.stable_timestamp.date if last.stable_timestamp is not None else last.created
        self._age.add_metric(labels, max(0.0, (now - moment).total_seconds()))
        if last.completed is not None:
            self._duration.add_metric(labels, (last.completed - last.created).total_seconds())
        if last.lock_seconds is not None:
            self._lock.add_metric(labels, last.lock_seconds)
        self._files.add_metric(labels, last.file_size_bytes)
        self._stored.add_metric(labels, last.stored_bytes)
        self._new.add_metric(labels, last.new_stored_bytes)


def gauge(name: str, about: str, labels: dict[str, str], value: float) -> GaugeMetricFamily:
    """A gauge with one value."""
    family = GaugeMetricFamily(name, about, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


class Metrics:
    """The endpoint. `requests` is for whoever sees requests end."""

    def __init__(self, context: ApiContext, gate: Gate) -> None:
        self._gate = gate
        self._allowed = allowed_networks(context.settings, now=context.clock.now())
        self._registry = CollectorRegistry()
        self.requests = RequestCounts(self._registry)
        self._registry.register(CatalogCollector(context.catalog, context.clock))
        self._threads = anyio.CapacityLimiter(THREADS)

    async def show(self, request: Request) -> Response:
        try:
            content = await anyio.to_thread.run_sync(self._render, request, limiter=self._threads)
        except Refusal as refused:
            return render_refusal(refused, _PLAIN)
        except EbbtideError:
            return render_refusal(
                refusal("UNEXPECTED_ERROR", "The catalog does not answer; try again."), _PLAIN
            )
        headers = {"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"}
        return Response(content, headers=headers)

    def _render(self, request: Request) -> bytes:
        address = read_address(request.client.host if request.client else None)
        if not is_open_to(address, request.headers, self._allowed):
            self._require_owner(request, address)
        return generate_latest(self._registry)

    def _require_owner(self, request: Request, address: Address) -> None:
        query = request.scope["query_string"]
        target = request.scope["raw_path"] + (b"?" + query if query else b"")
        caller = self._gate.admit(
            authorization=request.headers.get("authorization"),
            method=request.method,
            target=target.decode("latin-1"),
            address=address,
            needs_listed_address=False,
        )
        if not is_global_owner(caller):
            raise refusal("USER_UNAUTHORIZED")


def allowed_networks(settings: Settings, *, now: datetime) -> tuple[AccessEntry, ...]:
    """The setting `metrics.allow`. Raises InvalidSetting."""
    try:
        return tuple(
            AccessEntry(cidr=parse_network(text, field="metrics.allow"), created=now)
            for text in settings["metrics.allow"]
        )
    except InvalidInput as error:
        raise InvalidSetting("metrics.allow", expected=error.expected, got=str(error)) from error


def is_open_to(address: Address, headers: Headers, allowed: tuple[AccessEntry, ...]) -> bool:
    """Whether that caller needs no key. Who comes through a proxy does, whatever address the proxy has."""
    if any(name in headers for name in _PROXY_HEADERS):
        return False
    return find_entry(address, allowed) is not None
