"""What the pages point at is there: files, and the functions that are said to keep a promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("systemd/*.md")])
LINK = re.compile(r"\[([^]]+)\]\(([^)\s]+)\)")


def links(page: Path) -> list[tuple[str, str]]:
    """Text and target of each link within the repository."""
    return [
        (text, target.split("#")[0])
        for text, target in LINK.findall(page.read_text())
        if not re.match(r"https?:|#", target)
    ]


def defined(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for _, target in links(page) if not (page.parent / target).exists()] == []


def test_each_promise_names_the_function_that_keeps_it() -> None:
    page = REPOSITORY / "docs/architecture.md"
    named = [
        (match[1], match[2], page.parent / target)
        for text, target in links(page)
        if (match := re.fullmatch(r"`(\w+)\.(\w+)`", text)) and target.endswith(".py")
    ]
    assert len(named) >= 20
    wrong = [f"{module}.{name}" for module, name, file in named if file.stem != module or name not in defined(file)]
    assert wrong == []
