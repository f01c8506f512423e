"""Reads the site file and the environment that overrides it into plain tables, and remembers which key came from where,
so that a problem can name its place.
"""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from curtaild_config.problems import Problem, Severity, shown, suggest
from curtaild_config.site import ENV_PREFIX, Site

Location: TypeAlias = tuple[str | int, ...]
"""A key's place: ("feeder", 2, "rating_w")."""

_NAMED_BY = {"feeder": "id", "devices": "name"}


@dataclass(frozen=True)
class SiteSource:
    """What was read: `tables` is file and environment merged, `variables` says which keys the environment set."""

    file: str
    tables: dict[str, Any] = field(default_factory=dict)
    variables: dict[Location, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def problem(
        self,
        location: Location,
        reason: str,
        remedy: str = "",
        value: object = None,
        severity: Severity = Severity.ERROR,
    ) -> Problem:
        """A problem with the key at `location`, its place and value as a person may see them."""
        key = next((str(part) for part in reversed(location) if isinstance(part, str)), "")
        variable = next((name for place, name in self.variables.items() if location[: len(place)] == place), None)
        file = self.file if variable is None else f"environment {variable}"
        return Problem(severity, file, self.key_path(location), shown(key, value), reason, remedy)

    def key_path(self, location: Location) -> str:
        """`feeder[row-1].rating_w`: repeated tables go by their name, else by their place, counted from 1."""
        path = ""
        table: Any = self.tables
        for depth, part in enumerate(location):
            try:
                table = table[part]
            except (KeyError, IndexError, TypeError):
                table = None
            if isinstance(part, int):
                path += f"[{self._name_of(location[:depth], part, table)}]"
            else:
                path += f".{part}" if path else part
        return path

    def _name_of(self, location: Location, index: int, table: Any) -> str:
        is_named = location[:1] == ("grid",) and location[-1] in ("connection", "issuer")
        if is_named and isinstance(table, dict) and isinstance(table.get("name"), str):
            return str(table["name"])
        name_key = _NAMED_BY.get(str(location[0])) if len(location) == 1 else None
        if name_key is not None and isinstance(table, dict):
            name = table.get(name_key)
            if isinstance(name, str) and name and self._times_used[location[0], name] == 1:
                return name
        return f"#{index + 1}"

    @cached_property
    def _times_used(self) -> Counter[tuple[str | int, str]]:
        """How often each name stands in its repeated table."""
        return Counter(
            (table, name)
            for table, key in _NAMED_BY.items()
            for entry in self.entries(table).values()
            if isinstance(name := entry.get(key), str)
        )

    def entries(self, table: str) -> dict[int, dict[str, Any]]:
        """The entries of a repeated table by place; what is no table is left out (the models complain of it)."""
        value = self.tables.get(table)
        if not isinstance(value, (list, tuple)):
            return {}
        return {index: entry for index, entry in enumerate(value) if isinstance(entry, dict)}


def read_source(path: Path, env: Mapping[str, str] | None = None) -> SiteSource:
    """The tables of the file at `path` under the overrides of `env` (default: the process environment). Never raises:
    what cannot be read is among the source's problems."""
    env = os.environ if env is None else env
    bare = SiteSource(str(path))
    file_tables, file_problem = _read_toml(path, bare)
    if file_problem is not None:
        return SiteSource(str(path), problems=(file_problem,))
    env_tables, variables, env_problems = _read_environment(env)
    tables = _merged(file_tables, env_tables)
    state_directory = env.get("STATE_DIRECTORY", "").split(":")[0]
    if state_directory and isinstance(tables.get("ledger", {}), dict):
        tables["ledger"] = {"path": f"{state_directory}/curtaild.db"} | tables.get("ledger", {})
    return SiteSource(str(path), tables, variables, tuple(env_problems))


def _read_toml(path: Path, source: SiteSource) -> tuple[dict[str, Any], Problem | None]:
    try:
        if not path.is_file():
            reason = "is not a file" if path.exists() else "does not exist"
            return {}, source.problem((), reason, "config/site.example.toml explains every key")
        return TomlConfigSettingsSource(Site, toml_file=path).toml_data, None
    except tomllib.TOMLDecodeError as error:
        remedy = "mend the syntax first: nothing after it could be read"
        return {}, source.problem((), f"is not TOML: {error}", remedy)
    except UnicodeDecodeError as error:
        return {}, source.problem((), f"is not UTF-8 text (byte {error.start})", "save it as UTF-8")
    except OSError as error:
        return {}, source.problem((), f"cannot be read: {error.strerror}")


def _read_environment(
    env: Mapping[str, str],
) -> tuple[dict[str, Any], dict[Location, str], list[Problem]]:
    tables: dict[str, Any] = {}
    variables: dict[Location, str] = {}
    problems: list[Problem] = []
    source = EnvSettingsSource(Site)
    for name, value in env.items():
        section, divider, keys = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if not name.startswith(ENV_PREFIX) or not divider:
            continue  # a lone CURTAILD_X is somebody else's, such as the unit's
        place = SiteSource(f"environment {name}")
        if section not in Site.model_fields:
            remedy = suggest(section, Site.model_fields)
            problems.append(place.problem((section,), "there is no such table", remedy))
            continue
        source.env_vars = {name.lower(): value}  # one by one, so that an unreadable one can be named
        try:
            tables = _merged(tables, source())
        except ValueError:
            problems.append(place.problem((section, *keys.split("__")), "cannot be read", "lists are JSON"))
            continue
        variables[(section, *keys.split("__"))] = name
    return tables, variables, problems


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        both[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both
