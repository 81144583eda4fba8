"""What logs people in and comes to an end: API keys, and secrets of service accounts. `judge_credentials` is pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ebbtide.catalog.catalog import Catalog
from ebbtide.doctor.checks import Finding, Verdict
from ebbtide.domain.expiry import ExpiryStage, find_stage


@dataclass(frozen=True, kw_only=True)
class Credential:
    """One that has an end. `name` says which it is, `fix` how another one is made."""

    name: str
    created: datetime
    expires: datetime
    fix: str


def gather_credentials(catalog: Catalog) -> list[Credential]:
    """Every one that has an end. Raises the catalog's errors."""
    keys = [
        Credential(
            name=f"API key {key.public_key}",
            created=key.created,
            expires=key.expires,
            fix=f"ebbtide keys create, then ebbtide keys revoke {key.public_key}",
        )
        for key in catalog.api_keys.list_all()
        if key.expires is not None
    ]
    secrets = [
        Credential(
            name=f"secret {secret.id} of service account {account.name}",
            created=secret.created,
            expires=secret.expires,
            fix=f"ebbtide service-accounts add-secret {account.client_id}, then remove-secret",
        )
        for account in catalog.service_accounts.list_all()
        for secret in account.secrets
    ]
    return [*keys, *secrets]


def judge_credentials(credentials: Sequence[Credential], *, now: datetime) -> list[Finding]:
    """A finding for each that has ended or soon will; one for all others together."""
    findings = []
    for credential in credentials:
        stage = find_stage(created=credential.created, expires=credential.expires, now=now)
        if stage is not None:
            verb = "ended" if stage is ExpiryStage.ENDED else "ends"
            what = f"{verb} at {credential.expires.isoformat(timespec='seconds')}"
            # One that has ended stands in nobody's way but its holder's, who may not need it any more.
            findings.append(_finding(credential.name, Verdict.WARNING, what, credential.fix))
    well = len(credentials) - len(findings)
    if well or not findings:
        findings.append(_finding("keys and secrets", Verdict.OK, f"{well} have an end, none of them soon"))
    return findings


def _finding(name: str, verdict: Verdict, what: str, fix: str = "") -> Finding:
    return Finding(subject="machine", name=name, verdict=verdict, what=what, fix=fix)
