"""What no single table can know: whether the feeders form one tree, the groups hang on it, no device stands twice, and
every driver takes its settings. Works on the tables as read, so that these errors come together with all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from curtaild_config.addresses import MOST_ADDRESSES, expand_addresses
from curtaild_config.explain import explain
from curtaild_config.problems import Problem, suggest
from curtaild_config.secrets import secret_sources
from curtaild_config.source import Location, SiteSource
from curtaild_drivers import registry
from curtaild_drivers.registry import Driver

MOST_LEVELS = 64
"""From the root down; far above any real site, far below what recursion bears."""


def structural_problems(source: SiteSource) -> list[Problem]:
    """Every error between tables."""
    return [
        *_tree_problems(source),
        *_connection_problems(source),
        *_group_problems(source),
        *_driver_problems(source),
    ]


def _tree_problems(source: SiteSource) -> list[Problem]:
    problems: list[Problem] = []
    parents: dict[str, str | None] = {}
    places: dict[str, int] = {}
    for index, entry in source.entries("feeder").items():
        feeder_id, parent = entry.get("id"), entry.get("parent")
        if not isinstance(feeder_id, str) or not isinstance(parent, str | None):
            continue
        if feeder_id in places:
            reason = f"this id stands already at feeder #{places[feeder_id] + 1}: a feeder has one parent"
            problems.append(source.problem(("feeder", index, "id"), reason, "give each its own id", feeder_id))
            continue
        places[feeder_id], parents[feeder_id] = index, parent
    for feeder_id, parent in parents.items():
        if parent is not None and parent not in parents:
            place = ("feeder", places[feeder_id], "parent")
            others = parents.keys() - {feeder_id}
            problems.append(source.problem(place, "no feeder has this id", suggest(parent, others), parent))
    roots = [feeder_id for feeder_id, parent in parents.items() if parent is None]
    for extra in roots[1:]:
        reason = f"a second root beside {roots[0]}: exactly one feeder has no parent"
        problems.append(source.problem(("feeder", places[extra], "parent"), reason, "name its parent"))
    for cycle in _cycles(parents):
        way = " → ".join([*cycle, cycle[0]])
        place = ("feeder", places[cycle[0]], "parent")
        problems.append(source.problem(place, f"feeds itself: {way}", "one of them hangs elsewhere, or is the root"))
    if deep := _too_deep(parents):
        reason = f"hangs more than {MOST_LEVELS} levels under the root: no site does"
        problems.append(source.problem(("feeder", places[deep], "parent"), reason, "is a parent mistyped?"))
    return problems


def _too_deep(parents: Mapping[str, str | None]) -> str | None:
    """The first feeder below the deepest level; feeders in or under a cycle have no level."""
    levels: dict[str, int] = {}
    for start in parents:
        way: list[str] = []
        here: str | None = start
        while here is not None and here in parents and here not in levels and len(way) <= len(parents):
            way.append(here)
            here = parents[here]
        if here is not None and here not in levels:
            continue
        for step in reversed(way):
            levels[step] = 0 if (above := parents[step]) is None else levels[above] + 1
    return next((feeder_id for feeder_id, level in levels.items() if level > MOST_LEVELS), None)


def _cycles(parents: Mapping[str, str | None]) -> list[list[str]]:
    cycles: list[list[str]] = []
    done: set[str] = set()
    for start in parents:
        way: dict[str, None] = {}
        here: str | None = start
        while here is not None and here in parents and here not in done and here not in way:
            way[here] = None
            here = parents[here]
        if here is not None and here in way:
            steps = list(way)
            cycles.append(steps[steps.index(here) :])
        done.update(way)
    return cycles


def _connection_problems(source: SiteSource) -> list[Problem]:
    """Every feeder that a grid connection names is there."""
    feeders = _feeder_ids(source)
    grid = source.tables.get("grid")
    named = _feeders_of_issuers(grid, ("grid",))
    for index, connection in _tables_in(grid, "connection"):
        place: Location = ("grid", "connection", index)
        named[(*place, "feeder")] = connection.get("feeder")
        for key in ("feeds", "targets"):
            feeds = connection.get(key)
            named |= {(*place, key, tag): feeder for tag, feeder in (feeds.items() if isinstance(feeds, dict) else ())}
        named |= _feeders_of_issuers(connection, place)
    return [
        source.problem(place, "no feeder has this id", suggest(feeder, feeders), feeder)
        for place, feeder in named.items()
        if isinstance(feeder, str) and feeder not in feeders
    ]


def _feeders_of_issuers(table: object, place: Location) -> dict[Location, object]:
    return {
        (*place, "issuer", index, "feeders", number): feeder
        for index, issuer in _tables_in(table, "issuer")
        for number, feeder in enumerate(_listed(issuer.get("feeders")))
    }


def _tables_in(table: object, key: str) -> list[tuple[int, Mapping[str, Any]]]:
    entries = _listed(table.get(key)) if isinstance(table, dict) else ()
    return [(index, entry) for index, entry in enumerate(entries) if isinstance(entry, dict)]


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else ()


def _feeder_ids(source: SiteSource) -> set[str]:
    return {entry["id"] for entry in source.entries("feeder").values() if isinstance(entry.get("id"), str)}


def _group_problems(source: SiteSource) -> list[Problem]:
    problems: list[Problem] = []
    groups = source.entries("devices")
    feeders = _feeder_ids(source)
    first_places: dict[str, int] = {}
    owners: dict[str, int] = {}
    for index, group in groups.items():
        name, feeder = group.get("name"), group.get("feeder")
        if isinstance(name, str) and first_places.setdefault(name, index) != index:
            reason = f"this name stands already at devices #{first_places[name] + 1}"
            problems.append(source.problem(("devices", index, "name"), reason, "give each its own name", name))
        if isinstance(feeder, str) and feeder not in feeders:
            remedy = suggest(feeder, feeders)
            problems.append(source.problem(("devices", index, "feeder"), "no feeder has this id", remedy, feeder))
        problems += _address_problems(source, index, group.get("addresses"), owners)
        problems += _secret_problems(source, index, group)
    if len(owners) > MOST_ADDRESSES:
        reason = f"{len(owners):,} devices are more than {MOST_ADDRESSES:,}"
        problems.append(source.problem(("devices",), reason, "run more instances under a parent"))
    return problems


def _address_problems(source: SiteSource, index: int, entries: object, owners: dict[str, int]) -> list[Problem]:
    location: Location = ("devices", index, "addresses")
    if not isinstance(entries, (list, tuple)):
        return []
    problems: list[Problem] = []
    shared: dict[int, list[str]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, str):
            continue
        try:
            addresses = expand_addresses([entry])
        except ValueError as error:
            problems.append(source.problem((*location, place), str(error)))
            continue
        for address in addresses:
            owner = owners.setdefault(address, index)
            if owner != index:
                shared.setdefault(owner, []).append(address)
    for owner, addresses_twice in shared.items():
        some = ", ".join(addresses_twice[:3]) + (", …" if len(addresses_twice) > 3 else "")
        other = source.key_path(("devices", owner))
        reason = f"{len(addresses_twice)} of these stand in {other} as well: {some}"
        problems.append(source.problem(location, reason, "a device belongs to one group: one writer per device"))
    return problems


def _secret_problems(source: SiteSource, index: int, group: Mapping[str, Any]) -> list[Problem]:
    settings = group.get("settings")
    path = source.key_path(("devices", index))
    own = secret_sources(path, group)
    of_settings = secret_sources(f"{path}.settings", settings) if isinstance(settings, dict) else ()
    first: dict[str, str] = {}
    problems: list[Problem] = []
    for secret in (*own, *of_settings):
        if (other := first.setdefault(secret.name, secret.key_path)) != secret.key_path:
            place: Location = ("devices", index, *secret.key_path.removeprefix(f"{path}.").split("."))
            problems.append(source.problem(place, f"{other} names the same secret", "keep one of them"))
    return problems


def _driver_problems(source: SiteSource) -> list[Problem]:
    try:
        drivers = registry.drivers()
    except Exception as error:  # a third party's package is imported here, and may raise anything
        reason = f"an installed driver cannot be loaded: {type(error).__name__}: {error}"
        return [source.problem((), reason, "mend or remove that package")]
    problems: list[Problem] = []
    for index, group in source.entries("devices").items():
        problems += _uses_driver(source, ("devices", index), group, drivers, _DEVICES)
    for index, feeder in source.entries("feeder").items():
        if isinstance(meter := feeder.get("meter"), dict):
            problems += _uses_driver(source, ("feeder", index, "meter"), meter, drivers, _METERS)
        if isinstance(interlock := feeder.get("interlock"), dict):
            problems += _uses_driver(source, ("feeder", index, "interlock"), interlock, drivers, _INTERLOCKS)
    return problems


@dataclass(frozen=True, slots=True)
class _Side:
    """What a table wants of a driver: the noun, the default, and whether a driver has it."""

    noun: str
    default: str | None
    is_offered: Callable[[Driver], bool]


_DEVICES = _Side("devices", None, lambda driver: driver.open_device is not None)
_METERS = _Side("meters", "modbus", lambda driver: driver.open_meter is not None)
_INTERLOCKS = _Side("interlocks", "modbus-coil", lambda driver: driver.open_interlock is not None)


def _uses_driver(
    source: SiteSource, place: Location, table: Mapping[str, Any], drivers: Mapping[str, Driver], side: _Side
) -> list[Problem]:
    name = table.get("driver", side.default)
    if not isinstance(name, str):
        return []
    able = {known for known, driver in drivers.items() if side.is_offered(driver)}
    if name not in able:
        listed = f"{side.noun}: {', '.join(sorted(able)) or 'none installed'}"
        reason, remedy = "no driver has this name", f"{suggest(name, able)} ({listed})"
        if name in drivers:
            sides = [each.noun for each in (_DEVICES, _METERS, _INTERLOCKS) if each.is_offered(drivers[name])]
            reason, remedy = f"this driver is for {' and '.join(sides)}, not for {side.noun}", f"take one for {listed}"
        return [source.problem((*place, "driver"), reason, remedy, name)]
    settings = table.get("settings", {})
    if not isinstance(settings, dict):
        return []
    try:
        drivers[name].settings.model_validate(settings)
    except ValidationError as error:
        return explain(error, drivers[name].settings, source, (*place, "settings"))
    return []
