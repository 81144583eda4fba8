"""Ebbtide's own API: giving a cluster its credentials again. They are tried on its set before anything is replaced.

Contents of files are taken, never a path on the server. All is sealed before it is stored, and is in no answer.
"""

from typing import Any

from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.operations import Call, Need, Operation, Scope
from ebbtide.api.own_clusters import cluster_answer
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire_own import checks_document
from ebbtide.backup.credential_change import CredentialsRefused, GivenCredentials, replace_credentials

_KNOWN = ("username", "password", "authSource", "keyfile", "tlsCa", "tlsCertificate")


def set_credentials(call: Call) -> Answer:
    """Replace what opens the cluster's set; what is not sent stays as it is."""
    given = parse_credentials(parse_object(call.body))
    context = call.context
    try:
        changed = replace_credentials(
            call.cluster,
            given,
            catalog=context.catalog,
            service_key=context.service_key,
            settings=context.settings,
            clock=context.clock,
            actor=call.actor,
        )
    except CredentialsRefused as error:
        problems = [f"{c.what} ({c.fix})" if c.fix else c.what for c in error.checks if not c.ok]
        raise refusal(
            "CREDENTIALS_REFUSED", "; ".join(problems), extra=checks_document(error.checks)
        ) from None
    return cluster_answer(call, changed, status=202)


def parse_credentials(values: dict[str, Any]) -> GivenCredentials:
    """The credentials in a body. Raises one refusal that names every bad field."""
    fields = Fields(values)
    given = GivenCredentials(
        username=fields.text("username"),
        password=fields.text("password"),
        auth_source=fields.text("authSource"),
        keyfile=fields.text("keyfile"),
        tls_ca=fields.text("tlsCa"),
        tls_certificate=fields.text("tlsCertificate"),
    )
    if not any(fields.has(name) for name in _KNOWN):
        fields.blame_missing_one_of(_KNOWN)
    fields.refuse_unknown(_KNOWN)
    raise_violations(fields.violations)
    return given


OPERATIONS = (
    Operation(
        name="setCredentials",
        method="POST",
        path="/api/ebbtide/v1/groups/{groupId}/clusters/{clusterName}/credentials",
        handler=set_credentials,
        scope=Scope.CLUSTER,
        need=Need.OWN,
        needs_listed_address=True,
        slow=True,
    ),
)
