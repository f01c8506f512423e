"""The two doors: `load_site` for the daemon, `check_site` for the engineer. Both find all that is wrong at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from curtaild_config.checks import structural_problems
from curtaild_config.explain import explain
from curtaild_config.problems import Problem, SiteFileError
from curtaild_config.secrets import resolve_secrets
from curtaild_config.site import Site
from curtaild_config.source import SiteSource, read_source
from curtaild_config.warnings import all_secret_sources, warnings


def load_site(path: str | Path, env: Mapping[str, str] | None = None) -> Site:
    """The site file at `path`, overridden by `CURTAILD_TABLE__KEY` variables of `env` (default: the process's own).

    Raises `SiteFileError` with every error; warnings are `check_site`'s. Secrets are not read yet.
    """
    site, problems = _validated(read_source(Path(path), env))
    if site is None:
        raise SiteFileError(tuple(problems))
    return site


def check_site(path: str | Path, env: Mapping[str, str] | None = None) -> tuple[Site | None, list[Problem]]:
    """The site (`None` where an error keeps it from being one) and all problems, warnings among them. Never raises."""
    source = read_source(Path(path), env)
    site, problems = _validated(source)
    if site is None:
        return None, problems
    try:
        resolve_secrets(all_secret_sources(site), source.file, env)
    except SiteFileError as error:
        problems.extend(error.problems)
    return site, problems + warnings(site, source)


def _validated(source: SiteSource) -> tuple[Site | None, list[Problem]]:
    problems = list(source.problems)
    if problems and not source.tables:
        return None, problems
    site = None
    try:
        site = Site.model_validate(source.tables)
    except ValidationError as error:
        problems += explain(error, Site, source)
    problems += structural_problems(source)
    return (None if problems else site), problems
