"""`--part NAME=[SET/]HOST:PORT[,HOST:PORT…]`: what is taken, and what is refused before anything is opened."""

import pytest

from ebbtide.errors import InvalidInput
from ebbtide.restore.sharded_prepare.targets import PartTarget, parse_targets

CONFIG, SHARD = "config=cfg1:27019", "shard0=a1:27018"


def test_each_part_has_its_hosts_and_perhaps_another_name_for_its_set() -> None:
    found = parse_targets(["s1=a1:1,a2:2,a3", "config=csrs/cfg:9", "s0=[fd00::1]:4"])
    assert {
        "config": PartTarget(name="config", hosts=("cfg:9",), replica_set_name="csrs"),
        "s0": PartTarget(name="s0", hosts=("[fd00::1]:4",)),
        "s1": PartTarget(name="s1", hosts=("a1:1", "a2:2", "a3:27017")),
    } == found
    assert list(found) == ["config", "s0", "s1"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([SHARD], "config=HOST:PORT is missing"),
        ([CONFIG], "SHARD=HOST:PORT is missing"),
        ([CONFIG, SHARD, "shard0=b1:1"], "shard0 is there twice"),
        ([CONFIG, SHARD, "shard1=a1:27018"], "not a1:27018 for two"),
        ([CONFIG, "shard0=a1:1,a1:1"], "not a1:1 for two"),
        ([CONFIG, "shard0=localhost:1"], "localhost addresses for all parts, or for none"),
        ([CONFIG, "shard0"], "NAME=HOST:PORT"),
        ([CONFIG, "=a1:1"], "NAME=HOST:PORT"),
        ([CONFIG, "shard0=/a1:1"], "NAME=HOST:PORT"),
        ([CONFIG, "shard0=a b/a1:1"], "NAME=HOST:PORT"),
        ([CONFIG, "shard0=rs/x/a1:1"], "NAME=HOST:PORT"),
        ([CONFIG, "shard0="], "HOST:PORT, as members"),
        ([CONFIG, "shard0=a1:1,"], "HOST:PORT, as members"),
        ([CONFIG, "shard0=a1:0"], "HOST:PORT, as members"),
        ([CONFIG, "shard0=0.0.0.0:1"], "HOST:PORT, as members"),
    ],
)
def test_what_is_half_given_or_ambiguous_is_refused(texts: list[str], expected: str) -> None:
    with pytest.raises(InvalidInput, match="--part") as error:
        parse_targets(texts)
    assert expected in error.value.message


def test_localhost_is_fine_for_a_cluster_that_is_all_there() -> None:
    assert len(parse_targets(["config=localhost:1", "shard0=127.0.0.1:2", "shard1=[::1]:3"])) == 3
