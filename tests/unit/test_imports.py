"""The code about itself: imports point one way, modules have names, docstrings and a bearable length.

A module may import modules of its own layer and of those below it, never of one above.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ebbtide

SOURCE = Path(ebbtide.__file__).parent

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"ebbtide", "errors", "clock", "processes", "crash_points", "logs", "settings", "domain"}),
    frozenset({"storage"}),
    frozenset(
        {
            "repository",
            "oplog",
            "mongod",
            "catalog",
            "jobs",
            "events",
            "sealing",
            "credentials",
            "data_directory",
            "listen",
        }
    ),
    frozenset({"backup", "restore"}),
    frozenset({"testing"}),
    frozenset({"worker", "api", "console", "cli", "serve", "demo", "doctor", "__main__"}),
)

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}

# Imports that go against the rules, each with its reason.
UPWARD = {
    (
        "ebbtide.testing.running_service",
        "ebbtide.cli.client",
    ): "a running service is driven as its users drive it",
    ("ebbtide.testing.running_service", "ebbtide.cli.profile"): "it reads the key as the command line does",
}
CIRCULAR = {
    ("ebbtide.cli.render.reference", "ebbtide.cli.main"): "the reference renders the very app that prints it",
}

LINES_MAX = 450
"""Lines that are not blank; about what a reader keeps in mind."""
# Modules that may be longer, each with its reason.
LONG_MODULES: dict[str, str] = {}


def _module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: dict[str, Path] = {_module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def _part(module: str) -> str:
    """`backup` of `ebbtide.backup.context`: the package or top-level module that a layer lists."""
    names = module.split(".")
    return names[1] if len(names) > 1 else names[0]


def _layer(module: str) -> int:
    found = [number for number, parts in enumerate(LAYERS) if _part(module) in parts]
    if len(found) != 1:
        raise AssertionError(f"{module} belongs to {len(found)} layers: list {_part(module)!r} in LAYERS")
    return found[0]


def _imported_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            raise AssertionError("imports are absolute here")
        if node.module is not None:
            for alias in node.names:
                # `from ebbtide.mongod import deployment` names a module, `from ebbtide.errors import X` does not.
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def imports_of(module: str) -> set[str]:
    """The modules of ours that `module` imports anywhere, inside functions too."""
    tree = ast.parse(MODULES[module].read_text())
    named = {name for node in ast.walk(tree) for name in _imported_names(node)}
    return {name for name in named if name.split(".")[0] == "ebbtide"}


IMPORTS = {module: imports_of(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    above = {name for name in IMPORTS[module] if _layer(name) > _layer(module)}
    assert set() == {name for name in above if (module, name) not in UPWARD}


def test_the_domain_knows_nothing_but_itself_and_the_errors() -> None:
    found = {
        (module, name)
        for module in MODULES
        if _part(module) == "domain"
        for name in IMPORTS[module]
        if _part(name) not in {"domain", "errors"}
    }
    assert set() == found


def test_the_domain_does_no_input_or_output() -> None:
    allowed = {
        "bson", "collections", "dataclasses", "datetime", "enum", "hashlib", "ipaddress", "itertools", "math", "pathlib",
        "re", "typing", "ebbtide",
    }  # fmt: skip
    found = set()
    for module, path in MODULES.items():
        if _part(module) == "domain":
            for node in ast.walk(ast.parse(path.read_text())):
                found |= {
                    (module, name) for name in _imported_names(node) if name.split(".")[0] not in allowed
                }
    assert set() == found


def test_the_lab_is_imported_by_the_demo_alone() -> None:
    users = {
        _part(module)
        for module, imported in IMPORTS.items()
        if any(_part(name) == "testing" for name in imported)
    }
    assert users <= {"testing", "demo"}


def test_no_module_imports_itself_by_a_detour() -> None:
    assert _find_cycle() == []


def _find_cycle() -> list[str]:
    """The modules of one cycle of imports, in order; empty where there is none."""
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        path.append(module)
        for imported in sorted(IMPORTS[module]):
            if (module, imported) in CIRCULAR:
                continue
            found = visit(imported)
            if found:
                return found
        path.pop()
        done.add(module)
        return []

    for module in MODULES:
        found = visit(module)
        if found:
            return found
    return []


def test_modules_are_named_after_things() -> None:
    assert [name for name in MODULES if not FORBIDDEN_NAMES.isdisjoint(name.split("."))] == []


def test_every_module_says_what_it_is() -> None:
    silent = []
    for name, path in MODULES.items():
        text = path.read_text()
        if text.strip() and not ast.get_docstring(ast.parse(text)):
            silent.append(name)
    assert silent == []


def test_a_module_is_one_idea_and_not_a_book() -> None:
    lines = {
        name: sum(bool(line.strip()) for line in p.read_text().splitlines()) for name, p in MODULES.items()
    }
    assert {name for name, count in lines.items() if count > LINES_MAX} <= set(LONG_MODULES)


def test_every_exception_is_of_a_module_that_is_there_and_has_its_reason() -> None:
    assert all([*LONG_MODULES.values(), *UPWARD.values(), *CIRCULAR.values()])
    assert set(LONG_MODULES) <= set(MODULES)
    for module, imported in CIRCULAR:
        assert imported in IMPORTS[module]
