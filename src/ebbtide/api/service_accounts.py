"""Ebbtide's own API: service accounts and their secrets. Logging in with them is `api.oauth`.

A secret is in the answer that made it, masked afterwards. A removed secret or account stops working at once, and an
account's tokens with it; tokens got with a removed secret live on for their hour, as in the hosted service.
"""

from datetime import timedelta

from ebbtide.api import access_lists
from ebbtide.api.access_lists import Holder
from ebbtide.api.bodies import Fields, parse_object, raise_violations
from ebbtide.api.grants import (
    read_grants,
    require_groups,
    require_management,
    require_some_ownership,
    short_text,
)
from ebbtide.api.lists import slice_answer
from ebbtide.api.operations import Call, Operation, Scope
from ebbtide.api.refusals import Refusal, refusal
from ebbtide.api.responses import Answer
from ebbtide.api.wire_access import account_document, account_href
from ebbtide.credentials import new_account_secret
from ebbtide.domain.access import is_global_owner, may_manage, shared_group
from ebbtide.domain.access_list import AccessEntry
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import new_id
from ebbtide.domain.service_account import (
    CLIENT_ID_PREFIX,
    SECRET_HOURS,
    SECRET_HOURS_MAX,
    SECRET_HOURS_MIN,
    SECRETS_MAX,
    ServiceAccount,
)
from ebbtide.events import record_event

_HOURS = "secretExpiresAfterHours"


def list_accounts(call: Call) -> Answer:
    """The caller itself if it is one, and those that it rules over; oldest first."""
    every = call.context.catalog.service_accounts.list_all()
    seen = [a for a in every if a.id == call.caller.id or may_manage(call.caller, a.grants)]
    return slice_answer(
        call,
        href=f"{call.addresses.ebbtide}/serviceAccounts",
        records=seen,
        to_document=lambda account: account_document(account, addresses=call.addresses),
    )


def get_account(call: Call) -> Answer:
    return _answer(call, _find_account(call))


def create_account(call: Call) -> Answer:
    """A new account with one secret, which this answer alone has."""
    require_some_ownership(call)
    fields = Fields(parse_object(call.body))
    name, description, grants = (
        short_text(fields, "name"),
        short_text(fields, "description"),
        read_grants(fields),
    )
    hours = _read_hours(fields)
    fields.require("name")
    fields.require("grants")
    fields.refuse_unknown(("name", "description", "grants", "accessList", _HOURS))
    raise_violations(fields.violations)
    networks = access_lists.read_entries(fields)
    require_management(call, grants or ())
    require_groups(call, grants or ())
    secret, text = new_account_secret(now=call.now, life=timedelta(hours=hours))
    account = ServiceAccount(
        id=new_id(),
        name=name or "",
        description=description or "",
        grants=grants or (),
        access_list=tuple(AccessEntry(cidr=network, created=call.now) for network in networks),
        secrets=(secret,),
        created=call.now,
    )
    call.context.catalog.service_accounts.insert(account)
    _record(call, account, "account.created", f"service account {account.client_id} was made")
    return _answer(call, account, new_secret=(secret.id, text))


def change_account(call: Call) -> Answer:
    """Another name or description, other roles: only somebody who may give both the old and the new ones."""
    account = _find_account(call)
    require_management(call, account.grants)
    fields = Fields(parse_object(call.body))
    name, description, grants = (
        short_text(fields, "name"),
        short_text(fields, "description"),
        read_grants(fields),
    )
    fields.refuse_unknown(("name", "description", "grants"))
    raise_violations(fields.violations)
    if grants is not None:
        require_management(call, grants)
        require_groups(call, grants)
    changed = call.context.catalog.service_accounts.change(
        account.id, name=name, description=description, grants=grants
    )
    if changed != account:
        told = f"service account {account.client_id} was given other roles or words"
        _record(call, account, "account.changed", told)
    return _answer(call, changed or account)


def remove_account(call: Call) -> Answer:
    """The end of an account, its secrets and its tokens; not of the one that calls."""
    account = _find_account(call)
    require_management(call, account.grants)
    if account.id == call.caller.id:
        raise refusal("REFUSED", "A service account cannot remove itself; use another one, or a key.")
    call.context.catalog.service_accounts.delete(account.id)
    call.context.catalog.tokens.revoke_all(account.id)
    _record(call, account, "account.removed", f"service account {account.client_id} was removed")
    return Answer(document={}, status=204)


def add_secret(call: Call) -> Answer:
    """A second secret, which this answer alone has: put it everywhere, then remove the first. An account may itself."""
    account = _find_account(call)
    fields = Fields(parse_object(call.body, empty_is_object=True))
    hours = _read_hours(fields)
    fields.refuse_unknown((_HOURS,))
    raise_violations(fields.violations)
    secret, text = new_account_secret(now=call.now, life=timedelta(hours=hours))
    changed = call.context.catalog.service_accounts.add_secret(account.id, secret)
    if changed is None:
        raise refusal("REFUSED", f"A service account has at most {SECRETS_MAX} secrets; remove one first.")
    _record(call, account, "account.secret_added", f"service account {account.client_id} was given a secret")
    return _answer(call, changed, new_secret=(secret.id, text))


def remove_secret(call: Call) -> Answer:
    """A secret stops working at once."""
    account = _find_account(call)
    secret_id = call.path_values["secretId"]
    if all(secret.id != secret_id for secret in account.secrets):
        raise refusal("SERVICE_ACCOUNT_SECRET_NOT_FOUND", secret_id, account.client_id)
    changed = call.context.catalog.service_accounts.remove_secret(account.id, secret_id)
    _record(call, account, "account.secret_removed", f"service account {account.client_id} lost a secret")
    return _answer(call, changed or account)


def _read_hours(fields: Fields) -> int:
    hours = fields.integer(_HOURS)
    if hours is not None and not SECRET_HOURS_MIN <= hours <= SECRET_HOURS_MAX:
        fields.blame("INVALID_ATTRIBUTE", _HOURS, f"it must be from {SECRET_HOURS_MIN} to {SECRET_HOURS_MAX}")
    return SECRET_HOURS if hours is None else hours


def _find_account(call: Call) -> ServiceAccount:
    """The path's account, where it is the caller itself or the caller rules over it."""
    client_id = call.path_values["clientId"]
    account_id = client_id.removeprefix(CLIENT_ID_PREFIX)
    account = call.context.catalog.service_accounts.find(account_id) if account_id != client_id else None
    if account is None:
        raise _not_found(client_id) if is_global_owner(call.caller) else refusal("USER_UNAUTHORIZED")
    if account.id != call.caller.id:
        require_management(call, account.grants)
    return account


def _not_found(client_id: str) -> Refusal:
    return refusal("SERVICE_ACCOUNT_NOT_FOUND", client_id)


def _find_holder(call: Call) -> Holder:
    account = _find_account(call)
    return Holder(
        caller=account.caller,
        collection=call.context.catalog.service_accounts,
        href=account_href(call.addresses, account.client_id),
        show=lambda changed: account_document(changed or account, addresses=call.addresses),
    )


def _answer(call: Call, account: ServiceAccount, *, new_secret: tuple[str, str] | None = None) -> Answer:
    return Answer(document=account_document(account, addresses=call.addresses, new_secret=new_secret))


def _record(call: Call, account: ServiceAccount, kind: str, message: str) -> None:
    record_event(
        call.context.catalog,
        call.context.clock,
        level=EventLevel.INFO,
        kind=kind,
        message=message,
        group_id=shared_group(account.grants),
        subject_id=account.id,
        actor=call.actor,
    )


_ACCOUNTS = "/api/ebbtide/v1/serviceAccounts"
_ACCOUNT = f"{_ACCOUNTS}/{{clientId}}"
_SECRETS = f"{_ACCOUNT}/secrets"

OPERATIONS = (
    Operation(
        name="listServiceAccounts",
        method="GET",
        path=_ACCOUNTS,
        handler=list_accounts,
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
        name="getServiceAccount", method="GET", path=_ACCOUNT, handler=get_account, scope=Scope.SERVICE
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
    *access_lists.operations_below(_ACCOUNT, of="OfServiceAccount", find_holder=_find_holder),
)
