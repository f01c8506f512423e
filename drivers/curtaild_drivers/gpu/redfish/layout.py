"""Where on one BMC everything is: the node's system, the resource that tells its watts, the resources that take its
limit. Found by following links, as the specification asks; asked once, since it takes a dozen questions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from curtaild_drivers.contract import BadReply, Identity, Seconds, Unsupported, Watts
from curtaild_drivers.gpu.redfish.bmc import ROOT, Bmc, Failing
from curtaild_drivers.gpu.redfish.document import Json, last_part, link, members, part, text
from curtaild_drivers.gpu.redfish.limits import LimitState, Shape, limit_state, power_w, supplied_w
from curtaild_drivers.gpu.redfish.profiles import PROFILES, Profile, is_baseboard, is_gpu, recognised
from curtaild_drivers.gpu.redfish.settings import RedfishSettings
from curtaild_drivers.gpu.redfish.system import HostState

_MOST_CHASSIS = 4
_MOST_CONTROLS = 4
_MOST_GPUS = 32
_MOST_SUPPLIES = 16
_MOST_PAGES = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """`profile` is `None` where nothing on the BMC takes a limit; `limits` then is empty. `power` is the resource of
    the hot read; where no resource tells the node's watts, `supplies` are its power supplies' metrics. `reset_types` is
    empty where the system does not say which it takes."""

    identity: Identity
    system: str
    power: str
    supplies: tuple[str, ...]
    profile: Profile | None
    limits: dict[str, LimitState]
    reset: str | None
    reset_types: frozenset[str]
    was_off: bool
    """Some BMCs show their limits only while the node is on."""


@dataclass(slots=True)
class _Found:
    """What a chassis offers, by path."""

    environments: dict[str, Json] = field(default_factory=dict)
    powers: dict[str, Json] = field(default_factory=dict)
    subsystems: list[str] = field(default_factory=list)
    collections: list[str] = field(default_factory=list)
    controls: dict[str, Json] = field(default_factory=dict)

    def telling(self) -> dict[str, Watts]:
        """The resources that tell watts, and how many."""
        told = {**self.environments, **self.powers, **self.controls}
        return {path: claimed for path, body in told.items() if (claimed := power_w(body)) is not None}


async def discovered(bmc: Bmc, settings: RedfishSettings, until: Seconds) -> Layout:
    """Raises `Unreachable`, `AuthFailed`, `BadReply`, and `Unsupported` where the settings name what is not there."""
    root = (await bmc.get(ROOT, until)).body
    systems = await _members(bmc, link(root, "Systems"), until)
    system = _chosen(systems, settings)
    body = (await bmc.get(system, until)).body
    managers = await _members(bmc, link(root, "Managers"), until)
    manager = await _document(bmc, managers[0] if managers else None, until)
    paths = await _chassis(bmc, link(root, "Chassis"), body, systems, until)
    chassis = [await _document(bmc, path, until) for path in paths]
    found = await _found(bmc, chassis, until)
    known = PROFILES[settings.profile] if settings.profile else recognised(root, systems, [body, manager, *chassis])
    profile, limits = await _limits(bmc, settings, known, systems, found, until)
    power = settings.power_path or _hot(profile, limits, found)
    reset = part(body, "Actions", "#ComputerSystem.Reset")
    target, types = reset.get("target"), reset.get("ResetType@Redfish.AllowableValues")
    return Layout(
        identity=Identity(
            make=text(body.get("Manufacturer")) or text(root.get("Vendor")) or "unknown",
            model=text(body.get("Model")) or text(root.get("Product")) or "unknown",
            firmware=profile.name if profile is not None else "redfish",
            version=text(manager.get("FirmwareVersion")),
            serial=text(body.get("SerialNumber")),
        ),
        system=system,
        power=power or system,
        supplies=await _supplies(bmc, found.subsystems, until) if power is None else (),
        profile=profile,
        limits=limits,
        reset=target if isinstance(target, str) and target.startswith("/redfish/") else None,
        reset_types=frozenset(text(kind) for kind in types) if isinstance(types, list) else frozenset(),
        was_off=HostState.told_by(body).is_off,
    )


def _chosen(systems: list[str], settings: RedfishSettings) -> str:
    ids = ", ".join(last_part(system) for system in systems[:8]) or "none"
    if settings.system is not None:
        named = [system for system in systems if last_part(system) == settings.system]
        if not named:
            raise Unsupported(f"it has no system {settings.system!r}; it has {ids}")
        return named[0]
    nodes = [system for system in systems if not is_baseboard(system)] or systems
    if not nodes:
        raise BadReply("it names no system: it may be no node's BMC")
    return nodes[0]


async def _chassis(bmc: Bmc, collection: str | None, system: Json, systems: list[str], until: Seconds) -> list[str]:
    """The node's own chassis, then the others that are no part of it; all parts only where nothing else is there."""
    linked = members(part(system, "Links"), "Chassis")
    nodes = [path for path in systems if not is_baseboard(path)]
    if linked and len(nodes) > 1:
        return linked[:_MOST_CHASSIS]  # the others are other nodes' perhaps
    listed = await _members(bmc, collection, until)
    whole = [path for path in listed if not last_part(path).upper().startswith("HGX_")]
    boards = [path for path in listed if last_part(path) == "HGX_Chassis_0"]
    return list(dict.fromkeys([*linked, *whole[:_MOST_CHASSIS], *boards]))[: _MOST_CHASSIS + 1]


async def _found(bmc: Bmc, chassis: list[Json], until: Seconds) -> _Found:
    found = _Found()
    for body in chassis:
        for key, kept in (("EnvironmentMetrics", found.environments), ("Power", found.powers)):
            if (path := link(body, key)) is not None and path not in kept:
                kept[path] = await _document(bmc, path, until)
        if (path := link(body, "PowerSubsystem")) is not None:
            found.subsystems.append(path)
        if (path := link(body, "Controls")) is not None:
            found.collections.append(path)
    return found


async def _limits(
    bmc: Bmc, settings: RedfishSettings, known: Profile | None, systems: list[str], found: _Found, until: Seconds
) -> tuple[Profile | None, dict[str, LimitState]]:
    """The profile that fits and the resources that take its limit. One that the settings name is not doubted; one that
    was recognised is, since makers change where their limits stand."""
    names = [known.name] if known is not None else []
    names += ["cray", "xcc", "openbmc", "power"] if settings.profile is None else []
    for profile in (PROFILES[name] for name in dict.fromkeys(names)):
        if profile.of_gpus:
            bodies = await _gpus(bmc, systems, until)
        elif profile.shape is Shape.CONTROL:
            bodies = found.controls = await _node_control(bmc, found.collections, profile, until)
        else:
            bodies = found.environments if profile.shape is Shape.ENVIRONMENT else found.powers
        states = {
            path: state for path, body in bodies.items() if (state := limit_state(profile.shape, body)) is not None
        }
        if states:
            one = dict(list(states.items())[:1])
            return profile, states if profile.of_gpus else one
    return (known if settings.profile is not None or (known is not None and not known.keeps_while_off) else None), {}


async def _gpus(bmc: Bmc, systems: list[str], until: Seconds) -> dict[str, Json]:
    bodies: dict[str, Json] = {}
    for board in (system for system in systems if is_baseboard(system)):
        processors = link(await _document(bmc, board, until), "Processors")
        for path in (await _members(bmc, processors, until))[:_MOST_GPUS]:
            if is_gpu(last_part(path)):
                metrics = path.rstrip("/") + "/EnvironmentMetrics"
                bodies[metrics] = await _document(bmc, metrics, until)
    return bodies


async def _node_control(bmc: Bmc, collections: list[str], profile: Profile, until: Seconds) -> dict[str, Json]:
    """The control of the whole node's power: by its name, else, where the profile was not recognised by that, by
    trying those that are not a part's."""
    for collection in collections:
        paths = await _members(bmc, collection, until)
        named = [path for path in paths if last_part(path).lower() == profile.control.lower()]
        rest = [path for path in paths if "power" in last_part(path).lower() and not _is_parts(last_part(path))]
        for path in (named or (rest if profile.name != "cray" else []))[:_MOST_CONTROLS]:
            body = await _document(bmc, path, until)
            if limit_state(Shape.CONTROL, body) is not None:
                return {path: body}
    return {}


def _is_parts(control: str) -> bool:
    return any(name in control.lower() for name in ("gpu", "cpu", "accelerator", "memory", "psu", "supply"))


def _hot(profile: Profile | None, limits: dict[str, LimitState], found: _Found) -> str | None:
    """One resource that tells watts and limit both, else the one that tells the most: the whole draws more than its
    parts."""
    told = found.telling()
    if profile is not None and not profile.of_gpus:
        for path in limits:
            if path in told:
                return path
    return max(told, key=lambda path: told[path]) if told else None


async def _supplies(bmc: Bmc, subsystems: list[str], until: Seconds) -> tuple[str, ...]:
    """The metrics of all power supplies that are there, of the first subsystem where one tells what it takes."""
    for subsystem in subsystems:
        listed = await _members(bmc, link(await _document(bmc, subsystem, until), "PowerSupplies"), until)
        supplies = [await _document(bmc, path, until) for path in listed[:_MOST_SUPPLIES]]
        present = [each for each in supplies if part(each, "Status").get("State") != "Absent"]
        paths = [path for each in present if (path := link(each, "Metrics")) is not None]
        told = [supplied_w(await _document(bmc, path, until)) for path in paths]
        if any(taken_w is not None for taken_w in told):
            return tuple(paths)
    return ()


async def _document(bmc: Bmc, path: str | None, until: Seconds) -> Json:
    """What is there; empty where nothing is, or nothing can be told of it (GPUs while the node is off)."""
    if path is None:
        return {}
    try:
        return (await bmc.get(path, until)).body
    except (BadReply, Failing):
        return {}


async def _members(bmc: Bmc, collection: str | None, until: Seconds) -> list[str]:
    """All members, page by page."""
    found: list[str] = []
    for _ in range(_MOST_PAGES):
        body = await _document(bmc, collection, until)
        found += members(body)
        following = body.get("Members@odata.nextLink")
        collection = following if isinstance(following, str) and following.startswith("/redfish/") else None
        if collection is None:
            break
    return list(dict.fromkeys(found))
