"""Wire shapes of keys, service accounts, their access lists and roles: domain values to documents.

A private key or a secret is in the one answer that made it, and in no other. Entries of a key's access list and of a
service account's have the same facts under different names (contract section 4.3).
"""

from typing import Any
from urllib.parse import quote

from ebbtide.api.wire import Addresses, Document, iso_date, self_links
from ebbtide.domain.access import ApiKey, CallerKind, Grant
from ebbtide.domain.access_list import AccessEntry, single_address
from ebbtide.domain.service_account import ServiceAccount, ServiceAccountSecret

_ENTRY_NAMES = {
    CallerKind.API_KEY: ("created", "lastUsed", "count"),
    CallerKind.SERVICE_ACCOUNT: ("createdAt", "lastUsedAt", "requestCount"),
}


def key_href(addresses: Addresses, public_key: str) -> str:
    return f"{addresses.ebbtide}/keys/{quote(public_key, safe='')}"


def account_href(addresses: Addresses, client_id: str) -> str:
    return f"{addresses.ebbtide}/serviceAccounts/{quote(client_id, safe='')}"


def key_document(key: ApiKey, *, addresses: Addresses, private_key: str | None = None) -> Document:
    """`private_key` only where it was made by this very call."""
    href = key_href(addresses, key.public_key)
    return {
        "publicKey": key.public_key,
        **({} if private_key is None else {"privateKey": private_key}),
        "description": key.description,
        "created": iso_date(key.created),
        **({} if key.expires is None else {"expires": iso_date(key.expires)}),
        "owner": key.owner,
        "grants": [grant_document(grant) for grant in key.grants],
        "accessList": [
            entry_document(entry, kind=CallerKind.API_KEY, holder_href=href) for entry in key.access_list
        ],
        "links": self_links(href),
    }


def account_document(
    account: ServiceAccount, *, addresses: Addresses, new_secret: tuple[str, str] | None = None
) -> Document:
    """`new_secret` is (id, text) of the secret that was made by this very call."""
    href = account_href(addresses, account.client_id)
    kind = CallerKind.SERVICE_ACCOUNT
    new_id, text = new_secret or ("", None)
    return {
        "clientId": account.client_id,
        "name": account.name,
        "description": account.description,
        "createdAt": iso_date(account.created),
        "grants": [grant_document(grant) for grant in account.grants],
        "secrets": [
            secret_document(secret, text=text if secret.id == new_id else None) for secret in account.secrets
        ],
        "accessList": [entry_document(entry, kind=kind, holder_href=href) for entry in account.access_list],
        "links": self_links(href),
    }


def secret_document(secret: ServiceAccountSecret, *, text: str | None) -> Document:
    shown = {"maskedSecretValue": secret.masked} if text is None else {"secret": text}
    used = {} if secret.last_used is None else {"lastUsedAt": iso_date(secret.last_used)}
    return {
        "id": secret.id,
        "createdAt": iso_date(secret.created),
        "expiresAt": iso_date(secret.expires),
        **used,
        **shown,
    }


def grant_document(grant: Grant) -> Document:
    return _without_absent(role=grant.role.value, groupId=grant.group_id)


def entry_document(entry: AccessEntry, *, kind: CallerKind, holder_href: str) -> Document:
    created, last_used, count = _ENTRY_NAMES[kind]
    facts: dict[str, Any] = {
        "cidrBlock": entry.cidr,
        "ipAddress": single_address(entry.cidr),
        created: iso_date(entry.created),
        last_used: None if entry.last_used is None else iso_date(entry.last_used),
        "lastUsedAddress": entry.last_used_address,
        count: entry.count,
        "links": self_links(f"{holder_href}/accessList/{quote(entry.cidr, safe='')}"),
    }
    return _without_absent(**facts)


def _without_absent(**values: Any) -> Document:
    return {name: value for name, value in values.items() if value is not None}
