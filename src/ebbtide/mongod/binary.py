"""Which mongod to run: the configured one, else the packaged one; never one that happens to be on the PATH.

The packaged mongod comes with the extra `mongod`. Its package is found, not imported: importing it would run code
that we do not need.
"""

import importlib.util
import os
import re
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ebbtide.domain.replica_set import major_version
from ebbtide.domain.server_version import choose_binary
from ebbtide.errors import MongodBinaryMissing

PACKAGE = "fiftyone"
PATH_IN_PACKAGE = Path("db", "bin", "mongod")
VERSION_SECONDS_MAX = 30.0
"""The first run reads a 140 MB file from a disk that may be cold."""

_HINT = "pip install 'ebbtide[mongod]' (Linux x86-64), or set EBBTIDE_MONGOD to the path of a mongod"
_VERSION = re.compile(r"db version v(\d+\.\d+\.\d+\S*)")
_versions: dict[tuple[str, int], str] = {}

_PARAMETER_SINCE = {"shutdownTimeoutMillisForSignaledShutdown": (5, 0)}
"""The first version that knows a parameter. Before 5.0 there is no quiesce period that it could shorten."""


def find_mongod(configured: str | None) -> Path:
    """The absolute path of the mongod to run: `configured` if given, else the packaged one.

    Gives the file its execute bit if that lacks. Raises MongodBinaryMissing if there is no such file, or it may not
    be run; a configured path that is wrong is never replaced by another mongod.
    """
    if configured:
        path = Path(configured).expanduser().absolute()
        if not path.is_file():
            raise MongodBinaryMissing(f"there is no mongod at {path}", hint="correct EBBTIDE_MONGOD")
    else:
        path = _find_packaged()
    _make_executable(path)
    return path


def mongod_version(path: Path) -> str:
    """The version that the mongod at `path` says of itself, such as "6.0.5"; asked once for each file.

    Raises MongodBinaryMissing, with what it wrote to stderr, if it cannot be run (a shared library may lack).
    """
    try:
        key = (str(path), path.stat().st_mtime_ns)
        if key not in _versions:
            _versions[key] = _ask_version(path)
    except OSError as error:
        raise MongodBinaryMissing(f"{path} cannot be run: {error}", hint=_HINT) from error
    return _versions[key]


def find_mongod_of(
    majors: Sequence[str], *, own: str | None, binaries: Mapping[str, str], default: str | None
) -> Path:
    """A mongod of the first of these major versions that is at hand; the rest as for `choose_binary`.

    Raises MongodBinaryMissing where there is none, with what was found instead and what to do.
    """
    found: list[str] = []
    for major in majors:
        try:
            path = find_mongod(choose_binary(major, own=own, binaries=binaries, default=default))
            version = mongod_version(path)
        except MongodBinaryMissing as error:
            found.append(error.message)
            continue
        if major_version(version) == major:
            return path
        found.append(f"{path} is {version}")
    raise MongodBinaryMissing(
        f"a mongod {' or '.join(majors)} is needed: {'; '.join(dict.fromkeys(found))}",
        hint=(
            f"install one, and name it in the setting mongod.binaries (EBBTIDE_MONGOD_BINARIES={majors[0]}=PATH); "
            "a registered cluster may have its own: ebbtide clusters set NAME --mongod PATH"
        ),
    )


def without_unknown_parameters(arguments: Sequence[str], *, version: str) -> list[str]:
    """The arguments without those server parameters of ours that a mongod of this version would not start with."""
    unknown = tuple(f"{name}=" for name, since in _PARAMETER_SINCE.items() if _order(version) < since)
    kept: list[str] = []
    for argument in arguments:
        if unknown and argument.startswith(unknown) and kept and kept[-1] == "--setParameter":
            kept.pop()
        else:
            kept.append(argument)
    return kept


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in major_version(version).split("."))


def _find_packaged() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place).absolute() / PATH_IN_PACKAGE
        if path.is_file():
            return path
    raise MongodBinaryMissing("there is no mongod to run", hint=_HINT)


def _make_executable(path: Path) -> None:
    if os.access(path, os.X_OK):
        return
    try:
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OSError as error:
        raise MongodBinaryMissing(
            f"{path} is not executable, and that cannot be changed: {error}", hint=f"chmod +x {path}"
        ) from error


def _ask_version(path: Path) -> str:
    try:
        result = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired as error:
        raise MongodBinaryMissing(f"{path} --version did not end", hint=_HINT) from error
    found = _VERSION.search(result.stdout)
    if result.returncode != 0 or found is None:
        said = (result.stderr or result.stdout).strip()[-500:]
        raise MongodBinaryMissing(
            f"{path} cannot be run: it ended with {result.returncode} and said: {said or 'nothing'}",
            hint=_HINT,
        )
    return found.group(1)
