"""A throwaway replica set of real mongods on loopback, up in seconds: for tests and for the demo.

Shape of a lab's directory:

    <base>/                     <temporary directory>/ebbtide-lab-<uid>, 0700
      <root>/owner.json         pid, start ticks and boot id of the process that started the lab
      <root>/keyfile            0600, only with a keyfile
      <root>/ca.pem             only with TLS; client.pem (0600) beside it is what the lab's own clients show
      <root>/member-0/          identity.json, mongod.log, data/, with TLS certificate.pem; and so on for each member

Crash: mongods outlive a killed owner. Every start of a lab sweeps the base directory: it kills the mongods of labs
whose owner is gone, and removes their directories.

One thread uses a lab; clients that it hands out may be used anywhere.
"""

import base64
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from bson import Timestamp
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, PyMongoError

from ebbtide.domain.replica_set import ClusterAuthMode, TlsMode
from ebbtide.errors import MongodError, Refused
from ebbtide.mongod.options import ClusterRole, MongodOptions, ParameterValue, Tcp, TlsFiles
from ebbtide.mongod.ports import free_port
from ebbtide.mongod.process import MongodProcess
from ebbtide.testing.certificates import CLIENT_UNIT, Authority
from ebbtide.testing.lab_directory import (
    IDENTITY_FILE,
    default_base_directory,
    sweep_dead_labs,
    sweep_if_dead,
    write_owner,
    write_private,
)
from ebbtide.testing.lab_member import LabMember, find_hello

Document = dict[str, Any]
T = TypeVar("T")

SERVER_DATABASES = frozenset({"admin", "config", "local"})
BACKUP_ROLES = ("backup", "clusterMonitor", "clusterManager", "hostManager", "readAnyDatabase")
"""The least that Ebbtide needs on a cluster it backs up."""

ELECTION_TIMEOUT_MILLIS = 10_000
"""The server's default. Shorter, and a busy machine elects without need; who needs a primary sooner asks for one."""

HEARTBEAT_MILLIS = 500
FIRST_ELECTION_MILLIS = 500
FIRST_HEARTBEAT_MILLIS = 100
"""Until all members are up: a new set waits one election timeout before it votes at all."""

STEP_DOWN_SECONDS = 10
WAIT_SECONDS = 90.0
"""How long the lab waits for anything. Far more than it takes: a test fails by what it finds, not by a busy machine."""

_POLL_SECONDS = 0.05
_RECONFIG_TRIES_MAX = 20


class ReplicaSetLab:
    """A replica set of `members` mongods.

    With `keyfile` members authenticate each other with a generated keyfile, with `x509` (which needs `tls`) by their
    certificates; with either there are two users with random passwords: `root_username` with the role root, and
    `backup_username` with exactly BACKUP_ROLES. Else there are no users. With `tls` a generated authority, `authority`,
    signs each member's certificate. `member_settings` go into the set's configuration, by the member's index:
    `{1: {"hidden": True, "priority": 0}, 2: {"arbiterOnly": True}}`, say. With `cluster_role` it is a part
    of a sharded cluster; passwords and `keyfile_text` may be replaced before the start, so that parts share them. `root` is a directory that does not exist or is empty (default: a new one in the base directory);
    `stop` removes it. Each member keeps about 0.3 GB of disk even when empty.
    """

    def __init__(
        self,
        *,
        binary: Path,
        members: int = 3,
        keyfile: bool = False,
        tls: TlsMode = TlsMode.DISABLED,
        x509: bool = False,
        member_settings: Mapping[int, Document] | None = None,
        replica_set_name: str = "rs0",
        root: Path | None = None,
        cache_gb: float = 0.25,
        oplog_size_mb: int = 990,
        host: str = "127.0.0.1",
        set_parameters: Mapping[str, ParameterValue] | None = None,
        cluster_role: ClusterRole | None = None,
        extra_flags: tuple[str, ...] = (),
    ) -> None:
        self.replica_set_name = replica_set_name
        self.members: list[LabMember] = []
        has_users = keyfile or x509
        self.root_username = "root" if has_users else None
        self.root_password = secrets.token_urlsafe(18) if has_users else None
        self.backup_username = "backup" if has_users else None
        self.backup_password = secrets.token_urlsafe(18) if has_users else None
        self.authority = Authority.create() if tls is not TlsMode.DISABLED else None
        self.keyfile_text = base64.b64encode(secrets.token_bytes(300)).decode() if keyfile else None
        self.keyfile_path: Path | None = None
        self._binary = binary
        self._member_count = members
        self._has_users = has_users
        self._tls_mode = tls
        self._has_x509 = x509
        self._member_settings = dict(member_settings or {})
        self._root = root
        self._cache_gb = cache_gb
        self._oplog_size_mb = oplog_size_mb
        self._host = host
        self._set_parameters = dict(set_parameters or {})
        self._cluster_role = cluster_role
        self._extra_flags = extra_flags

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self, *, timeout_seconds: float = WAIT_SECONDS) -> Self:
        """Start all members, make them a set, and wait for a primary and for every secondary.

        Raises MongodStartFailed or MongodError, and then leaves nothing behind.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            self._prepare_root()
            self._spawn_members()
            for member in self.members:
                member.process.wait_until_ready(ready_seconds=deadline - time.monotonic())
            self._initiate()
            self._wait_for_all_members(deadline)
            if self._has_users:
                self._create_users()
            self._calm_down()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill the members and remove everything. Harmless if the lab is not running."""
        # Nobody reads the data any more, so a clean shutdown would only take time.
        for member in self.members:
            member.process.kill()
        self.members.clear()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def root(self) -> Path:
        """The lab's directory. Raises Refused before the start."""
        if self._root is None:
            raise Refused("the lab has no directory yet", hint="start it")
        return self._root

    # --- reaching it ----------------------------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """A connection string to the set, without credentials."""
        hosts = ",".join(member.address for member in self.members)
        return f"mongodb://{hosts}/?replicaSet={self.replica_set_name}"

    def client(self, **client_options: Any) -> "MongoClient[Document]":
        """A new client to the set, as root; the caller closes it. Options are PyMongo's."""
        return MongoClient(self.uri, **(self._client_defaults() | client_options))

    def member_client(self, index: int, **client_options: Any) -> "MongoClient[Document]":
        """A new client to one member alone, as root; the caller closes it."""
        return self.members[index].process.client(**(self._client_defaults() | client_options))

    def find_primary(self) -> LabMember | None:
        """The member that calls itself primary now."""
        for member in self.members:
            hello = find_hello(member)
            if hello is not None and hello.get("isWritablePrimary"):
                return member
        return None

    def primary(self, *, timeout_seconds: float = WAIT_SECONDS) -> LabMember:
        """The primary, waited for. Raises MongodError if there is none in time."""

        def look() -> LabMember | None:
            found = self.find_primary()
            if found is None:
                self._ask_for_election()
            return found

        return _wait_for(look, "a primary", timeout_seconds=timeout_seconds)

    # --- trouble on purpose ---------------------------------------------------------------------------------------

    def step_down(self) -> LabMember:
        """Make the primary step down; the new primary."""
        old = self.primary()
        with self.member_client(old.index) as client, suppress(AutoReconnect):
            client.admin.command(
                "replSetStepDown", STEP_DOWN_SECONDS, secondaryCatchUpPeriodSecs=STEP_DOWN_SECONDS - 1
            )

        def another() -> LabMember | None:
            found = self.find_primary()
            return None if found is None or found.index == old.index else found

        return _wait_for(another, "another primary", timeout_seconds=WAIT_SECONDS)

    def kill_member(self, index: int) -> None:
        """End a member with SIGKILL; its data stays."""
        self.members[index].process.kill()

    def restart_member(self, index: int, *, timeout_seconds: float = WAIT_SECONDS) -> LabMember:
        """Start a member again, stopping it first if it runs, and wait until it is primary or secondary."""
        member = self.members[index]
        member.process.stop()
        member.process = MongodProcess.start(
            self._binary,
            member.process.options,
            identity_path=member.process.identity_path,
            ready_seconds=timeout_seconds,
        )
        _wait_for(
            lambda: self._is_usable(member) or None,
            f"member {index} to be primary or secondary",
            timeout_seconds=timeout_seconds,
        )
        return member

    # --- between tests --------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Bring the lab back to how it was after its start, as far as another test could notice."""
        for member in self.members:
            if not member.process.is_running():
                self.restart_member(member.index)
        self.remove_foreign_members()
        self.drop_user_databases()
        self.drop_foreign_users()
        self.wait_until_replicated()

    def drop_user_databases(self) -> None:
        """Drop every database but the server's own, and take foreign members out of the set."""
        self.remove_foreign_members()
        self.primary()
        with self.client(w="majority", wTimeoutMS=int(WAIT_SECONDS * 1000)) as client:
            for name in client.list_database_names():
                if name not in SERVER_DATABASES:
                    client.drop_database(name)

    def drop_foreign_users(self) -> None:
        """Drop every user that the lab did not make."""
        ours = {self.root_username, self.backup_username}
        with self.client() as client:
            for user in client.admin.command("usersInfo", {"forAllDBs": True})["users"]:
                if user["db"] != "admin" or user["user"] not in ours:
                    client[user["db"]].command("dropUser", user["user"])

    def remove_foreign_members(self) -> list[str]:
        """Take members that are not the lab's own (heads) out of the set's configuration; their addresses."""
        ours = {member.address for member in self.members}
        removed: list[str] = []

        def without_one(config: Document) -> bool:
            # One at a time: the server refuses to change more than one vote at once.
            foreign = next((m for m in config["members"] if m["host"] not in ours), None)
            if foreign is None:
                return False
            config["members"].remove(foreign)
            removed.append(foreign["host"])
            return True

        while self._reconfigure(without_one):
            pass
        return list(dict.fromkeys(removed))

    def wait_until_replicated(self, *, timeout_seconds: float = WAIT_SECONDS) -> Timestamp:
        """Wait until every running member has applied, and knows as majority committed, what the primary has now.

        The timestamp of that entry.
        """
        primary = self.primary()
        hello = find_hello(primary)
        if hello is None:
            raise MongodError("the lab's primary does not answer")
        target: Timestamp = hello["lastWrite"]["opTime"]["ts"]

        def has_arrived() -> bool | None:
            for member in self.members:
                if not member.process.is_running() or not self._replicates_at_once(member):
                    continue
                found = find_hello(member)
                write = found.get("lastWrite", {}) if found else {}
                for name in ("opTime", "majorityOpTime"):
                    if name not in write or write[name]["ts"] < target:
                        return None
            return True

        _wait_for(has_arrived, "replication", timeout_seconds=timeout_seconds)
        return target

    # --- inside ---------------------------------------------------------------------------------------------------

    def _replicates_at_once(self, member: LabMember) -> bool:
        """Whether it has data, and not late on purpose."""
        settings = self._member_settings.get(member.index, {})
        return not settings.get("arbiterOnly") and not settings.get("secondaryDelaySecs")

    def _client_defaults(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "serverSelectionTimeoutMS": int(WAIT_SECONDS * 1000),
            "appname": "ebbtide-lab",
        }
        if self._has_users:
            defaults |= {
                "username": self.root_username,
                "password": self.root_password,
                "authSource": "admin",
            }
        return defaults | self._tls_defaults()

    def _tls_defaults(self) -> dict[str, Any]:
        if self.authority is None:
            return {}
        return {
            "tls": True,
            "tlsCAFile": str(self.root / "ca.pem"),
            "tlsCertificateKeyFile": str(self.root / "client.pem"),
        }

    def _prepare_root(self) -> None:
        if self._root is None:
            base = default_base_directory()
            sweep_dead_labs(base)
            self._root = Path(tempfile.mkdtemp(prefix="lab-", dir=base))
        else:
            self._root = self._root.absolute()
            sweep_if_dead(self._root)
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(self._root.iterdir()):
                # Forgotten at once, so that the cleaning up after this error does not remove what is not ours.
                root, self._root = self._root, None
                raise Refused(f"{root} is not empty", hint="a lab needs a directory of its own")
        write_owner(self._root)
        if self.keyfile_text is not None:
            self.keyfile_path = self._root / "keyfile"
            write_private(self.keyfile_path, self.keyfile_text + "\n")
        if self.authority is not None:
            write_private(self._root / "ca.pem", self.authority.ca)
            write_private(self._root / "client.pem", self.authority.issue("lab", unit=CLIENT_UNIT))

    def _spawn_members(self) -> None:
        for index in range(self._member_count):
            directory = self.root / f"member-{index}"
            options = MongodOptions(
                dbpath=directory / "data",
                log_path=directory / "mongod.log",
                listen=Tcp(host=self._host, port=free_port(self._host)),
                cache_gb=self._cache_gb,
                replica_set_name=self.replica_set_name,
                keyfile=self.keyfile_path,
                tls=self._tls_files(directory),
                cluster_auth_mode=ClusterAuthMode.X509 if self._has_x509 else None,
                authorization=self._has_users,
                cluster_role=self._cluster_role,
                oplog_size_mb=self._oplog_size_mb,
                set_parameters=self._set_parameters,
                extra_flags=self._extra_flags,
            )
            process = MongodProcess.spawn(self._binary, options, identity_path=directory / IDENTITY_FILE)
            listen = options.listen
            if not isinstance(listen, Tcp):
                raise TypeError("a lab's member listens on TCP")
            self.members.append(
                LabMember(
                    index=index,
                    host=listen.host,
                    port=listen.port,
                    dbpath=options.dbpath,
                    process=process,
                )
            )

    def _tls_files(self, directory: Path) -> TlsFiles | None:
        if self.authority is None:
            return None
        directory.mkdir(mode=0o700)
        certificate = directory / "certificate.pem"
        write_private(certificate, self.authority.issue(self._host, "localhost", "127.0.0.1"))
        return TlsFiles(mode=self._tls_mode, ca_file=self.root / "ca.pem", certificate_file=certificate)

    def _initiate(self) -> None:
        config = {
            "_id": self.replica_set_name,
            "members": [
                {"_id": m.index, "host": m.address, **self._member_settings.get(m.index, {})}
                for m in self.members
            ],
            "settings": {
                "electionTimeoutMillis": FIRST_ELECTION_MILLIS,
                "heartbeatIntervalMillis": FIRST_HEARTBEAT_MILLIS,
            },
        }
        # Without credentials: where the set asks for some this is the localhost exception.
        with self.members[0].process.client() as client:
            client.admin.command("replSetInitiate", config)

    def _wait_for_all_members(self, deadline: float) -> None:
        for member in self.members:
            _wait_for(
                lambda member=member: self._is_usable(member) or None,  # type: ignore[misc]
                f"member {member.index} to be primary or secondary",
                timeout_seconds=deadline - time.monotonic(),
            )
        self.primary(timeout_seconds=deadline - time.monotonic())

    def _calm_down(self) -> None:
        """Give the set the timeouts that it lives with."""

        def with_calm_settings(config: Document) -> bool:
            config["settings"]["electionTimeoutMillis"] = ELECTION_TIMEOUT_MILLIS
            config["settings"]["heartbeatIntervalMillis"] = HEARTBEAT_MILLIS
            return True

        self._reconfigure(with_calm_settings)
        self.wait_until_replicated()

    def _reconfigure(self, change: Callable[[Document], bool]) -> bool:
        """Change the set's configuration in place by `change`, tried again through elections; whether it did.

        `change` answers whether there is something to change.
        """
        for _ in range(_RECONFIG_TRIES_MAX):
            with self.member_client(self.primary().index) as client:
                try:
                    config = client.admin.command("replSetGetConfig")["config"]
                    if not change(config):
                        return False
                    config["version"] += 1
                    client.admin.command("replSetReconfig", config)
                    return True
                except PyMongoError as error:
                    # An election, or a configuration that is not yet on a majority: look again.
                    last = error
                    time.sleep(_POLL_SECONDS * 4)
        raise MongodError(f"the lab's set could not be reconfigured: {last}") from last

    def _create_users(self) -> None:
        primary = self.primary()
        with primary.process.client() as client:
            client.admin.command("createUser", self.root_username, pwd=self.root_password, roles=["root"])
        with self.client(w="majority") as client:
            client.admin.command(
                "createUser", self.backup_username, pwd=self.backup_password, roles=list(BACKUP_ROLES)
            )
        self.wait_until_replicated()

    def _ask_for_election(self) -> None:
        """Let a member stand now instead of after the election timeout; one that cannot win changes nothing."""
        running = [member for member in self.members if member.process.is_running()]
        hellos = [find_hello(member) for member in running]
        alive = {member.address for member in running}
        if any(hello is None or hello.get("primary") in alive for hello in hellos):
            return  # there may be one: it is busy, or about to take over
        for member in running:
            if self._replicates_at_once(member):
                with self.member_client(member.index) as client:
                    try:
                        client.admin.command("replSetStepUp")
                        return
                    except PyMongoError:
                        continue

    def _is_usable(self, member: LabMember) -> bool:
        hello = find_hello(member)
        states = ("isWritablePrimary", "secondary", "arbiterOnly")
        return hello is not None and any(hello.get(state) for state in states)


def _wait_for(condition: Callable[[], T | None], what: str, *, timeout_seconds: float) -> T:
    """The first answer of `condition` that is not None. Raises MongodError when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = condition()
        if found is not None:
            return found
        if time.monotonic() >= deadline:
            raise MongodError(
                f"the lab waited {timeout_seconds:.0f} s for {what} in vain",
                hint="see the logs in its directory",
            )
        time.sleep(_POLL_SECONDS)
