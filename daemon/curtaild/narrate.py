"""Says in the log what a person must know: once at the start, once at the recovery, and nothing in between."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from curtaild.core.events import (
    Ack,
    AckStage,
    BreachChanged,
    BreachStage,
    Condition,
    DeficitChanged,
    DeviceChanged,
    Event,
    InterlockChanged,
    LimitChanged,
    LinkChanged,
    LinkPhase,
    MeterChanged,
)
from curtaild.core.limits import Limit
from curtaild_drivers.contract import DeviceId, Identity, Watts

log = logging.getLogger("curtaild")

_REMEDIES = {
    Condition.UNREACHABLE: "until it can be read it counts at its last draw, then at the most it may draw",
    Condition.AUTH_FAILED: "it cannot be commanded; correct its group's password in the site file",
    Condition.BAD_REPLY: "its readings are not believed; check what answers at its address",
    Condition.STALE: "its reservation grows to its rated draw",
    Condition.DIVERGED: "it does not obey; others are shed in its place, and it is asked again later",
    Condition.REFUSED: "others are shed in its place, and it is asked again later",
    Condition.DRIFTED: "somebody or something else moved it; it counts at its worst until it is steady",
}


def narrate(events: Iterable[Event]) -> None:
    """One line per event that a person must know of."""
    for event in events:
        match event:
            case LinkChanged():
                level = logging.WARNING if event.after is LinkPhase.FAILSAFE else logging.INFO
                log.log(level, "grid link: %s → %s: %s", event.before.value, event.after.value, event.reason)
            case LimitChanged(before=None, source="rating"):
                pass  # at the start nobody limits any of a thousand racks: that is no news
            case LimitChanged():
                log.info("limit at %s: %s", event.feeder, _told(event))
            case DeviceChanged():
                _narrate_device(event)
            case MeterChanged(is_fresh=True):
                log.info("meter of %s: fresh", event.feeder)
            case MeterChanged():
                log.warning("meter of %s: stale (%s); its devices count at their worst", event.feeder, event.detail)
            case InterlockChanged():
                level = logging.INFO if event.is_running else logging.WARNING
                log.log(level, "fans of %s: %s", event.feeder, "running" if event.is_running else "standing still")
            case DeficitChanged(deficit_w=0.0):
                log.info("deficit at %s: over", event.feeder)
            case DeficitChanged():
                spared = f", {watts(event.spared_w)} of it left to devices at their flex" if event.spared_w > 0 else ""
                log.warning("deficit at %s: %s cannot be shed%s", event.feeder, watts(event.deficit_w), spared)
            case BreachChanged():
                level = logging.INFO if event.stage is BreachStage.RESOLVED else logging.ERROR
                over = watts(event.over_w)
                log.log(
                    level, "breach %s at %s: %s, %s over the limit", event.id, event.feeder, event.stage.value, over
                )
            case Ack(stage=AckStage.REJECTED):
                code = event.code.value if event.code is not None else "?"
                log.warning("allocation %s rejected: %s: %s", event.allocation_id or "?", code, event.reason)
            case _:
                continue


def _told(event: LimitChanged) -> str:
    """A limit and who set it; of a feeder that nobody limits there is no more to say."""
    told = watts(event.after.watts) if isinstance(event.after, Limit) else "its rating alone"
    match event.source:
        case "rating":
            return told
        case "fail-safe":
            return f"{told} (fail-safe)"
        case allocation_id:
            return f"{told} (allocation {allocation_id})"


def _narrate_device(event: DeviceChanged) -> None:
    if event.begins:
        log.warning("%s: %s: %s; %s", event.device, event.condition.value, event.detail, _REMEDIES[event.condition])
    else:
        log.info("%s: no longer %s", event.device, event.condition.value)


def who(identity: Identity) -> str:
    """A device in few words: "Antminer S21 under luxos 2024.5.1"."""
    name = " ".join(filter(None, (identity.make, identity.model))) or "a miner"
    return f"{name} under {identity.firmware}" + (f" {identity.version}" if identity.version else "")


def exchange(known: Identity, found: Identity) -> str | None:
    """What to say where another device, or another firmware, answers than the one that was known; `None` where it is
    the same in perhaps another version. Firmwares tell serials of their own, so those count within one only."""
    if (known.make, known.model, known.firmware) != (found.make, found.model, found.firmware):
        return f"was {who(known)}, is now {who(found)}"
    if known.serial and found.serial and known.serial != found.serial:
        return f"another {who(found)} stands there now"
    return None


def came_from(found: Identity, at: str, known: Mapping[DeviceId, Identity]) -> DeviceId | None:
    """Where the machine that now answers as `at` stood before, as far as serials tell: the place of another listed
    device. Firmwares tell serials of their own, so they count within one only."""
    if not found.serial:
        return None
    places = (name for name, other in known.items() if name != at and other.firmware == found.firmware)
    return next((name for name in places if known[name].serial == found.serial), None)


def watts(value_w: Watts) -> str:
    """Watts for people's eyes."""
    for size, unit in ((1e6, "MW"), (1e3, "kW")):
        if abs(value_w) >= size:
            return f"{value_w / size:.3g} {unit}" if abs(value_w) < 1000 * size else f"{value_w / size:,.0f} {unit}"
    return f"{value_w:.0f} W"
