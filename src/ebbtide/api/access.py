"""Who calls, and whether from an allowed address: the first two checks of contract 4.5.

The caller's address is the connection's other end; `X-Forwarded-For` is never believed. Nothing of the body
is read before a caller passed here.
"""

import hmac
import ipaddress
import threading
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
from ebbtide.api.refusals import Refusal, not_logged_in, refusal
from ebbtide.domain.access import Address, ApiKey, find_entry, is_address_allowed, parse_address

RECORD_USE_EVERY = timedelta(seconds=10)
"""A write per call would make every read a write; this is exact enough for "when was it last used"."""

# The work for an unknown key is the same as for a known one.
_NOBODY_HA1 = b"0" * 32
_NO_ADDRESS = ipaddress.IPv4Address("0.0.0.0")


def read_address(host: str | None) -> Address:
    """The peer's address; one that is on no list where the connection has none."""
    try:
        return parse_address(host or "")
    except ValueError:
        return _NO_ADDRESS


class Gate:
    """Lets callers in. Safe to use from many threads."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._nonces = Nonces()
        self._lock = threading.Lock()
        self._recorded: dict[tuple[str, str], datetime] = {}

    def admit(
        self,
        *,
        authorization: str | None,
        method: str,
        target: str,
        address: Address,
        needs_listed_address: bool,
    ) -> ApiKey:
        """The caller's key. `target` is path and query as sent.

        Raises the refusals 401 with a challenge, and 403 for an address that is not on the key's list.
        """
        now = self._context.clock.now()
        key = self._log_in(authorization, method=method, target=target, now=now)
        if not is_address_allowed(address, key.access_list, list_required=needs_listed_address):
            network = f"{address}/{address.max_prefixlen}"
            raise refusal("IP_ADDRESS_NOT_ON_ACCESS_LIST", str(address), key.public_key, network)
        self._record_use(key, address, now=now)
        return key

    def _log_in(self, authorization: str | None, *, method: str, target: str, now: datetime) -> ApiKey:
        if authorization is None:
            raise self._challenge(now, stale=False)
        try:
            answer = parse_digest(authorization)
        except MalformedCredentials:
            raise self._challenge(now, stale=False) from None
        key = self._context.catalog.api_keys.find_by_public_key(answer.username)
        if not self._is_right(answer, key, method=method) or key is None or answer.uri != target:
            raise self._challenge(now, stale=False)
        if self._nonces.use(answer.nonce, answer.nc, now=now) is NonceVerdict.STALE:
            raise self._challenge(now, stale=True)
        return key

    def _is_right(self, answer: DigestAnswer, key: ApiKey | None, *, method: str) -> bool:
        ha1 = _NOBODY_HA1 if key is None else self._context.service_key.open(key.ha1, record_id=key.id)
        expected = expected_response(answer, ha1=ha1, method=method)
        return hmac.compare_digest(expected, answer.response)

    def _challenge(self, now: datetime, *, stale: bool) -> Refusal:
        return not_logged_in(challenge(self._nonces.issue(now), stale=stale))

    def _record_use(self, key: ApiKey, address: Address, *, now: datetime) -> None:
        entry = find_entry(address, key.access_list)
        if entry is None:
            return
        with self._lock:
            last = self._recorded.get((key.id, entry.cidr))
            if last is not None and now - last < RECORD_USE_EVERY:
                return
            self._recorded[(key.id, entry.cidr)] = now
        self._context.catalog.api_keys.record_use(key.id, entry.cidr, address=str(address), now=now)
