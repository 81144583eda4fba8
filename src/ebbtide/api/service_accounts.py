"""Ebbtide's own API: service accounts and their secrets. Logging in with them is `api.oauth`, what they share with keys
`caller_records`.

A secret is in the answer that made it, masked afterwards. A removed secret or account stops working at once, and an
account's tokens with it; tokens got with a removed secret live on for their hour, as in the hosted service.
"""

from datetime import timedelta

from ebbtide.api import access_lists
from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.caller_records import KindOfCaller, record_about
from ebbtide.api.grants import require_some_ownership
from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.refusals import refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire_access import account_document, account_href
from ebbtide.credentials import new_account_secret
from ebbtide.domain.ids import new_id
from ebbtide.domain.service_account import (
    CLIENT_ID_PREFIX,
    SECRET_HOURS,
    SECRET_HOURS_MAX,
    SECRET_HOURS_MIN,
    SECRETS_MAX,
    ServiceAccount,
)

_HOURS = "secretExpiresAfterHours"


def _find_by_client_id(call: Call, client_id: str) -> ServiceAccount | None:
    account_id = client_id.removeprefix(CLIENT_ID_PREFIX)
    return call.context.catalog.service_accounts.find(account_id) if account_id != client_id else None


ACCOUNTS = KindOfCaller[ServiceAccount](
    segment="serviceAccounts",
    name="clientId",
    texts=("name", "description"),
    unknown_code="SERVICE_ACCOUNT_NOT_FOUND",
    find=_find_by_client_id,
    collection=lambda call: call.context.catalog.service_accounts,
    href=lambda call, account: account_href(call.addresses, account.client_id),
    show=lambda call, account: account_document(account, addresses=call.addresses),
)


def create_account(call: Call) -> Answer:
    """A new account with one secret, which this answer alone has."""
    require_some_ownership(call)
    fields = Fields(parse_object(call.body))
    hours = _read_hours(fields)
    wanted = ACCOUNTS.read_new(call, fields, also=(_HOURS,))
    secret, text = new_account_secret(now=call.now, life=timedelta(hours=hours))
    account = ServiceAccount(
        id=new_id(),
        name=wanted.texts["name"],
        description=wanted.texts["description"],
        grants=wanted.grants,
        access_list=wanted.access_list,
        secrets=(secret,),
        created=call.now,
    )
    call.context.catalog.service_accounts.insert(account)
    record_about(call, account, "account.created", f"service account {account.client_id} was made")
    return _answer(call, account, new_secret=(secret.id, text))


def change_account(call: Call) -> Answer:
    """Another name or description, other roles: only somebody who may give both the old and the new ones."""
    account = ACCOUNTS.find_ruled(call)
    changes = ACCOUNTS.read_change(call)
    changed = call.context.catalog.service_accounts.change(account.id, **changes)
    if changed != account:
        told = f"service account {account.client_id} was given other roles or words"
        record_about(call, account, "account.changed", told)
    return _answer(call, changed or account)


def remove_account(call: Call) -> Answer:
    """The end of an account, its secrets and its tokens; not of the one that calls."""
    account = ACCOUNTS.find_ruled(call)
    if account.id == call.caller.id:
        raise refusal("REFUSED", "A service account cannot remove itself; use another one, or a key.")
    call.context.catalog.service_accounts.delete(account.id)
    call.context.catalog.tokens.revoke_all(account.id)
    record_about(call, account, "account.removed", f"service account {account.client_id} was removed")
    return Answer(document={}, status=204)


def add_secret(call: Call) -> Answer:
    """A second secret, which this answer alone has: put it everywhere, then remove the first. An account may itself."""
    account = ACCOUNTS.find_seen(call)
    fields = Fields(parse_object(call.body, empty_is_object=True))
    hours = _read_hours(fields)
    fields.refuse_unknown((_HOURS,))
    raise_violations(fields.violations)
    secret, text = new_account_secret(now=call.now, life=timedelta(hours=hours))
    changed = call.context.catalog.service_accounts.add_secret(account.id, secret)
    if changed is None:
        raise refusal("REFUSED", f"A service account has at most {SECRETS_MAX} secrets; remove one first.")
    record_about(
        call, account, "account.secret_added", f"service account {account.client_id} was given a secret"
    )
    return _answer(call, changed, new_secret=(secret.id, text))


def remove_secret(call: Call) -> Answer:
    """A secret stops working at once."""
    account = ACCOUNTS.find_seen(call)
    secret_id = call.path_values["secretId"]
    if all(secret.id != secret_id for secret in account.secrets):
        raise refusal("SERVICE_ACCOUNT_SECRET_NOT_FOUND", secret_id, account.client_id)
    changed = call.context.catalog.service_accounts.remove_secret(account.id, secret_id)
    record_about(
        call, account, "account.secret_removed", f"service account {account.client_id} lost a secret"
    )
    return _answer(call, changed or account)


def _read_hours(fields: Fields) -> int:
    hours = fields.integer(_HOURS)
    if hours is not None and not SECRET_HOURS_MIN <= hours <= SECRET_HOURS_MAX:
        fields.blame("INVALID_ATTRIBUTE", _HOURS, f"it must be from {SECRET_HOURS_MIN} to {SECRET_HOURS_MAX}")
    return SECRET_HOURS if hours is None else hours


def _answer(call: Call, account: ServiceAccount, *, new_secret: tuple[str, str] | None = None) -> Answer:
    return Answer(document=account_document(account, addresses=call.addresses, new_secret=new_secret))


_ACCOUNTS = "/api/ebbtide/v1/serviceAccounts"
_ACCOUNT = f"{_ACCOUNTS}/{{clientId}}"
_SECRETS = f"{_ACCOUNT}/secrets"

OPERATIONS = (
    Operation(
        name="listServiceAccounts",
        method="GET",
        path=_ACCOUNTS,
        handler=ACCOUNTS.list_seen,
        scope=Scope.SERVICE,
        is_list=True,
    ),
    Operation(
        name="createServiceAccount",
        method="POST",
        path=_ACCOUNTS,
        handler=create_account,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    Operation(
        name="getServiceAccount", method="GET", path=_ACCOUNT, handler=ACCOUNTS.get, scope=Scope.SERVICE
    ),
    Operation(
        name="changeServiceAccount",
        method="PATCH",
        path=_ACCOUNT,
        handler=change_account,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    Operation(
        name="removeServiceAccount",
        method="DELETE",
        path=_ACCOUNT,
        handler=remove_account,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    Operation(
        name="addServiceAccountSecret",
        method="POST",
        path=_SECRETS,
        handler=add_secret,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    Operation(
        name="removeServiceAccountSecret",
        method="DELETE",
        path=f"{_SECRETS}/{{secretId}}",
        handler=remove_secret,
        scope=Scope.SERVICE,
        needs_listed_address=True,
    ),
    *access_lists.operations_below(_ACCOUNT, of="OfServiceAccount", find_holder=ACCOUNTS.find_holder),
)
