"""The digest header's parser, the nonces, and the arithmetic."""

import string
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.api.digest import (
    DigestAnswer,
    MalformedCredentials,
    Nonces,
    NonceVerdict,
    challenge,
    expected_response,
    parse_digest,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RESPONSE = "0123456789abcdef0123456789ABCDEF"
QUOTED = (
    'Digest username="zmmrboas", realm="MMS Public API", nonce="n", uri="/a?b=c,d", cnonce="x\\"y", '
    f'nc="00000001", qop="auth", response="{RESPONSE}", algorithm="MD5", opaque="skipped"'
)
BARE = (
    'digest username=zmmrboas,realm="MMS Public API",nonce=n,uri="/a?b=c,d",cnonce=\'x,'
    f"nc=0000000a , qop=auth, response={RESPONSE}"
)


def test_quoted_and_bare_parameters_are_read() -> None:
    answer = parse_digest(QUOTED)
    assert (answer.username, answer.uri, answer.cnonce, answer.nc) == ("zmmrboas", "/a?b=c,d", 'x"y', 1)
    assert answer.response == RESPONSE.lower()
    assert (parse_digest(BARE).nc, parse_digest(BARE).nc_text) == (10, "0000000a")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Digest",
        "Basic abc",
        QUOTED.replace("Digest", "Bearer"),
        QUOTED.replace('"MD5"', '"SHA-256"'),
        QUOTED.replace('"auth"', '"auth-int"'),
        QUOTED.replace("MMS Public API", "other"),
        QUOTED.replace("00000001", "1"),
        QUOTED.replace(RESPONSE, "short"),
        QUOTED.replace('cnonce="x\\"y"', 'cnonce=""'),
        QUOTED.replace(', opaque="skipped"', ', nc="00000002"'),
        QUOTED.replace('nonce="n", ', ""),
        QUOTED + ', broken="',
        QUOTED + "x" * 5000,
    ],
)
def test_what_is_no_answer_is_malformed(header: str) -> None:
    with pytest.raises(MalformedCredentials):
        parse_digest(header)


@given(st.text(max_size=300))
def test_any_text_is_an_answer_or_malformed(text: str) -> None:
    for header in (text, f"Digest {text}", QUOTED + text, QUOTED.replace("n", text, 1)):
        try:
            parse_digest(header)
        except MalformedCredentials:
            pass


@given(st.text(string.printable, min_size=1, max_size=40))
def test_quoting_is_undone(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    if "\n" in text or "\r" in text:
        return
    assert text == parse_digest(QUOTED.replace('username="zmmrboas"', f'username="{quoted}"')).username


def test_the_response_of_the_rfcs_example() -> None:
    """RFC 2617 section 3.5, of which HA1 is MD5("Mufasa:testrealm@host.com:Circle Of Life")."""
    answer = DigestAnswer(
        username="Mufasa",
        nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",
        uri="/dir/index.html",
        response="",
        nc=1,
        nc_text="00000001",
        cnonce="0a4f113b",
    )
    ha1 = b"939e7578ed9e3c518a452acee763bce9"
    assert expected_response(answer, ha1=ha1, method="GET") == "6629fae49393a05397450978507c4ef1"


def test_the_challenge_to_the_letter() -> None:
    assert challenge("N", stale=True) == (
        'Digest realm="MMS Public API", domain="", nonce="N", algorithm=MD5, qop="auth", stale=true'
    )


def test_nonces_have_32_characters_and_differ() -> None:
    nonces = Nonces()
    issued = {nonces.issue(NOW) for _ in range(100)}
    assert (100, {32}) == (len(issued), {len(nonce) for nonce in issued})


def test_counts_must_rise() -> None:
    nonces = Nonces()
    nonce = nonces.issue(NOW)
    verdicts = [nonces.use(nonce, nc, now=NOW) for nc in (1, 1, 3, 2, 4, 0)]
    fresh, stale = NonceVerdict.FRESH, NonceVerdict.STALE
    assert [fresh, stale, fresh, stale, fresh, stale] == verdicts


@pytest.mark.parametrize(
    ("age", "verdict"),
    [
        (timedelta(seconds=299), NonceVerdict.FRESH),
        (timedelta(seconds=300), NonceVerdict.STALE),
        (timedelta(seconds=-1), NonceVerdict.STALE),
    ],
)
def test_nonces_live_for_300_seconds(age: timedelta, verdict: NonceVerdict) -> None:
    nonces = Nonces()
    assert verdict is nonces.use(nonces.issue(NOW), 1, now=NOW + age)


def test_foreign_and_changed_nonces_are_stale() -> None:
    ours, theirs = Nonces(), Nonces()
    nonce = ours.issue(NOW)
    changed = ("A" if nonce[0] != "A" else "B") + nonce[1:]
    for strange in (theirs.issue(NOW), changed, "", "!" * 32, "AAAA", "\xff" * 32):
        assert ours.use(strange, 1, now=NOW) is NonceVerdict.STALE


def test_what_is_forgotten_for_lack_of_room_is_refused() -> None:
    nonces = Nonces(nonces_max=3)
    moments = [NOW + timedelta(milliseconds=n) for n in range(5)]
    issued = [nonces.issue(moment) for moment in moments]
    for nonce in issued:
        assert nonces.use(nonce, 1, now=moments[-1]) is NonceVerdict.FRESH
    assert all(nonces.use(nonce, 1, now=moments[-1]) is NonceVerdict.STALE for nonce in issued)
    assert nonces.use(issued[0], 2, now=moments[-1]) is NonceVerdict.STALE
    assert nonces.use(issued[-1], 2, now=moments[-1]) is NonceVerdict.FRESH
