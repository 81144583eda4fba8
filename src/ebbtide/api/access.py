"""Who calls, and whether from an allowed address: the first two checks of contract 4.5.

Two ways to log in: digest with an API key, a bearer token with a service account. Whoever sent a bearer token is told
of that way only, everybody else of digest only: clients give up on a challenge that they did not expect. Nothing of the
body is read before a caller passed here.

What is noted of an entry's use is kept in memory for `RECORD_USE_EVERY` at most, and lost in a crash.
"""

import hmac
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ebbtide.api.context import ApiContext
from ebbtide.api.digest import (
    DigestAnswer,
    MalformedCredentials,
    Nonces,
    NonceVerdict,
    challenge,
    expected_response,
    parse_digest,
)
from ebbtide.api.rate_limits import Limits
from ebbtide.api.refusals import Refusal, not_logged_in, refusal
from ebbtide.api.tokens import DeadToken, Tokens
from ebbtide.api.wire import iso_date
from ebbtide.catalog.callers import CallerCollection
from ebbtide.catalog.catalog import Catalog
from ebbtide.credentials import REALM
from ebbtide.domain.access import ApiKey, Caller, CallerKind
from ebbtide.domain.access_list import Address, find_entry, is_address_allowed
from ebbtide.domain.expiry import is_over
from ebbtide.domain.service_account import ServiceAccount

RECORD_USE_EVERY = timedelta(seconds=10)
"""A write per call would make every read a write; this is exact enough for "when was it last used"."""

BEARER_CHALLENGE = f'Bearer realm="{REALM}", error="invalid_token"'

# The work for an unknown key is the same as for a known one.
_NOBODY_HA1 = b"0" * 32


class Gate:
    """Lets callers in. Safe to use from many threads."""

    def __init__(self, context: ApiContext, tokens: Tokens, limits: Limits) -> None:
        self._context = context
        self._tokens = tokens
        self._limits = limits
        self._nonces = Nonces()
        self._uses = Uses(context.catalog)

    def admit(
        self,
        *,
        authorization: str | None,
        method: str,
        target: str,
        address: Address,
        needs_listed_address: bool,
    ) -> Caller:
        """The caller. `target` is path and query as sent.

        Raises the refusals 401 with a challenge, 403 for an address that is not on the caller's list, and 429.
        """
        now = self._context.clock.now()
        caller = self._log_in(authorization, method=method, target=target, address=address, now=now)
        if not is_address_allowed(address, caller.access_list, list_required=needs_listed_address):
            raise _refuse_address(caller, address)
        self._limits.admit_caller(caller)
        self._uses.note(caller, address, now=now)
        return caller

    def close(self) -> None:
        """Write down what is only noted so far; nothing waits for a catalog that is gone already."""
        if self._context.catalog.answers(within_seconds=1):
            self._uses.flush(self._context.clock.now())

    def _log_in(
        self, authorization: str | None, *, method: str, target: str, address: Address, now: datetime
    ) -> Caller:
        scheme, _, rest = (authorization or "").strip().partition(" ")
        if scheme.lower() == "bearer":
            return self._log_in_with_token(rest.strip(), now=now)
        try:
            answer = parse_digest(authorization or "")
        except MalformedCredentials:
            raise self._challenge(now, stale=False) from None
        return self._log_in_with_key(answer, method=method, target=target, address=address, now=now)

    def _log_in_with_token(self, token: str, *, now: datetime) -> Caller:
        try:
            return self._tokens.judge(token, now=now).caller
        except DeadToken:
            raise not_logged_in(BEARER_CHALLENGE) from None

    def _log_in_with_key(
        self, answer: DigestAnswer, *, method: str, target: str, address: Address, now: datetime
    ) -> Caller:
        self._limits.failed_logins.refuse_guessing(address, answer.username)
        key = self._context.catalog.api_keys.find_by_public_key(answer.username)
        if not self._is_right(answer, key, method=method) or key is None:
            self._limits.failed_logins.note(address, answer.username)
            raise self._challenge(now, stale=False)
        if answer.uri != target:
            raise self._challenge(now, stale=False)
        if self._nonces.use(answer.nonce, answer.nc, now=now) is NonceVerdict.STALE:
            raise self._challenge(now, stale=True)
        if key.expires is not None and is_over(key.expires, now=now):
            # Whoever has the right private key is told why; without a challenge, as another answer would not help.
            self._limits.failed_logins.note(address, answer.username)
            raise refusal("API_KEY_EXPIRED", key.public_key, iso_date(key.expires))
        return key.caller

    def _is_right(self, answer: DigestAnswer, key: ApiKey | None, *, method: str) -> bool:
        ha1 = _NOBODY_HA1 if key is None else self._context.service_key.open(key.ha1, record_id=key.id)
        expected = expected_response(answer, ha1=ha1, method=method)
        return hmac.compare_digest(expected, answer.response)

    def _challenge(self, now: datetime, *, stale: bool) -> Refusal:
        return not_logged_in(challenge(self._nonces.issue(now), stale=stale))


def _refuse_address(caller: Caller, address: Address) -> Refusal:
    network = f"{address}/{address.max_prefixlen}"
    commands = "keys" if caller.kind is CallerKind.API_KEY else "service-accounts"
    return refusal("IP_ADDRESS_NOT_ON_ACCESS_LIST", str(address), caller.name, network, commands)


@dataclass(frozen=True, kw_only=True)
class _Use:
    """Calls through one entry that are not written down yet, the last one from `address`."""

    caller: Caller
    cidr: str
    address: str
    count: int


class Uses:
    """Counts calls by the entry that let them in, and writes them down now and then."""

    def __init__(self, catalog: Catalog) -> None:
        self._collections: Mapping[
            CallerKind, CallerCollection[ApiKey] | CallerCollection[ServiceAccount]
        ] = {
            CallerKind.API_KEY: catalog.api_keys,
            CallerKind.SERVICE_ACCOUNT: catalog.service_accounts,
        }
        self._lock = threading.Lock()
        self._written: dict[tuple[str, str], datetime] = {}
        self._pending: dict[tuple[str, str], _Use] = {}

    def note(self, caller: Caller, address: Address, *, now: datetime) -> None:
        """One call; written down unless the entry's last use was a moment ago."""
        entry = find_entry(address, caller.access_list)
        if entry is None:
            return
        place = (caller.id, entry.cidr)
        with self._lock:
            before = self._pending.pop(place, None)
            count = 1 if before is None else before.count + 1
            use = _Use(caller=caller, cidr=entry.cidr, address=str(address), count=count)
            written = self._written.get(place)
            if written is not None and now - written < RECORD_USE_EVERY:
                self._pending[place] = use
                return
            self._written[place] = now
        self._write(use, now=now)

    def flush(self, now: datetime) -> None:
        """Write down everything."""
        with self._lock:
            pending, self._pending = self._pending, {}
        for use in pending.values():
            self._write(use, now=now)

    def _write(self, use: _Use, *, now: datetime) -> None:
        collection = self._collections[use.caller.kind]
        collection.record_use(use.caller.id, use.cidr, address=use.address, now=now, count=use.count)
