"""Choosing ports."""

import socket

import pytest

from ebbtide.mongod import ports


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("32768\t60999\n", [20000, 32767, 61000, 65535], [19999, 27017, 32768, 60999]),
        ("1024 65535", [], [20000, 65535]),
        ("", [20000], [32768]),
        ("nonsense", [20000], [32768]),
    ],
)
def test_candidates_lie_outside_the_ephemeral_range(text: str, inside: list[int], outside: list[int]) -> None:
    candidates = set(ports.candidate_ports(text))
    assert set(inside) <= candidates
    assert candidates.isdisjoint(outside)


def test_no_port_is_handed_out_twice() -> None:
    found = [ports.free_port() for _ in range(30)]
    assert len(set(found)) == len(found)


def test_the_kernel_chooses_where_no_candidate_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "candidate_ports", lambda _: [])
    assert ports.free_port() > 0


def test_a_port_that_is_listened_on_is_not_bindable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not ports.is_bindable("127.0.0.1", server.getsockname()[1])
    assert not ports.is_bindable("198.51.100.1", 20000)
