"""Settings: one table, read once at start.

Each setting has a dotted name, a type, a default and one sentence. A value comes from, strongest first: a flag, the
environment (`EBBTIDE_HEAD_CACHE_GB` for `head.cache_gb`), a TOML file (`[head] cache_gb = 1`), the default. All bad
values are reported together, each with its name, its source and what was expected. docs/settings.md is rendered from
`SETTINGS` (`ebbtide config reference`), and a test compares them.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ebbtide.errors import InvalidSetting

ENVIRONMENT_PREFIX = "EBBTIDE_"

# Names under the same prefix that are not settings: the command line's own, and test hooks.
NOT_SETTINGS = frozenset(
    {"EBBTIDE_URL", "EBBTIDE_PUBLIC_KEY", "EBBTIDE_PRIVATE_KEY", "EBBTIDE_PROFILE", "EBBTIDE_CRASH_FILE"}
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table. `type_` is what pydantic checks and casts to; `expected` says it to people."""

    name: str
    type_: Any
    default: Any
    expected: str
    about: str

    @property
    def environment_name(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.replace(".", "_").upper()


def _setting(name: str, type_: Any, default: Any, expected: str, about: str) -> Setting:
    return Setting(name=name, type_=type_, default=default, expected=expected, about=about)


def _at_least(type_: type, least: float) -> Any:
    from typing import Annotated

    from pydantic import Field

    return Annotated[type_, Field(ge=least)]


def _matching(pattern: str) -> Any:
    from typing import Annotated

    from pydantic import Field

    return Annotated[str, Field(pattern=pattern)]


# A password in it would be shown wherever settings are.
_WEB_URL = _matching(r"^https?://[^/@\s]+(/\S*)?$")

SETTINGS: tuple[Setting, ...] = (
    _setting("mongod", str | None, None, "path of a mongod", "The mongod to run; default: the packaged one. In the file with `[mongod.binaries]` beside it: `[mongod]` `path`."),
    _setting("mongod.binaries", dict[str, str], {}, "paths by major version", "Mongods for heads of sets of that version: `6.0=/path,7.0=/path`; in the file `[mongod.binaries]` `\"6.0\" = \"/path\"`. Others run `mongod`."),
    _setting("api.listen", str, "127.0.0.1:27080", "HOST:PORT", "Where the API listens. Beyond loopback it needs TLS."),
    _setting("api.external_url", str | None, None, "URL", "What links begin with; default: the address listened on."),
    _setting("api.insecure_http", bool, False, "true or false", "Allow plain HTTP beyond loopback: anyone on the way can read the backups."),
    _setting("api.tls_certificate_file", str | None, None, "path of a PEM file", "Certificate chain of the API; with `api.tls_key_file`."),
    _setting("api.tls_key_file", str | None, None, "path of a PEM file", "Private key of that certificate."),
    _setting("api.allow", list[str], [], "list of addresses or CIDR blocks", "Added to the owner key's access list when the first start creates it."),
    _setting("api.trusted_proxies", list[str], [], "list of addresses or CIDR blocks", "Proxies whose `X-Forwarded-For` is believed; no other's ever is."),
    _setting("api.body_bytes_max", _at_least(int, 1024), 1024 * 1024, "bytes, at least 1024", "Larger request bodies are refused with 413."),
    _setting("api.caller_requests_per_minute", _at_least(int, 0), 30_000, "number; 0: no limit", "Calls of one key or service account; more get 429. Each API process counts for itself."),
    _setting("api.group_requests_per_minute", _at_least(int, 0), 60_000, "number; 0: no limit", "Calls about one project, by all of its callers together."),
    _setting("api.failed_logins_per_minute", _at_least(int, 0), 10, "number; 0: no limit", "Wrong credentials for one key or service account from one address; then none are judged for a while."),
    _setting("downloads.transfers_max", _at_least(int, 1), 8, "number, at least 1", "Transfers of one restore job at once; more get 429."),
    _setting("downloads.resume_minutes", _at_least(int, 0), 60, "minutes", "How long after its expiry a broken download may be resumed."),
    _setting("downloads.links_for_readers", bool, False, "true or false", "Show download links to read-only keys too, as the hosted service did."),
    _setting("catalog.uri", str | None, None, "MongoDB URI", "A catalog of your own (a replica set); default: a private mongod under the data directory."),
    _setting("catalog.cache_gb", _at_least(float, 0.25), 0.25, "GB, at least 0.25", "Cache of the private catalog; 0.25 is the least that mongod takes."),
    _setting("catalog.keep_days", _at_least(int, 0), 400, "days; 0: for ever", "Events, and the record of downloads, older than this are removed from the catalog."),
    _setting("repository.path", str | None, None, "path of a directory", "Where snapshots are stored; default: `repository` under the data directory."),
    _setting("repository.delete_delay_hours", _at_least(float, 0), 24.0, "hours", "So long a snapshot that a person deleted can be brought back; only then may prune remove it."),
    _setting("repository.prune_grace_hours", _at_least(float, 0), 12.0, "hours", "So long prune leaves an object alone after it first saw that no snapshot refers to it."),
    _setting("repository.prune_every_hours", _at_least(float, 0), 6.0, "hours; 0: only when asked", "How often prune runs by itself."),
    _setting("repository.write_bytes_per_second", _at_least(float, 0), 0.0, "bytes per second; 0: no limit", "How fast each worker writes to the repository at most. A head may be locked for longer then."),
    _setting("repository.min_free_bytes", _at_least(int, 0) | None, None, "bytes; 0: none", "With less free, snapshots wait; default: 5 % of the filesystem, at most 10 GiB."),
    _setting("service.key_file", str | None, None, "path of a file", "The service key; default: `secret.key` under the data directory."),
    _setting("head.cache_gb", _at_least(float, 0.25), 0.5, "GB, at least 0.25", "Cache of each head's mongod; it applies the oplog and serves no reads."),
    _setting("head.read_bytes_per_second", _at_least(float, 0), 0.0, "bytes per second; 0: no limit", "How fast a snapshot reads its head's files at most. The head may be locked for longer then."),
    _setting("head.reach_seconds", _at_least(float, 1), 30.0, "seconds", "After joining, every voting member must reach the head within this time."),
    _setting("head.host", str, "127.0.0.1", "host name or address", "The address at which the set's members reach heads on this machine."),
    _setting("snapshot.full_read_every_hours", _at_least(int, 1), 168, "hours", "So often every file is read in full, whatever its times say."),
    _setting("snapshot.lock_warn_seconds", _at_least(float, 1), 300.0, "seconds", "A head locked for longer is an event."),
    _setting("snapshot.pause_buffer_bytes", _at_least(int, 0), 1024**3, "bytes; 0: never", "Where a snapshot has at most so much to read, that is copied beside its head's files while the head is locked, and stored once it is free again; more is stored under the lock. Of no use where files can be cloned; not done where `head.read_bytes_per_second` is set."),
    _setting("cluster_snapshot.migration_wait_seconds", _at_least(float, 0), 300.0, "seconds", "So long a snapshot of a sharded cluster waits for chunks that are being moved; then its parts are taken all the same, and it says that it is possibly inconsistent."),
    _setting("cluster_snapshot.wait_minutes", _at_least(float, 0.01), 60.0, "minutes, at least 0.01", "A snapshot of a sharded cluster is given up, and the balancer put back, when no part's snapshot went on for so long."),
    _setting("restore.cache_gb", _at_least(float, 0), 0.0, "GB, at least 0.25; 0: by itself", "Cache of the mongod that a restore replays and reads with; by itself: a quarter of the memory that is free, at most 8."),
    _setting("restore.undo_hours", _at_least(float, 0), 72.0, "hours", "So long, from its undo point on, a restore into a running set can be undone: the snapshot and the archived oplog that this takes stay, whatever schedule and window say."),
    _setting("oplog.slice_seconds", _at_least(float, 1), 15.0, "seconds, at least 1", "So far the oplog archive may be behind its set; a slice is stored at least that often."),
    _setting("oplog.upkeep_seconds", _at_least(float, 1), 60.0, "seconds, at least 1", "How often slices of the oplog archive are merged, and those before the window removed."),
    _setting("oplog.merge_slices", _at_least(int, 2), 20, "number, at least 2", "So many small slices in a row become one."),
    _setting("oplog.merge_grace_minutes", _at_least(float, 0), 10.0, "minutes", "So long the parts of a merged slice stay: somebody may be about to read them."),
    _setting("jobs.retry_minutes", _at_least(int, 1), 60, "minutes", "How long a job is tried again after causes that may pass (full disk, mongod down)."),
    _setting("worker.threads", _at_least(int, 0), 0, "number; 0: cores − 1", "Threads that hash, compress and copy."),
    _setting("worker.nice", _at_least(int, 0), 10, "0 to 19", "Niceness of the worker process: production goes first."),
    _setting("worker.jobs_max", _at_least(int, 1), 4, "number, at least 1", "Jobs that one worker runs at once."),
    _setting("metrics.allow", list[str], ["127.0.0.1/32", "::1/128"], "list of addresses or CIDR blocks", "Who may read `/metrics` without a key; others need one that owns the whole service."),
    _setting("webhook.url", _WEB_URL | None, None, "http:// or https:// URL without a password", "Where events are sent, one POST each."),
    _setting("webhook.events", list[str], ["*.failed", "balancer.left_off", "head.behind", "head.lagging", "oplog.behind", "oplog.gap", "repository.*", "restore.broken", "restore.damaged", "schedule.missed", "snapshot.paused_low_space"], "list of patterns", "Which kinds of events are sent; `*` stands for anything."),
    _setting("webhook.header_file", str | None, None, "path of a file", "One header, `Name: value`, that is sent along: a token, say. Only its owner should be able to read the file."),
    _setting("log.level", str, "info", "debug, info, warning or error", "What is logged."),
    _setting("log.format", str, "auto", "auto, console or json", "How it is logged; auto: console on a terminal, else json."),
)  # fmt: skip

_BY_NAME = {setting.name: setting for setting in SETTINGS}
# A TOML key cannot be a text and a table at once.
_ALIASES = {"mongod.path": "mongod"}
_CHOICES = {"log.level": ("debug", "info", "warning", "error"), "log.format": ("auto", "console", "json")}


@dataclass(frozen=True)
class Settings:
    """The values in force and where each came from (`default`, `file …`, `environment …`, `flag`)."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def text(self, name: str) -> str | None:
        value = self.values[name]
        return None if value is None else str(value)

    def number(self, name: str) -> float:
        return float(self.values[name])

    def count(self, name: str) -> int:
        return int(self.values[name])

    def mapping(self, name: str) -> dict[str, str]:
        return dict(self.values[name])

    def flag(self, name: str) -> bool:
        return bool(self.values[name])


def resolve_settings(
    *,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: Path | None,
    file_must_exist: bool = True,
) -> Settings:
    """Read all sources once. `flags` holds only those given.

    Raises InvalidSetting with every problem in it: unknown names, unreadable file, wrong values.
    """
    problems: list[str] = []
    candidates: dict[str, tuple[Any, str]] = {s.name: (s.default, "default") for s in SETTINGS}
    for name, value in _read_file(file, must_exist=file_must_exist, problems=problems).items():
        candidates[name] = (value, f"file {file}")
    known_environment = {s.environment_name: s for s in SETTINGS}
    for variable, text in environment.items():
        if variable in known_environment:
            setting = known_environment[variable]
            candidates[setting.name] = (_from_text(setting, text), f"environment {variable}")
        elif variable.startswith(ENVIRONMENT_PREFIX) and variable not in NOT_SETTINGS:
            problems.append(f"environment {variable}: no setting has this name")
    for name, value in flags.items():
        if name not in _BY_NAME:
            raise KeyError(name)
        candidates[name] = (value, "flag")

    values: dict[str, Any] = {}
    for name, (raw, origin) in candidates.items():
        setting = _BY_NAME[name]
        try:
            value = TypeAdapter(setting.type_).validate_python(raw)
        except ValidationError:
            problems.append(f"{origin}: {name}: expected {setting.expected}, not {raw!r}")
            continue
        if name in _CHOICES and value not in _CHOICES[name]:
            problems.append(f"{origin}: {name}: expected {setting.expected}, not {raw!r}")
        values[name] = value
    if problems:
        raise InvalidSetting("settings", expected="valid values", hint="; ".join(problems))
    return Settings(values=values, origins={name: origin for name, (_, origin) in candidates.items()})


def _from_text(setting: Setting, text: str) -> Any:
    """What a variable's text means: lists are `a,b`, tables `name=value,name=value`."""
    if setting.type_ not in (list[str], dict[str, str]):
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if setting.type_ == list[str]:
        return parts
    pairs = [part.partition("=") for part in parts]
    if not all(equals and name.strip() and value.strip() for name, equals, value in pairs):
        return text  # which is no table, and is refused as such
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read_file(file: Path | None, *, must_exist: bool, problems: list[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        tree = tomllib.loads(file.read_text())
    except FileNotFoundError:
        if must_exist:
            problems.append(f"file {file}: there is no such file")
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"file {file}: {error}")
        return {}
    found: dict[str, Any] = {}
    for name, value in _flatten(tree):
        if name in _BY_NAME:
            found[name] = value
        else:
            problems.append(f"file {file}: no setting is named {name}")
    return found


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name in _BY_NAME and _BY_NAME[name].type_ == dict[str, str]:
            # A version that was not quoted (6.0 = …) is a table in a table to TOML.
            rows.append((name, dict(_flatten(value))))
        elif isinstance(value, dict):
            rows += _flatten(value, f"{name}.")
        else:
            rows.append((_ALIASES.get(name, name), value))
    return rows


def render_reference() -> str:
    """docs/settings.md: every setting with its names, default and meaning."""
    lines = [
        "# Settings",
        "",
        "A value comes from, strongest first: a flag, the environment, the TOML file (`DATA/ebbtide.toml`, or",
        "`--config FILE`), the default. `ebbtide config show` tells each value and where it came from. This page is what",
        "`ebbtide config reference` prints.",
        "",
        "| setting | environment | expected | default | what it does |",
        "|---|---|---|---|---|",
    ]
    for s in SETTINGS:
        default = "" if s.default is None else f"`{s.default}`"
        lines.append(f"| `{s.name}` | `{s.environment_name}` | {s.expected} | {default} | {s.about} |")
    return "\n".join(lines) + "\n"
