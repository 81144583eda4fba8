"""Ebbtide's own API: who may be a target of automated restores, what one would do, and taking one back.

Passwords are sealed before they are stored and are in no answer.
"""

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.own_clusters import cluster_answer
from ebbtide.api.refusals import refusal, refuse_fields, violation
from ebbtide.api.responses import Answer
from ebbtide.errors import EbbtideError, InvalidInput
from ebbtide.restore.consent import RestoreAccount, allow_restores, forbid_restores


def set_restore_target(call: Call) -> Answer:
    """Let restores replace the data of a cluster, once the account that writes is proved; or not any more."""
    fields = Fields(parse_object(call.body))
    fields.require("enabled")
    enabled = fields.boolean("enabled")
    account = RestoreAccount(
        username=fields.text("username"),
        password=fields.text("password"),
        auth_source=fields.text("authSource") or "admin",
    )
    fields.refuse_unknown(("enabled", "username", "password", "authSource"))
    raise_violations(fields.violations)
    context = call.context
    try:
        if enabled:
            changed = allow_restores(
                call.cluster,
                account,
                catalog=context.catalog,
                service_key=context.service_key,
                clock=context.clock,
                actor=call.actor,
            )
        else:
            changed = forbid_restores(
                call.cluster, catalog=context.catalog, clock=context.clock, actor=call.actor
            )
    except InvalidInput as error:
        raise refuse_fields(
            [violation("INVALID_ATTRIBUTE", "username", f"expected {error.expected}")]
        ) from None
    except EbbtideError as error:
        raise refusal("REFUSED", str(error)) from None
    return cluster_answer(call, changed)


_CLUSTER = "/api/ebbtide/v1/groups/{groupId}/clusters/{clusterName}"

OPERATIONS = (
    Operation(
        name="setRestoreTarget",
        method="POST",
        path=f"{_CLUSTER}/restoreTarget",
        handler=set_restore_target,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
        slow=True,
    ),
)
