"""What the core and the drivers' contract may import is a closed list; import-linter can only forbid names."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CORE = REPOSITORY / "daemon/curtaild/core"
CONTRACT = REPOSITORY / "drivers/curtaild_drivers/contract.py"

PURE = {
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "math",
    "operator",
    "statistics",
    "typing",
}
"""Of the standard library: no I/O, no clock, no chance, no state of the process."""

IMPURE_BUILT_INS = {"open", "print", "input", "breakpoint", "exec", "eval", "__import__", "globals"}


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield node.module or ""


def is_allowed_in_core(module: str) -> bool:
    return (
        module.split(".")[0] in PURE
        or module == "curtaild_drivers.contract"
        or module == "curtaild.core"
        or module.startswith("curtaild.core.")
    )


@pytest.mark.parametrize("file", sorted(CORE.glob("**/*.py")), ids=lambda file: file.stem)
def test_the_core_imports_only_what_is_pure(file: Path) -> None:
    source = file.read_text()
    assert [module for module in imported(source) if not is_allowed_in_core(module)] == []
    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert names & IMPURE_BUILT_INS == set()


def test_the_contract_imports_only_the_standard_library() -> None:
    assert [name for name in imported(CONTRACT.read_text()) if name.split(".")[0] not in sys.stdlib_module_names] == []


def test_the_list_refuses_what_it_should() -> None:
    for module in ("asyncio", "time", "curtaild.clock", "curtaild_drivers.registry", "curtaild_drivers", "pydantic"):
        assert not is_allowed_in_core(module)
