"""Ebbtide's own API: what may be asked of a cluster's head. A worker acts on it; answers show the wish, not the deed."""

from collections.abc import Callable
from typing import Any

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.own_clusters import cluster_answer
from ebbtide.api.responses import Answer
from ebbtide.backup import head_requests
from ebbtide.domain.cluster import Cluster


def rejoin_head(call: Call) -> Answer:
    """Have a head put back that somebody took out of its set."""
    _take_no_fields(call)
    return _ask(call, head_requests.rejoin)


def detach_cluster(call: Call) -> Answer:
    """Remove a cluster without its set being asked; `removalCommand` is what is left to do on its primary."""
    _take_no_fields(call)
    lines = head_requests.removal_lines(call.cluster, call.context.catalog)
    detached = _ask(call, head_requests.detach).document
    return Answer(document={**detached, "removalCommand": "\n".join(lines)}, status=202)


def pause_cluster(call: Call) -> Answer:
    """Begin no snapshots of it; its head goes on following."""
    _take_no_fields(call)
    return _ask(call, head_requests.set_paused, is_paused=True)


def resume_cluster(call: Call) -> Answer:
    """Begin snapshots of it again."""
    _take_no_fields(call)
    return _ask(call, head_requests.set_paused, is_paused=False)


def renew_certificate(call: Call) -> Answer:
    """Give the head another certificate, before the old one ends."""
    fields = Fields(parse_object(call.body))
    fields.require("tlsCertificate")
    certificate = fields.text("tlsCertificate") or ""
    ca = fields.text("tlsCa")
    fields.refuse_unknown(("tlsCertificate", "tlsCa"))
    raise_violations(fields.violations)
    return _ask(
        call,
        head_requests.renew_certificate,
        tls_ca=ca,
        tls_certificate=certificate,
        service_key=call.context.service_key,
    )


def _ask(call: Call, request: Callable[..., Cluster], **arguments: Any) -> Answer:
    context = call.context
    cluster = request(
        call.cluster, catalog=context.catalog, clock=context.clock, actor=call.actor, **arguments
    )
    return cluster_answer(call, cluster, status=202)


def _take_no_fields(call: Call) -> None:
    fields = Fields(parse_object(call.body, empty_is_object=True))
    fields.refuse_unknown(())
    raise_violations(fields.violations)


def _operation(name: str, last: str, handler: Callable[[Call], Answer], need: Need) -> Operation:
    return Operation(
        name=name,
        method="POST",
        path=f"/api/ebbtide/v1/groups/{{groupId}}/clusters/{{clusterName}}/{last}",
        handler=handler,
        scope=Scope.CLUSTER,
        need=need,
        needs_listed_address=True,
    )


OPERATIONS = (
    _operation("rejoinHead", "rejoin", rejoin_head, Need.OWN),
    _operation("detachCluster", "detach", detach_cluster, Need.OWN),
    _operation("pauseCluster", "pause", pause_cluster, Need.WRITE),
    _operation("resumeCluster", "resume", resume_cluster, Need.WRITE),
    _operation("renewCertificate", "certificate", renew_certificate, Need.OWN),
)
