"""What the pages point at is there: files, commands, and the functions that are said to keep a promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest
import typer

from curtaild.cli.main import app
from curtaild_drivers.asic.identify import OWN

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("systemd/*.md")])
LINK = re.compile(r"\[([^]]+)\]\(([^)\s]+)\)")

COMMAND = re.compile(r"(?:^|[\s/`])curtaild ((?:[a-z][a-z-]*\b ?)+)([^`#\n]*)", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
NO_COMMAND = "`curtaild ledger`"
"""What the ledger's hash chain begins with."""


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


def unknown_part(words: list[str], options: list[str]) -> str | None:
    """The first word or option that no command of ours takes, `None` if all are taken."""
    command: click.Command = typer.main.get_command(app)
    for word in words:
        if not isinstance(command, click.Group):
            break  # an argument
        if word not in command.commands:
            return word
        command = command.commands[word]
    taken = {"--help"}.union(*(parameter.opts for parameter in command.params))
    return next((option for option in options if option not in taken), None)


def typed(page: Path) -> list[tuple[list[str], list[str]]]:
    """The words and the options of each command on the page."""
    code = "\n".join(CODE.findall(page.read_text().replace(NO_COMMAND, "")))
    return [(words.split(), re.findall(r"(?<!\S)--[a-z-]+", rest)) for words, rest in COMMAND.findall(code)]


@pytest.mark.parametrize(
    "page", [*PAGES, REPOSITORY / "config/site.example.toml"], ids=lambda page: str(page.relative_to(REPOSITORY))
)
def test_commands_are_there_to_be_typed(page: Path) -> None:
    found = typed(page)
    assert [(words, part) for words, options in found if (part := unknown_part(words, options)) is not None] == []


def test_a_wrong_command_would_be_noticed() -> None:
    assert (["grid", "new-key"], ["--key-id"]) in [
        (words[:2], options) for words, options in typed(REPOSITORY / "docs/security.md")
    ]
    assert unknown_part(["grid", "allocation"], ["--wait"]) is None
    assert unknown_part(["grid", "alocation"], []) == "alocation"
    assert unknown_part(["run"], ["--watch"]) == "--watch"


def test_the_readme_lists_every_firmware_that_has_wire_code() -> None:
    rows = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if line.endswith("| own wire code |")]
    listed = " ".join(rows).lower().replace(", api ", "-")
    assert [name for name in OWN if name not in listed] == []
