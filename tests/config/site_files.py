"""Site files as texts, and what `check_site` says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from curtaild_config import Problem, Severity, Site, check_site

SITE = '[site]\nname = "korangi"\n'
GRID = '[grid]\nbrokers = ["mqtt://127.0.0.1"]\nfailsafe_limit_w = 250_000\n'
FEEDERS = """
[[feeder]]
id = "root"
rating_w = 1_000_000
[feeder.meter]
address = "10.0.0.5:502"
settings = { preset = "eastron-sdm630" }
"""
DEVICES = """
[[devices]]
name = "row-1"
driver = "asic"
addresses = ["10.0.1.10-19"]
feeder = "root"
"""
WHOLE = SITE + GRID + FEEDERS + DEVICES


def written(directory: Path, text: str) -> Path:
    path = directory / "site.toml"
    path.write_text(text, encoding="utf-8")
    return path


def checked(directory: Path, text: str, env: Mapping[str, str] | None = None) -> tuple[Site | None, list[Problem]]:
    return check_site(written(directory, text), env if env is not None else {})


def errors(directory: Path, text: str, env: Mapping[str, str] | None = None) -> dict[str, Problem]:
    """The errors by key path."""
    _, problems = checked(directory, text, env)
    return {problem.key_path: problem for problem in problems if problem.severity is Severity.ERROR}


def warnings(directory: Path, text: str) -> dict[str, Problem]:
    """The warnings by key path, of a file that has no errors."""
    site, problems = checked(directory, text)
    assert site is not None, "\n".join(map(str, problems))
    return {problem.key_path: problem for problem in problems}
