"""Talking to a user's replica set: connect, ask, reconfigure. Every call has a deadline.

PyMongo's errors become ours here, once: Unreachable where no server answered, DeploymentError where one refused.
With `tls`, a client shows its certificate, and believes only servers whose certificates name them.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from ebbtide.domain.replica_set import join_host_port, split_host_port
from ebbtide.errors import EbbtideError, InvalidInput, Unreachable
from ebbtide.mongod.client import PromptClient
from ebbtide.mongod.tls import TlsMaterial, client_options

Document = dict[str, Any]

UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18

# What a URI may say besides its hosts. Others could make the service read its own files, or send its own tokens.
_URI_OPTIONS = frozenset(
    {"replicaset", "directconnection", "readpreference", "retrywrites", "retryreads", "w", "appname"}
    | {"connecttimeoutms", "serverselectiontimeoutms", "sockettimeoutms", "authsource"}
    # A mongodb+srv:// URI means TLS unless it says that it does not.
    | {"tls"}
)
_SRV = "mongodb+srv://"

# A reconfiguration that meets another one, or a primary that just stepped down, is worth another try.
_RECONFIG_RETRY_CODES = frozenset({103, 109, 10107, 13435, 11602, 189, 91, 11600, 308})


class DeploymentError(EbbtideError):
    """A server of the deployment refused a command."""

    exit_code = 6
    retryable = True

    def __init__(self, message: str, *, code: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Who to log in as. The password is kept out of `repr`."""

    username: str
    password: str
    auth_source: str = "admin"

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


@dataclass(frozen=True, kw_only=True)
class MemberCertificate:
    """Log in as the internal user, by the certificate of a member that the client shows."""


Login = Credentials | MemberCertificate


@contextmanager
def translated_errors(what: str) -> Iterator[None]:
    """Turn PyMongo's errors into ours."""
    try:
        yield
    except OperationFailure as error:
        # `details` may quote our command; the server's message alone is enough.
        message = (error.details or {}).get("errmsg", str(error))
        raise DeploymentError(f"{what}: {message}", code=error.code) from error
    except ConnectionFailure as error:
        raise Unreachable(f"{what}: {_short(error)}") from error
    except PyMongoError as error:
        raise DeploymentError(f"{what}: {_short(error)}") from error


def _short(error: Exception) -> str:
    """The first sentence of PyMongo's message, without its dump of the topology."""
    return str(error).split(", Timeout:")[0].split(", Topology Description")[0]


def check_uri(uri: str) -> None:
    """Raise InvalidInput for a URI that cannot be used as it is: malformed, or with a password in it."""
    plain = f"mongodb://{uri.removeprefix(_SRV)}" if uri.startswith(_SRV) else uri
    if not plain.startswith("mongodb://"):
        raise InvalidInput(
            "uri", expected="a connection string that begins with mongodb:// or mongodb+srv://"
        )
    try:
        # Not yet by asking DNS: a name that is not there is no mistake of form.
        parsed = parse_uri(plain, default_port=0, validate=True, warn=False)
    except (PyMongoError, ValueError) as error:
        raise InvalidInput("uri", expected=f"a MongoDB connection string ({error})") from None
    nodes = parsed.get("nodelist", [])
    if uri.startswith(_SRV) and (len(nodes) != 1 or nodes[0][1]):
        raise InvalidInput("uri", expected="one name, without a port, after mongodb+srv://")
    unwanted = sorted(set(map(str.lower, parsed.get("options", {}))) - _URI_OPTIONS)
    if unwanted:
        raise InvalidInput(
            "uri",
            expected=f"no option but {', '.join(sorted(_URI_OPTIONS))}",
            got=", ".join(unwanted),
            hint="credentials and certificates have fields of their own",
        )
    if any(host.startswith("/") for host, _ in parsed.get("nodelist", [])):
        raise InvalidInput("uri", expected="host names or addresses, not sockets of this machine")
    if parsed.get("username") or parsed.get("password"):
        raise InvalidInput(
            "uri",
            expected="no user name or password in it",
            hint="give them as username and password (--username NAME --password-file FILE)",
        )


def connect_to_set(
    uri: str,
    login: Login | None,
    *,
    tls: TlsMaterial | None = None,
    timeout_seconds: float = 10.0,
    options: Mapping[str, Any] | None = None,
) -> MongoClient[Document]:
    """A client of the whole set, which finds its primary. `options` are PyMongo's, and stand above those of the URI.

    Raises InvalidInput, Unreachable where DNS lacks the name.
    """
    return _client(uri, login, tls, timeout_seconds, directConnection=False, **(options or {}))


def connect_to_member(
    host_port: str, login: Login | None, *, tls: TlsMaterial | None = None, timeout_seconds: float = 10.0
) -> MongoClient[Document]:
    """A client of one member and no other."""
    host, port = split_host_port(host_port)
    shown = f"[{host}]" if ":" in host else host
    return _client(f"mongodb://{shown}:{port}/", login, tls, timeout_seconds, directConnection=True)


def _client(
    uri: str, login: Login | None, tls: TlsMaterial | None, timeout_seconds: float, **options: Any
) -> MongoClient[Document]:
    match login:
        case Credentials():
            options |= {
                "username": login.username,
                "password": login.password,
                "authSource": login.auth_source,
            }
        case MemberCertificate():
            options["authMechanism"] = "MONGODB-X509"
        case None:
            pass
    if uri.startswith(_SRV):
        hosts_of(uri)
    milliseconds = int(timeout_seconds * 1000)
    try:
        with client_options(tls) as tls_options:
            defaults = {
                "appname": "ebbtide",
                "serverSelectionTimeoutMS": milliseconds,
                "connectTimeoutMS": milliseconds,
                # A command that takes longer than this has a deadline of its own (maxTimeMS).
                "socketTimeoutMS": max(60_000, milliseconds),
            }
            return PromptClient(uri, **{**defaults, **options, **tls_options})
    except (ConfigurationError, ValueError) as error:
        raise InvalidInput("uri", expected=f"a usable connection string ({error})") from None


def run_admin(client: MongoClient[Document], command: str, value: Any = 1, **options: Any) -> Document:
    """One command on `admin`."""
    with translated_errors(command):
        return client.admin.command(command, value, **options)


def get_configuration(client: MongoClient[Document]) -> Document:
    """The set's configuration, as the primary has it."""
    configuration: Document = run_admin(client, "replSetGetConfig")["config"]
    return configuration


def get_fcv(client: MongoClient[Document]) -> str:
    """The feature compatibility version, e.g. `6.0`."""
    reply = run_admin(client, "getParameter", featureCompatibilityVersion=1)
    return str(reply["featureCompatibilityVersion"]["version"])


def reconfigure(
    client: MongoClient[Document],
    plan: Callable[[Mapping[str, Any]], dict[str, Any] | None],
    *,
    timeout_seconds: float = 60.0,
) -> bool:
    """Change the configuration as `plan` says; False where it says that nothing is to change.

    Reads, plans and writes again when another reconfiguration came between, until the deadline.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            wanted = plan(get_configuration(client))
            if wanted is None:
                return False
            run_admin(client, "replSetReconfig", wanted, maxTimeMS=30_000)
            return True
        except DeploymentError as error:
            if error.code not in _RECONFIG_RETRY_CODES or time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def data_bytes(client: MongoClient[Document]) -> int:
    """Bytes that the data takes on the answering member's disk, all databases together."""
    return int(run_admin(client, "listDatabases").get("totalSize", 0))


def oplog_max_bytes(client: MongoClient[Document]) -> int:
    """The size to which the oplog may grow."""
    with translated_errors("collStats of the oplog"):
        stats = client.local.command("collStats", "oplog.rs")
    return int(stats.get("maxSize", 0))


def first_host(uri: str) -> str:
    """`host:port` of the first server that `uri` names."""
    return hosts_of(uri)[0]


def hosts_of(uri: str) -> list[str]:
    """`host:port` of each server that `uri` names, as a set's configuration would write it.

    Raises Unreachable where DNS does not tell the hosts of a mongodb+srv:// URI.
    """
    try:
        nodes = parse_uri(uri, warn=False)["nodelist"]
    except ConfigurationError as error:
        raise Unreachable(f"DNS does not tell the hosts of {uri.split('?')[0]}: {_short(error)}") from error
    return [join_host_port(host, port or 27017) for host, port in nodes]


def keyfile_credentials(keyfile: str) -> Credentials:
    """The internal user that whoever holds the keyfile may be."""
    return Credentials(username="__system", password="".join(keyfile.split()), auth_source="local")
