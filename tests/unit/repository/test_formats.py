"""Each format: what is encoded is decoded, and whatever else is there is noticed."""

import gzip
import json
import random
import struct
from array import array
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.errors import IntegrityError, InvalidInput, Refused
from ebbtide.repository.block import BLOCK_BYTES, block_id, decode_block, encode_block, plain_length
from ebbtide.repository.gzip_member import (
    compress_member,
    inflate_member,
    inflate_members,
    stored_member,
)
from ebbtide.repository.manifest import (
    FileEntry,
    FileStat,
    Manifest,
    Stretch,
    decode_manifest,
    encode_manifest,
    is_safe_path,
)
from ebbtide.repository.pack import check_pack, make_pack_id, pack_chunks
from ebbtide.repository.recipe import (
    STRETCH_BYTES,
    BlockPlace,
    Recipe,
    build_recipe,
    decode_recipe,
    encode_recipe,
    recipe_hash,
)
from ebbtide.repository.repository import (
    _render_header,
    decode_part,
    encode_header,
    encode_part,
    parse_header,
)
from ebbtide.testing.snapshots import NOW, make_manifest, snapshot_id

PACKS = [make_pack_id(snapshot_id(n), attempt=0, sequence=n) for n in range(3)]

places = st.lists(
    st.builds(
        BlockPlace,
        pack_id=st.sampled_from(PACKS),
        offset=st.integers(0, 2**25),
        stored_bytes=st.integers(1, BLOCK_BYTES),
        crc=st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=40,
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    found = draw(places)
    last_bytes = draw(st.integers(1, BLOCK_BYTES))
    ids = b"".join(blake3(bytes([index])).digest(16) for index in range(len(found)))
    return build_recipe(plain_bytes=(len(found) - 1) * BLOCK_BYTES + last_bytes, block_ids=ids, places=found)


# Gzip members and blocks


@given(st.binary(max_size=300_000))
@settings(max_examples=30, deadline=None)
def test_both_kinds_of_member_hold_what_they_were_given(data: bytes) -> None:
    for member in (compress_member(data), stored_member(data)):
        assert data == inflate_member(member, plain_bytes=len(data))
        assert data == gzip.decompress(member)


@pytest.mark.parametrize("length", [0, 1, 65534, 65535, 65536, 131070, 131071])
def test_a_stored_member_of_any_length_is_one_member(length: int) -> None:
    assert bytes(length) == inflate_member(stored_member(bytes(length)), plain_bytes=length)


@given(st.lists(st.binary(min_size=1, max_size=100_000), min_size=1, max_size=5), st.integers(-2, 2))
@settings(max_examples=30, deadline=None)
def test_members_end_to_end_fill_exactly_their_length(pieces: list[bytes], too_long: int) -> None:
    plain = b"".join(pieces)
    members = b"".join(map(compress_member, pieces))
    into = memoryview(bytearray(max(0, len(plain) + too_long)))
    if too_long and len(into) != len(plain):
        with pytest.raises(ValueError, match="together"):
            inflate_members(members, into)
    else:
        inflate_members(members, into)
        assert plain == into


@pytest.mark.parametrize(
    "spoil", [lambda s: s[:-1], lambda s: s[:30], lambda s: b"x" + s[1:], lambda s: s[:-5] + s[:5]]
)
def test_damaged_members_are_noticed(spoil: Callable[[bytes], bytes]) -> None:
    plain = random.Random(1).randbytes(10_000)
    members = compress_member(plain[:5000]) + compress_member(plain[5000:])
    with pytest.raises(ValueError, match=r"cannot be inflated|together"):
        inflate_members(spoil(members), memoryview(bytearray(len(plain))))


def test_members_that_make_far_too_much_are_not_made() -> None:
    bomb = compress_member(bytes(100_000_000))
    with pytest.raises(ValueError, match="together"):
        inflate_members(bomb, memoryview(bytearray(BLOCK_BYTES)))


def test_a_block_is_stored_as_one_member_and_the_same_each_time() -> None:
    plain = b"some document " * 4000
    assert encode_block(plain) == encode_block(memoryview(plain))
    assert encode_block(plain)[:2] == b"\x1f\x8b"
    assert plain == inflate_member(encode_block(plain), plain_bytes=len(plain))


def test_inflating_stops_at_the_length_that_a_block_may_have() -> None:
    bomb = compress_member(bytes(100_000_000))
    with pytest.raises(IntegrityError, match="is not one gzip member of 65536 plain bytes"):
        decode_block(bomb, plain_bytes=BLOCK_BYTES, expected_id=bytes(16), object_name="pack")


@pytest.mark.parametrize("spoil", [lambda s: s + s, lambda s: s[:-1], lambda s: s + b"\0", lambda s: s[:0]])
def test_a_stored_block_must_be_exactly_one_member(spoil: Callable[[bytes], bytes]) -> None:
    plain = b"abc" * 1000
    with pytest.raises(IntegrityError):
        decode_block(
            spoil(encode_block(plain)),
            plain_bytes=len(plain),
            expected_id=block_id(plain),
            object_name="pack",
        )


def test_a_whole_block_of_other_content_is_noticed() -> None:
    with pytest.raises(IntegrityError, match="pack: block 3 is not the block that was stored there"):
        decode_block(
            encode_block(b"other"),
            plain_bytes=5,
            expected_id=block_id(b"right"),
            object_name="pack",
            what="block 3",
        )


def test_only_the_last_block_is_short() -> None:
    assert [plain_length(i, total_bytes=BLOCK_BYTES + 1) for i in range(2)] == [BLOCK_BYTES, 1]


# Recipes


@given(recipes())
@settings(max_examples=60, deadline=None)
def test_a_recipe_comes_back_as_it_was(recipe: Recipe) -> None:
    encoded = encode_recipe(recipe)
    decoded = decode_recipe(encoded, object_name="r")
    assert recipe == decoded
    assert encoded == encode_recipe(decoded)
    assert recipe.places() == decoded.places()


def test_the_recipe_of_a_whole_stretch_stays_within_its_share() -> None:
    offsets = list(accumulate([30_000] * 1024, initial=60))
    found = [BlockPlace(PACKS[0], offset, 30_000, 7) for offset in offsets[:1024]]
    recipe = build_recipe(plain_bytes=STRETCH_BYTES, block_ids=bytes(16 * 1024), places=found)
    assert len(recipe.runs) == 1
    assert len(encode_recipe(recipe)) < 0.0005 * STRETCH_BYTES


@given(recipes(), st.data())
@settings(max_examples=100, deadline=None)
def test_any_flipped_bit_of_a_recipe_is_noticed(recipe: Recipe, data: st.DataObject) -> None:
    encoded = bytearray(encode_recipe(recipe))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError, match="the recipe"):
        decode_recipe(bytes(encoded), object_name="the recipe")


def reseal(body: bytes) -> bytes:
    """A recipe whose checksum is right, whatever it says: what an attacker can write."""
    return body + blake3(body).digest(16)


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_made_up_recipes_raise_nothing_but_integrity_errors(body: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_recipe(reseal(body), object_name="r")
    head = struct.pack("<8sHHIQIII", b"EBRECIPE", 1, 0, BLOCK_BYTES, BLOCK_BYTES, 1, 1, 1)
    with pytest.raises(IntegrityError):
        decode_recipe(reseal(head + body), object_name="r")


def test_absurd_counts_are_refused_before_anything_is_allocated() -> None:
    head = struct.pack("<8sHHIQIII", b"EBRECIPE", 1, 0, BLOCK_BYTES, 2**47, 2**31, 2**31, 2**31)
    with pytest.raises(IntegrityError, match="counts that do not agree"):
        decode_recipe(reseal(head), object_name="r")


def test_a_stored_length_out_of_bounds_is_refused() -> None:
    recipe = build_recipe(plain_bytes=5, block_ids=bytes(16), places=[BlockPlace(PACKS[0], 60, 10, 1)])
    for length in (0, 2**24 - 1):
        with pytest.raises(IntegrityError, match="stored length"):
            decode_recipe(
                encode_recipe(replace(recipe, stored_lengths=array("I", [length]))), object_name="r"
            )


# Packs


def make_pack(blocks: list[bytes]) -> bytes:
    return b"".join(pack_chunks(PACKS[0], blocks))


def check(data: bytes) -> None:
    def read_range(*, start: int, length: int) -> bytes:
        return data[start : start + length]

    check_pack(
        read_range,
        pack_id=PACKS[0],
        object_name="the pack",
        size_bytes=len(data),
        check_cancelled=lambda: None,
        piece_bytes=100,
    )


@given(st.lists(st.binary(min_size=1, max_size=500), max_size=10), st.data())
@settings(max_examples=60, deadline=None)
def test_a_pack_is_sound_as_written_and_unsound_with_any_bit_flipped(
    blocks: list[bytes], data: st.DataObject
) -> None:
    pack = bytearray(make_pack(blocks))
    check(bytes(pack))
    bit = data.draw(st.integers(0, len(pack) * 8 - 1))
    pack[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError, match="the pack"):
        check(bytes(pack))


def test_a_truncated_pack_is_noticed() -> None:
    pack = make_pack([b"x" * 300])
    for length in (0, 10, len(pack) - 1):
        with pytest.raises(IntegrityError, match="the pack"):
            check(pack[:length])


# Manifests

STAT = FileStat(size_bytes=5, mtime_ns=2, ctime_ns=3, inode=4, stated_at_ns=5)


def inline_stretch(plain_bytes: int = 5) -> Stretch:
    recipe = build_recipe(
        plain_bytes=plain_bytes, block_ids=bytes(16), places=[BlockPlace(PACKS[0], 60, 10, 1)]
    )
    return Stretch(recipe_hash=None, inline=encode_recipe(recipe), plain_bytes=plain_bytes, stored_bytes=10)


def hashed_stretch(plain_bytes: int) -> Stretch:
    return Stretch(recipe_hash=recipe_hash(b"r"), inline=None, plain_bytes=plain_bytes, stored_bytes=9)


def manifest_with(*entries: FileEntry) -> Manifest:
    return make_manifest(7, entries)


def entry(path: str = "a.wt", *stretches: Stretch) -> FileEntry:
    return FileEntry(path=path, stat=STAT, stretches=stretches or (inline_stretch(),))


safe_paths = st.lists(
    st.text(st.sampled_from("abc.-_é"), min_size=1, max_size=8).filter(lambda part: part not in (".", "..")),
    min_size=1,
    max_size=3,
).map("/".join)


@given(st.lists(safe_paths, max_size=6, unique=True), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_manifest_comes_back_as_it_was(paths: list[str], large: bool) -> None:
    stretches = (hashed_stretch(STRETCH_BYTES), inline_stretch()) if large else (inline_stretch(),)
    # No path may be the directory of another.
    paths = [path for path in paths if not any(other.startswith(path + "/") for other in paths)]
    manifest = manifest_with(*(entry(path, *stretches) for path in paths))
    assert manifest == decode_manifest(encode_manifest(manifest), object_name="m")


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_flipped_bit_of_a_manifest_is_noticed(data: st.DataObject) -> None:
    encoded = bytearray(encode_manifest(manifest_with(entry())))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError, match="the manifest"):
        decode_manifest(bytes(encoded), object_name="the manifest")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../a",
        "a/../b",
        "a//b",
        "./a",
        "",
        "a/",
        "a\0b",
        "a\nb",
        "\ud800",
        "x" * 256,
        "a/" * 600 + "a",
    ],
)
def test_paths_that_leave_the_directory_are_refused_both_ways(path: str) -> None:
    assert not is_safe_path(path)
    with pytest.raises(InvalidInput):
        encode_manifest(manifest_with(entry(path)))


def seal_manifest(text: str, length: int | None = None) -> bytes:
    plain = text.encode()
    body = struct.pack("<8sHHI", b"EBSNAP\r\n", 1, 0, len(plain) if length is None else length)
    body += compress_member(plain)
    return body + blake3(body).digest()


def manifest_text(manifest: Manifest) -> str:
    encoded = encode_manifest(manifest)
    (length,) = struct.unpack_from("<I", encoded, 12)
    return inflate_member(encoded[16:-32], plain_bytes=length).decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"path":"a.wt"', '"path":"../a.wt"'),
        ('"path":"a.wt"', '"path":7'),
        ('"path":"b/c.wt"', '"path":"a.wt"'),
        ('"path":"b/c.wt"', '"path":"a.wt/c"'),
        ('"plainBytes":5', '"plainBytes":6'),
        ('"storedBytes":10', '"storedBytes":-10'),
        ('"storedBytes":10', '"storedBytes":1e9'),
        ('"storedBytes":10', '"storedBytes":99999999999'),
        ('"files":2', '"files":3'),
        ('"kind":"SNAPSHOT"', '"kind":"OTHER"'),
        ('"inline":"', '"inline":"!'),
        ('"inline":', '"recipe":'),
        ('"stat":[5,', '"stat":['),
        ('"created":"2026', '"created":"x'),
        ('"snapshotId":"0', '"snapshotId":"/'),
        ('"stableTimestamp":[', '"stableTimestamp":[-'),
        ('"files":[', '"files":[['),
        ('{"kind"', '[{"kind"'),
    ],
)
def test_a_made_up_manifest_is_refused_as_damage(before: str, after: str) -> None:
    text = manifest_text(manifest_with(entry(), entry("b/c.wt")))
    assert before in text
    with pytest.raises(IntegrityError, match="the manifest"):
        decode_manifest(seal_manifest(text.replace(before, after, 1)), object_name="the manifest")


def test_a_manifest_that_inflates_to_more_than_it_says_is_refused() -> None:
    text = manifest_text(manifest_with(entry()))
    assert decode_manifest(seal_manifest(text), object_name="m")
    with pytest.raises(IntegrityError):
        decode_manifest(seal_manifest(text, length=len(text) - 1), object_name="m")


# The repository's header


def test_the_header_gives_the_id() -> None:
    assert parse_header(encode_header(repository_id="a" * 24, created=NOW)) == "a" * 24


def test_any_flipped_bit_of_the_header_is_noticed() -> None:
    header = encode_header(repository_id="a" * 24, created=NOW)
    for bit in range(len(header) * 8):
        spoiled = bytearray(header)
        spoiled[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError, match=r"repository\.json"):
            parse_header(bytes(spoiled))


@pytest.mark.parametrize(
    ("name", "value"),
    [("version", 2), ("blockBytes", 4096), ("encryption", {"kms": 1}), ("compression", "zstd"), ("new", 1)],
)
def test_a_header_of_another_format_is_refused_and_says_what_is_unknown(name: str, value: object) -> None:

    values = json.loads(encode_header(repository_id="a" * 24, created=NOW))
    del values["checksum"]
    with pytest.raises(Refused, match=name):
        parse_header(_render_header(values | {name: value}))


@given(st.text(max_size=40))
def test_any_replica_set_name_becomes_one_safe_part(name: str) -> None:
    part = encode_part(name)
    assert "/" not in part
    assert part not in (".", "..")
    assert name == decode_part(part)
