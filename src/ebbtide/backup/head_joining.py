"""Being a member: a head joins its set once, proves that every voter reaches it, and is put back if somebody drops it.

Crash: the set's configuration is the truth. A head that it lists already is not added twice, so every step here can be
run again.
"""

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.backup.head_handle import HeadHandle
from ebbtide.backup.head_leaving import take_out
from ebbtide.crash_points import reach
from ebbtide.domain.cluster import Cluster, Head, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.replica_set import (
    find_in_status,
    find_member,
    hosts_without_our_user,
    join_host_port,
    plan_add_head,
    voting_hosts,
)
from ebbtide.errors import EbbtideError, HeadUnavailable, MongodDied
from ebbtide.mongod import deployment

LISTED_CHECK_SECONDS = 30.0
LISTED_CHECK_AGAIN_SECONDS = 2.0
"""While the head is no secondary: that may be because it was taken out."""
REACHED_CHECK_SECONDS = 0.3


class HeadJoining:
    """The membership of one head."""

    def __init__(self, handle: HeadHandle) -> None:
        self._handle = handle
        self._clock = handle.clock
        self._listed: bool | None = None
        self._listed_at = float("-inf")

    def look_whether_listed(self, head: Head, access: ClusterAccess, *, follows: bool) -> None:
        """Ask the set whether it lists the head, unless that was asked just now."""
        after_seconds = LISTED_CHECK_SECONDS if follows else LISTED_CHECK_AGAIN_SECONDS
        if self._clock.monotonic() - self._listed_at > after_seconds:
            self._listed = self._ask_listed(head, access)
            self._listed_at = self._clock.monotonic()

    @property
    def is_listed(self) -> bool | None:
        """Whether the set listed the head when it was last asked; None where it did not answer."""
        return self._listed

    def join(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        """Add the head to its set; it is taken out again, and FAILED, where a voter cannot reach it."""
        self._handle.set_state(HeadState.JOINING, "the set is being asked to take the head")
        total_bytes = deployment.data_bytes(self._handle.set_client(access))
        self._add(head, access)
        reach("head.joined")
        problems = self._find_unreached(head, access)
        if problems:
            take_out(self._handle, head, access)
            self._fail(cluster, problems)
            return
        self._handle.set_state(
            HeadState.SYNCING,
            "initial sync copies the data",
            joined_once=True,
            member_id=self._find_member_id(head, access),
            sync_started=self._clock.now(),
            sync_done_bytes=0,
            sync_total_bytes=total_bytes,
        )
        address = join_host_port(head.host, head.port)
        message = f"the head of {cluster.name} is a hidden member of the set: {address}"
        self._handle.event(cluster, EventLevel.INFO, "head.joined", message)

    def rejoin(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        """Put back a head that somebody else took out.

        Crash: the wish stays until it is recorded as done, which a head that is listed by then needs no more than that
        for. What Ebbtide does by itself is noted first, so it happens once.
        """
        by_itself = not head.rejoin_wanted
        if by_itself:
            self._handle.update(put_back=self._clock.now(), rejoin_wanted=True)
        self._add(head, access)
        reach("head.rejoining")
        member_id = self._find_member_id(head, access)
        self._handle.set_state(
            HeadState.DOWN,
            "it is a member again, and catches up",
            rejoin_wanted=False,
            member_id=head.member_id if member_id is None else member_id,
        )
        if by_itself:
            message = f"somebody took the head of {cluster.name} out of its set; it was put back, this once"
            self._handle.event(cluster, EventLevel.WARNING, "head.put_back", message)
        else:
            message = f"the head of {cluster.name} is a member again"
            self._handle.event(cluster, EventLevel.INFO, "head.rejoined", message)

    def report_dropped(self, cluster: Cluster) -> None:
        message = (
            "somebody took the head out of its set, and it stays out until it is asked back: "
            f"ebbtide clusters rejoin {cluster.name}"
        )
        self._handle.set_state(HeadState.REMOVED, message)
        self._handle.event(cluster, EventLevel.ERROR, "head.removed", f"{cluster.name}: {message}")

    # --- the set's configuration ----------------------------------------------------------------------------------

    def _ask_listed(self, head: Head, access: ClusterAccess) -> bool | None:
        try:
            configuration = deployment.get_configuration(self._handle.set_client(access))
        except EbbtideError:
            return None
        return find_member(configuration, head.host, head.port) is not None

    def _add(self, head: Head, access: ClusterAccess) -> None:
        deployment.reconfigure(
            self._handle.set_client(access), lambda c: plan_add_head(c, host=head.host, port=head.port)
        )

    def _find_member_id(self, head: Head, access: ClusterAccess) -> int | None:
        """The head's `_id` in the configuration that lists it now."""
        configuration = deployment.get_configuration(self._handle.set_client(access))
        member = find_member(configuration, head.host, head.port)
        self._listed, self._listed_at = True, self._clock.monotonic()
        return None if member is None else int(member["_id"])

    # --- does everybody reach it? ---------------------------------------------------------------------------------

    def _find_unreached(self, head: Head, access: ClusterAccess) -> list[str]:
        """Who could not reach the head within the time that the settings give, one sentence each."""
        address = join_host_port(head.host, head.port)
        configuration = deployment.get_configuration(self._handle.set_client(access))
        deadline = self._clock.monotonic() + self._handle.context.settings.number("head.reach_seconds")
        without_user = hosts_without_our_user(configuration)
        waiting = {host: f"{host} does not list it yet" for host in voting_hosts(configuration)}
        while waiting and self._clock.monotonic() < deadline and not self._handle.stopping.is_set():
            if self._handle.process is None or not self._handle.process.is_running():
                raise MongodDied("the head's mongod ended while it joined; it is started again")
            for host in list(waiting):
                problem = _ask_reaches(host, address, access, as_fellow=host in without_user)
                if problem is None:
                    del waiting[host]
                else:
                    waiting[host] = problem
            if waiting:
                self._handle.claim()
                self._handle.stopping.wait(REACHED_CHECK_SECONDS)
        if self._handle.stopping.is_set() and waiting:
            raise HeadUnavailable("the worker stops")
        return sorted(waiting.values())

    def _fail(self, cluster: Cluster, problems: list[str]) -> None:
        message = (
            f"the head was taken out of the set again: {'; '.join(problems)}. Register the cluster again "
            "with --head-host, a name of this machine that every member can resolve and reach"
        )
        self._handle.set_state(HeadState.FAILED, message)
        text = f"the head of {cluster.name} failed: {message}"
        self._handle.event(cluster, EventLevel.ERROR, "head.failed", text)


def _ask_reaches(host: str, address: str, access: ClusterAccess, *, as_fellow: bool) -> str | None:
    """None if the member `host` reaches the head at `address`, else a sentence."""
    connect = access.arbiter_client if as_fellow else access.member_client
    client = connect(host, timeout_seconds=3)
    try:
        seen = find_in_status(deployment.run_admin(client, "replSetGetStatus"), address)
    except EbbtideError as error:
        return f"{host} could not be asked whether it reaches {address} ({error.message})"
    finally:
        client.close()
    if seen is None:
        return f"{host} does not list {address} yet"
    if seen.get("health") == 1:
        return None
    reason = seen.get("lastHeartbeatMessage") or "no heartbeat was answered"
    return f"{host} could not reach the head at {address} ({reason})"
