"""Service accounts, tokens and signing keys as the catalog keeps them: limits hold for many at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.tokens import SigningKey
from ebbtide.domain.access_list import AccessEntry
from ebbtide.domain.service_account import LIVE_TOKENS_MAX, LiveToken


def test_an_account_comes_back_as_it_was(catalog: Catalog, make: SimpleNamespace) -> None:
    account = make.account(access_list=(AccessEntry(cidr="10.0.0.0/8", created=make.now),))
    catalog.service_accounts.insert(account)
    assert catalog.service_accounts.find(account.id) == account
    catalog.service_accounts.delete(account.id)
    assert catalog.service_accounts.find(account.id) is None


def test_only_what_is_given_is_changed(catalog: Catalog, make: SimpleNamespace) -> None:
    account = make.account()
    catalog.service_accounts.insert(account)
    assert catalog.service_accounts.change(account.id, description="x") == replace(account, description="x")
    assert catalog.service_accounts.change(account.id) == replace(account, description="x")
    assert catalog.service_accounts.change("nobody", description="x") is None


def test_two_secrets_at_most_whoever_adds_them(catalog: Catalog, make: SimpleNamespace) -> None:
    account = make.account()
    catalog.service_accounts.insert(account)
    secrets = [replace(account.secrets[0], id=str(number)) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda s: catalog.service_accounts.add_secret(account.id, s), secrets))
    assert len([result for result in added if result is not None]) == 1
    kept = catalog.service_accounts.find(account.id)
    assert kept is not None
    assert len(kept.secrets) == 2


def test_a_hundred_tokens_live_at_most_whoever_adds_them(catalog: Catalog, make: SimpleNamespace) -> None:
    later = make.now + timedelta(hours=1)
    tokens = [LiveToken(id=str(number), expires=later) for number in range(LIVE_TOKENS_MAX + 20)]
    with ThreadPoolExecutor(8) as pool:
        listed = list(pool.map(lambda token: catalog.tokens.add("a", token, now=make.now), tokens))
    assert listed.count(True) == LIVE_TOKENS_MAX
    for token, was_listed in zip(tokens, listed, strict=True):
        assert catalog.tokens.is_live("a", token.id, now=make.now) is was_listed


def test_expired_tokens_make_room_and_are_dead(catalog: Catalog, make: SimpleNamespace) -> None:
    soon, later = make.now + timedelta(minutes=1), make.now + timedelta(hours=1)
    for number in range(LIVE_TOKENS_MAX):
        assert catalog.tokens.add("a", LiveToken(id=str(number), expires=soon), now=make.now)
    assert catalog.tokens.add("a", LiveToken(id="new", expires=later), now=soon)
    assert not catalog.tokens.is_live("a", "0", now=soon)
    assert catalog.tokens.is_live("a", "new", now=soon)


def test_revoking_ends_one_token_or_all_of_one_account(catalog: Catalog, make: SimpleNamespace) -> None:
    later = make.now + timedelta(hours=1)
    for account in ("a", "b"):
        for number in ("1", "2"):
            catalog.tokens.add(account, LiveToken(id=number, expires=later), now=make.now)
    catalog.tokens.revoke("a", "1")
    assert [catalog.tokens.is_live("a", number, now=make.now) for number in ("1", "2")] == [False, True]
    catalog.tokens.revoke_all("a")
    assert not catalog.tokens.is_live("a", "2", now=make.now)
    assert catalog.tokens.is_live("b", "1", now=make.now)


def test_the_newest_signing_key_signs(catalog: Catalog, make: SimpleNamespace) -> None:
    assert catalog.signing_keys.newest() is None
    for number in (1, 3, 2):
        moment = make.now + timedelta(days=number)
        catalog.signing_keys.insert(SigningKey(id=str(number), key=make.sealed, created=moment))
    newest = catalog.signing_keys.newest()
    assert newest == catalog.signing_keys.find("3")
