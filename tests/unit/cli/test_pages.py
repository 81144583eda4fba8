"""docs/cli.md and docs/exit-codes.md say what the code says."""

from pathlib import Path

import pytest

from ebbtide import errors
from ebbtide.cli.config import Reference, render_page
from ebbtide.cli.exit_codes import iter_error_classes

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("page", [Reference.CLI, Reference.EXIT_CODES])
def test_the_page_is_up_to_date(page: Reference) -> None:
    path = DOCS / f"{page.value}.md"
    assert path.read_text() == render_page(page), f"ebbtide config reference {page.value} > docs/{path.name}"


def test_every_error_class_is_in_the_tree_of_the_page() -> None:
    defined = {
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert {kind for _, kind in iter_error_classes()} == defined


@pytest.mark.parametrize("columns", ["40", "300"])
def test_the_width_of_the_terminal_does_not_change_the_page(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = render_page(Reference.CLI)
    monkeypatch.setenv("COLUMNS", columns)
    assert render_page(Reference.CLI) == before
