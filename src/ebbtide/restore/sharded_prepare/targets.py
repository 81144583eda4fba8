"""Where each part of a new sharded cluster will be: `NAME=[SET/]HOST:PORT[,HOST:PORT…]`. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ebbtide.domain.replica_set import is_localhost, split_host_port
from ebbtide.domain.sharding import CONFIG_PART
from ebbtide.errors import InvalidInput
from ebbtide.restore.archive_directory import SET_NAME, parse_host

OPTION = "--part"
_EXPECTED = "NAME=HOST:PORT, NAME=HOST:PORT,HOST:PORT… or NAME=SET/HOST:PORT…"
_PART_NAME = re.compile(r"[^\s=/,]+")


@dataclass(frozen=True, kw_only=True)
class PartTarget:
    """Where a part will be. `hosts` has its first member, which begins with the files, and those added empty later.

    `name` is the shard's, or `config`. `replica_set_name` is None for the name that the set has in the files.
    """

    name: str
    hosts: tuple[str, ...]
    replica_set_name: str | None = None

    @property
    def is_config_server(self) -> bool:
        return self.name == CONFIG_PART


def parse_targets(texts: Sequence[str]) -> Mapping[str, PartTarget]:
    """Every part's target by its name, the config server's first.

    Raises InvalidInput for text of another shape, a part or a host that is named twice, localhost beside other hosts,
    and where the config server or all shards are missing.
    """
    found: dict[str, PartTarget] = {}
    for text in texts:
        target = _parse_target(text)
        if target.name in found:
            raise InvalidInput(OPTION, expected=f"each part once, and {target.name} is there twice")
        found[target.name] = target
    hosts = [host for target in found.values() for host in target.hosts]
    doubled = sorted({host for host in hosts if hosts.count(host) > 1})
    if doubled:
        raise InvalidInput(OPTION, expected=f"another host or port for each member, not {doubled[0]} for two")
    if CONFIG_PART not in found or len(found) == 1:
        missing = f"{CONFIG_PART}=HOST:PORT" if CONFIG_PART not in found else "SHARD=HOST:PORT"
        raise InvalidInput(
            OPTION, expected=f"one for the config server and one for each shard; {missing} is missing"
        )
    # The servers refuse such a cluster: to another machine, localhost is somebody else.
    if len({is_localhost(split_host_port(host)[0]) for host in hosts}) > 1:
        raise InvalidInput(OPTION, expected="localhost addresses for all parts, or for none")
    return {name: found[name] for name in sorted(found, key=lambda name: (name != CONFIG_PART, name))}


def _parse_target(text: str) -> PartTarget:
    name, equals, address = text.partition("=")
    set_name, slash, hosts = address.rpartition("/")
    good_set = SET_NAME.fullmatch(set_name) if slash else True
    if not equals or not _PART_NAME.fullmatch(name) or not good_set:
        raise InvalidInput(OPTION, expected=_EXPECTED, got=text)
    return PartTarget(
        name=name,
        hosts=tuple(parse_host(host, option=OPTION) for host in hosts.split(",")),
        replica_set_name=set_name or None,
    )
