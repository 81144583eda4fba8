"""The first start: a group and an owner key, born with an access list; and replacing a lost owner key.

The private key is written down (a profile or a file, 0600) *before* the catalog takes the key, so a crash between the
two never leaves an owner that nobody can be: without an owner key in the catalog the next start makes another.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ebbtide.catalog.catalog import Catalog
from ebbtide.cli.profile import write_profile
from ebbtide.clock import Clock, SystemClock
from ebbtide.credentials import digest_ha1, new_api_key, new_private_key
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.access import ApiKey, Grant, Role
from ebbtide.domain.access_list import AccessEntry, parse_network
from ebbtide.domain.event import EventLevel
from ebbtide.domain.group import Group
from ebbtide.domain.ids import GroupId, new_id
from ebbtide.errors import NotFound, Unreachable
from ebbtide.events import record_event
from ebbtide.sealing import ServiceKey
from ebbtide.serve.catalog_mongod import start_catalog
from ebbtide.serve.serve_lock import take_serve_lock
from ebbtide.settings import Settings

FIRST_GROUP_NAME = "default"
LOOPBACK = ("127.0.0.1/32", "::1/128")


@dataclass(frozen=True, kw_only=True)
class OwnerKey:
    """A new owner key; `written_to` is where the private key was written down, as which profile if as one."""

    public_key: str
    private_key: str
    group_id: GroupId
    written_to: Path
    profile_name: str | None


def ensure_owner(
    catalog: Catalog,
    *,
    directory: DataDirectory,
    service_key: ServiceKey,
    clock: Clock,
    base_url: str,
    allow: Sequence[str],
    on_terminal: bool,
) -> OwnerKey | None:
    """Make the first group and the owner key where they lack; None where there is an owner already.

    On a terminal a profile for the command line is written, else `owner-key.json` in the data directory.
    """
    groups = catalog.groups.list_all()
    if not groups:
        groups = [Group(id=GroupId(new_id()), name=FIRST_GROUP_NAME, created=clock.now())]
        catalog.groups.insert(groups[0])
    if any(key.owner for key in catalog.api_keys.list_all()):
        return None
    key, private_key = new_api_key(
        description="owner, made by the first start",
        grants=(Grant(role=Role.GLOBAL_OWNER, group_id=None),),
        access_list=_entries([*LOOPBACK, *allow], clock),
        owner=True,
        service_key=service_key,
        clock=clock,
    )
    group_id = groups[0].id
    if on_terminal:
        profile = write_profile(
            base_url=base_url,
            public_key=key.public_key,
            private_key=private_key,
            group_id=group_id,
            environment=os.environ,
        )
        written, profile_name = profile.path, profile.name
    else:
        profile_name = None
        written = _write_key_file(
            directory, key.public_key, private_key, group_id=group_id, base_url=base_url
        )
    catalog.api_keys.insert(key)
    record_event(
        catalog,
        clock,
        level=EventLevel.INFO,
        kind="key.created",
        message=f"owner key {key.public_key} was created",
    )
    return OwnerKey(
        public_key=key.public_key,
        private_key=private_key,
        group_id=group_id,
        written_to=written,
        profile_name=profile_name,
    )


def _entries(networks: Sequence[str], clock: Clock) -> tuple[AccessEntry, ...]:
    normal = dict.fromkeys(parse_network(text, field="--allow") for text in networks)
    return tuple(AccessEntry(cidr=cidr, created=clock.now()) for cidr in normal)


def _write_key_file(
    directory: DataDirectory, public_key: str, private_key: str, *, group_id: GroupId, base_url: str
) -> Path:
    path = directory.owner_key_file
    content = {
        "base_url": base_url,
        "public_key": public_key,
        "private_key": private_key,
        "group_id": group_id,
    }
    # mkstemp makes files of mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".owner-key.")
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
    return path


def reset_owner(data_dir: Path, settings: Settings) -> tuple[str, str]:
    """Give the owner key a new private key; the old one stops working at once. Returns (public, private).

    Works beside a running `ebbtide serve` and without one. Raises NotFound where the first start never happened,
    Refused where a serve runs whose catalog does not answer.
    """
    directory = DataDirectory.at(data_dir)
    if not directory.catalog.is_dir() and settings.text("catalog.uri") is None:
        raise NotFound(
            f"{directory.root} is no data directory of Ebbtide", hint="give the --data of ebbtide serve"
        )
    service_key = ServiceKey.load_or_create(directory.service_key_file(settings))
    try:
        return _reset(directory, settings, service_key, timeout_seconds=2)
    except Unreachable:
        if settings.text("catalog.uri") is not None:
            raise
    # Under the lock: the catalog of a serve that is only slow to answer is not ours to stop.
    with take_serve_lock(directory):
        process = start_catalog(directory, settings)
        try:
            return _reset(directory, settings, service_key, timeout_seconds=10)
        finally:
            process.stop()


def _reset(
    directory: DataDirectory, settings: Settings, service_key: ServiceKey, *, timeout_seconds: float
) -> tuple[str, str]:
    catalog = Catalog.connect(directory.catalog_uri(settings), timeout_seconds=timeout_seconds)
    try:
        catalog.ping()
        owner = _find_owner(catalog)
        private_key = new_private_key()
        sealed = service_key.seal(digest_ha1(owner.public_key, private_key), record_id=owner.id)
        catalog.api_keys.replace_secret(owner.id, sealed)
        clock = SystemClock()
        for cidr in LOOPBACK:
            catalog.api_keys.allow(owner.id, AccessEntry(cidr=cidr, created=clock.now()))
        record_event(
            catalog,
            clock,
            level=EventLevel.WARNING,
            kind="key.reset",
            message=f"owner key {owner.public_key} was given a new private key on the server itself",
        )
        return owner.public_key, private_key
    finally:
        catalog.close()


def _find_owner(catalog: Catalog) -> ApiKey:
    for key in catalog.api_keys.list_all():
        if key.owner:
            return key
    raise NotFound("there is no owner key yet", hint="start ebbtide serve once")
