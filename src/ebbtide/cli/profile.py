"""Profiles: where the API is and which key to use, kept for the next command.

The file is TOML at $XDG_CONFIG_HOME/ebbtide/profiles.toml (~/.config without it), one table per profile:

    [default]
    base_url = "http://127.0.0.1:27080"
    public_key = "…"
    private_key = "…"
    group_id = "…"

Invariants: the file is 0600 from its first byte on, and one that others may read is refused; a profile of another
server is never overwritten, because its private key may be kept nowhere else. Crash: the file is replaced by rename,
so it is the old or the new one; a temporary file may stay beside it.
"""

import json
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebbtide.errors import EbbtideError, InvalidInput, NotFound, Refused

DEFAULT_PROFILE = "default"

URL_VARIABLE = "EBBTIDE_URL"
PUBLIC_KEY_VARIABLE = "EBBTIDE_PUBLIC_KEY"
PRIVATE_KEY_VARIABLE = "EBBTIDE_PRIVATE_KEY"
PROFILE_VARIABLE = "EBBTIDE_PROFILE"

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASE_URL = re.compile(r"https?://[^/?#\s@]+(/[^?#\s]*)?")


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach an API. `base_url` has no slash at its end; `origin` says where this came from."""

    base_url: str
    public_key: str
    private_key: str = field(repr=False)
    group_id: str | None = None
    origin: str


@dataclass(frozen=True, kw_only=True)
class WrittenProfile:
    """Where a profile was put. `name` is another than asked for if that one belongs to another server."""

    name: str
    path: Path


class NoConnection(InvalidInput):
    """Neither the environment nor a profile says where the API is."""

    def __init__(self, path: Path) -> None:
        EbbtideError.__init__(
            self,
            f"no connection: {URL_VARIABLE}, {PUBLIC_KEY_VARIABLE} and {PRIVATE_KEY_VARIABLE} are not set, "
            f"and {path} has no profile {DEFAULT_PROFILE!r}",
            hint="the first `ebbtide serve --data DIR` on a terminal writes that profile and prints the key; started "
            "without a terminal, it leaves both in DIR/owner-key.json",
        )
        self.field = URL_VARIABLE
        self.expected = "the URL of an API"


def profiles_path(environment: Mapping[str, str]) -> Path:
    """Where profiles are. As the XDG specification (0.8) says, a relative XDG_CONFIG_HOME is ignored."""
    configured = Path(environment.get("XDG_CONFIG_HOME", ""))
    base = (
        configured
        if configured.is_absolute()
        else Path(environment.get("HOME", "~")).expanduser() / ".config"
    )
    return base / "ebbtide" / "profiles.toml"


def resolve_connection(*, profile: str | None, environment: Mapping[str, str]) -> Connection:
    """The connection to use: `profile` if given, else the three variables, else the profile named by
    EBBTIDE_PROFILE or `default`.

    Raises InvalidInput (nothing given, or only a part of it), NotFound (no such profile), Refused (others may read
    the file).
    """
    if profile is None and any(environment.get(name) for name in _VARIABLES):
        return _from_environment(environment)
    name = profile or environment.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
    path = profiles_path(environment)
    profiles = read_profiles(path)
    if name not in profiles:
        if profile is None and not environment.get(PROFILE_VARIABLE):
            raise NoConnection(path)
        known = ", ".join(sorted(profiles)) or "none"
        raise NotFound(f"{path} has no profile {name!r}", hint=f"profiles there: {known}")
    return _from_profile(name, profiles[name], path)


def read_profiles(path: Path) -> dict[str, Mapping[str, Any]]:
    """All profiles by name; none if there is no file. Raises Refused if others may read it, InvalidInput if it is
    not what it should be."""
    try:
        with path.open("rb") as file:
            _require_private(os.fstat(file.fileno()), path)
            tree = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(str(path), expected=f"TOML ({error})") from error
    except OSError as error:
        raise InvalidInput(str(path), expected=f"a readable file ({error.strerror})") from error
    return {name: value for name, value in tree.items() if isinstance(value, dict)}


def write_profile(
    *,
    base_url: str,
    public_key: str,
    private_key: str,
    group_id: str | None,
    name: str = DEFAULT_PROFILE,
    environment: Mapping[str, str] | None = None,
) -> WrittenProfile:
    """Store a profile, 0600, beside those that are there.

    A profile of that name for the same `base_url` is replaced. One for another URL stays: the new one then becomes
    `NAME-2`, `NAME-3`, … Raises as `read_profiles` does, and OSError if it cannot be written.
    """
    path = profiles_path(os.environ if environment is None else environment)
    profiles = read_profiles(path)
    free = _free_name(name, base_url, profiles)
    values = {"base_url": base_url, "public_key": public_key, "private_key": private_key}
    if group_id is not None:
        values["group_id"] = group_id
    profiles[free] = values
    _replace_privately(path, render_profiles(profiles))
    return WrittenProfile(name=free, path=path)


def render_profiles(profiles: Mapping[str, Mapping[str, Any]]) -> str:
    """The file's text. Only strings are kept: nothing else is ever in a profile."""
    blocks = []
    for name, values in profiles.items():
        lines = [f"[{_toml_key(name)}]"]
        lines += [
            f"{_toml_key(key)} = {_toml_string(value)}"
            for key, value in values.items()
            if isinstance(value, str)
        ]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


_VARIABLES = (URL_VARIABLE, PUBLIC_KEY_VARIABLE, PRIVATE_KEY_VARIABLE)


def _from_environment(environment: Mapping[str, str]) -> Connection:
    missing = [name for name in _VARIABLES if not environment.get(name)]
    if missing:
        given = [name for name in _VARIABLES if name not in missing]
        raise InvalidInput(
            " and ".join(missing),
            expected=f"to be set too, because {' and '.join(given)} {'is' if len(given) == 1 else 'are'}",
            hint="set all three, or none of them and use a profile (--profile NAME)",
        )
    return Connection(
        base_url=checked_base_url(environment[URL_VARIABLE], name=URL_VARIABLE),
        public_key=environment[PUBLIC_KEY_VARIABLE],
        private_key=environment[PRIVATE_KEY_VARIABLE],
        origin="the environment",
    )


def _from_profile(name: str, values: Mapping[str, Any], path: Path) -> Connection:
    fields = ("base_url", "public_key", "private_key")
    missing = [key for key in fields if not isinstance(values.get(key), str) or not values[key]]
    if missing:
        raise InvalidInput(f"profile {name!r} in {path}", expected=f"{' and '.join(missing)} in it")
    group_id = values.get("group_id")
    return Connection(
        base_url=checked_base_url(values["base_url"], name=f"base_url of profile {name!r}"),
        public_key=values["public_key"],
        private_key=values["private_key"],
        group_id=group_id if isinstance(group_id, str) and group_id else None,
        origin=f"profile {name!r} in {path}",
    )


def checked_base_url(text: str, *, name: str) -> str:
    """`text` without slashes at its end. Raises InvalidInput unless it is http(s)://HOST[:PORT][/PATH]."""
    if not _BASE_URL.fullmatch(text):
        # Not repeated: people put credentials into URLs.
        raise InvalidInput(name, expected="a URL such as http://127.0.0.1:27080, without credentials in it")
    return text.rstrip("/")


def _require_private(status: os.stat_result, path: Path) -> None:
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise Refused(f"{path} can be read by others, and it holds private keys", hint=f"chmod 600 {path}")


def _free_name(name: str, base_url: str, profiles: Mapping[str, Mapping[str, Any]]) -> str:
    candidate, number = name, 1
    while candidate in profiles and profiles[candidate].get("base_url") != base_url:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _replace_privately(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes the file 0600: there is no moment at which others could open it.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".profiles-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _toml_key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _toml_string(name)


def _toml_string(text: str) -> str:
    # JSON's escapes are TOML's, except that TOML wants DEL escaped as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
