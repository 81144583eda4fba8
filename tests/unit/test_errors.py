"""The tree of errors is the one that its docstring draws."""

import inspect
import re

import pytest

from ebbtide import errors
from ebbtide.errors import EbbtideError

_ROW = re.compile(r"^(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)\s+(?P<code>\d+)(?P<about>.*)$")


def _drawn() -> dict[str, tuple[str | None, int]]:
    """Name → (parent, exit code), from the docstring's drawing."""
    found: dict[str, tuple[str | None, int]] = {}
    path: list[str] = []
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        match = _ROW.match(line.removeprefix("    "))
        if match is None:
            continue
        depth = len(match["branch"]) // 4
        path[depth:] = [match["name"]]
        found[match["name"]] = (path[depth - 1] if depth else None, int(match["code"]))
    return found


def _written() -> dict[str, tuple[str | None, int]]:
    found: dict[str, tuple[str | None, int]] = {}
    for name, class_ in inspect.getmembers(errors, inspect.isclass):
        if issubclass(class_, EbbtideError):
            parent = class_.__mro__[1].__name__ if class_ is not EbbtideError else None
            found[name] = (parent, class_.exit_code)
    return found


def test_every_class_is_drawn_under_its_parent_with_its_exit_code() -> None:
    assert _written() == _drawn()


@pytest.mark.parametrize("name", _written())
def test_every_class_says_what_it_means(name: str) -> None:
    assert getattr(errors, name).__doc__


RETRYABLE = {
    "Unreachable",
    "StorageError",
    "StorageFull",
    "MongodError",
    "MongodStartFailed",
    "MongodDied",
    "HeadUnavailable",
    "SnapshotUnusable",
}


def test_only_what_may_pass_is_tried_again() -> None:
    assert {name for name in _written() if getattr(errors, name).retryable} == RETRYABLE


def test_the_hint_follows_the_sentence() -> None:
    assert str(EbbtideError("it rains", hint="take an umbrella")) == "it rains (take an umbrella)"
    assert str(EbbtideError("it rains")) == "it rains"


def test_bad_input_names_field_expectation_and_value() -> None:
    error = errors.InvalidInput("port", expected="a port", got="x")
    assert str(error) == "port: expected a port, not 'x'"
    assert str(errors.InvalidInput("port", expected="a port")) == "port: expected a port"


def test_a_refused_registration_tells_every_problem_at_once() -> None:
    error = errors.RegistrationRefused([("no primary", "wait"), ("a router", "")])
    assert error.problems == (("no primary", "wait"), ("a router", ""))
    assert str(error) == "the cluster cannot be registered: no primary (wait); a router"
