"""What would register each part of a sharded cluster alone."""

import pytest

from ebbtide.backup.registration_checks import RegistrationRequest
from ebbtide.backup.sharded_registration import part_requests
from ebbtide.domain.sharding import PartAddress, ShardedTopology
from ebbtide.errors import Refused


def _topology(*shards: str) -> ShardedTopology:
    return ShardedTopology(
        config=PartAddress(name="config", replica_set_name="cfg", hosts=("a.example:27019",)),
        shards=tuple(
            PartAddress(name=name, replica_set_name=name, hosts=(f"{name}.example:27018",)) for name in shards
        ),
    )


def _request(head_port: int | None = None) -> RegistrationRequest:
    return RegistrationRequest(name="bank", uri="mongodb://a.example:27019", head_port=head_port)


def test_each_part_is_named_after_the_cluster_and_reached_by_its_own_set() -> None:
    wanted = part_requests(_request(), _topology("rs_0", "east.1"))

    assert [(address.name, part.name, part.uri) for address, part in wanted] == [
        ("config", "bank-config", "mongodb://a.example:27019/?replicaSet=cfg"),
        ("rs_0", "bank-rs-0", "mongodb://rs_0.example:27018/?replicaSet=rs_0"),
        ("east.1", "bank-east-1", "mongodb://east.1.example:27018/?replicaSet=east.1"),
    ]


def test_heads_take_the_port_that_was_given_and_the_next_ones() -> None:
    assert [part.head_port for _, part in part_requests(_request(7000), _topology("a", "b"))] == [
        7000,
        7001,
        7002,
    ]
    assert [part.head_port for _, part in part_requests(_request(), _topology("a"))] == [None, None]


def test_shards_whose_names_would_be_one_are_refused() -> None:
    with pytest.raises(Refused, match="bank-rs-0"):
        part_requests(_request(), _topology("rs_0", "rs.0"))
