"""What a node says of itself, made of what its GPUs said. Pure.

Node power is base + factor · Σ GPU. A GPU that does not answer is counted at the limit it was last seen to keep, the
most that it may draw: seven GPUs that answer are not left unseen for the eighth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from curtaild_drivers.contract import OFF, Reading, RunState, Seconds, Watts
from curtaild_drivers.gpu.card import Milliwatts, of_card
from curtaild_drivers.gpu.curve import LIMIT
from curtaild_drivers.gpu.settings import NodeSettings
from curtaild_drivers.gpu.slot import SAME_MW, Slot

CLOCKS, SUSPEND = "clocks", "suspend"
STAGES = (CLOCKS, SUSPEND, OFF)
"""Below the power limits, each deeper than the one before."""

AT_WORK = 0.02
"""A GPU busier than this, as a fraction of time, is at work."""


def node_watts(gpus_w: Watts, settings: NodeSettings) -> Watts:
    """At the wall, for so many watts of GPUs."""
    return settings.base_w + settings.gpu_factor * gpus_w


def gpus_mw(node_w: Watts, settings: NodeSettings) -> Milliwatts:
    """What the GPUs may draw of so many watts at the wall."""
    return round((node_w - settings.base_w) / settings.gpu_factor * 1000)


def deepest(stages: Set[str]) -> str:
    """The operating point's key of a node that has entered these stages."""
    return next((stage for stage in reversed(STAGES) if stage in stages), LIMIT)


def most_of(slot: Slot, slots: Iterable[Slot]) -> Milliwatts | None:
    """The most a silent GPU may draw: the limit it was last seen to keep, else the highest that it, or any other GPU of
    the node, can be set to. `None` where nobody knows."""
    return slot.held_mw if slot.held_mw is not None else highest_of(slot, slots)


def highest_of(slot: Slot, slots: Iterable[Slot]) -> Milliwatts | None:
    """The highest limit that a GPU can be set to; one that could not be opened passes for the largest of the others."""
    if slot.facts is not None:
        return slot.facts.most_mw
    known = [facts.most_mw for other in slots if (facts := other.facts) is not None]
    return max((mw for mw in known if mw is not None), default=None)


def node_reading(
    taken_at: Seconds, slots: Sequence[Slot], stages: Set[str], settings: NodeSettings, trouble: Sequence[str]
) -> Reading:
    """`trouble`: what else a person must know. Asked of `slots` just before, at least one of which answered."""
    point_key = deepest(stages)
    enforced_mw = [slot.power.enforced_mw if slot.error is None else most_of(slot, slots) for slot in slots]
    drawn_w = [_drawn_w(slot, slots) for slot in slots]
    faults = [*_faults(slots), *trouble]
    temperatures = [slot.activity.temperature_c for slot in slots if slot.activity.temperature_c is not None]
    return Reading(
        taken_at=taken_at,
        state=_state(slots, point_key),
        power_w=_node_sum(drawn_w, settings),
        rate=_rate(slots),
        point_key=point_key,
        limit_w=_node_sum([mw / 1000 if mw is not None else None for mw in enforced_mw], settings)
        if point_key == LIMIT
        else None,
        temperature_c=max(temperatures, default=None),
        fault="; ".join(faults) or None,
    )


def _drawn_w(slot: Slot, slots: Sequence[Slot]) -> Watts | None:
    if slot.error is None:
        return slot.power.power_w
    most_mw = most_of(slot, slots)
    return most_mw / 1000 if most_mw is not None else None


def _node_sum(gpus_w: Sequence[Watts | None], settings: NodeSettings) -> Watts | None:
    known = [gpu_w for gpu_w in gpus_w if gpu_w is not None]
    return node_watts(sum(known), settings) if len(known) == len(gpus_w) else None


def _state(slots: Sequence[Slot], point_key: str) -> RunState:
    if any(slot.error is not None or slot.xid is not None for slot in slots):
        return RunState.FAULT
    if is_at_work(slots):
        return RunState.RUNNING
    return RunState.ASLEEP if point_key in (SUSPEND, OFF) else RunState.IDLE


def is_at_work(slots: Sequence[Slot]) -> bool:
    """Unless all are proved idle: with MIG nothing is said of utilisation."""
    return any(slot.activity.utilisation is None or slot.activity.utilisation > AT_WORK for slot in slots)


def _rate(slots: Sequence[Slot]) -> float | None:
    """Busy time times clock, a fraction of the most, over all GPUs."""
    rates = [
        slot.activity.utilisation * slot.activity.clock_fraction
        for slot in slots
        if slot.error is None and slot.activity.utilisation is not None and slot.activity.clock_fraction is not None
    ]
    return sum(rates) / len(slots) if rates else None


def _faults(slots: Sequence[Slot]) -> list[str]:
    found: list[str] = []
    for slot in slots:
        if slot.error is not None:
            found.append(of_card(slot.index, slot.error))
            continue
        if slot.xid is not None:
            found.append(f"GPU {slot.index}: its driver told of XID {slot.xid}")
        found += _drift(slot)
    return found


def _drift(slot: Slot) -> list[str]:
    """Somebody else limits it too, or instead of us: told, never fought."""
    enforced_mw, requested_mw = slot.power.enforced_mw, slot.power.requested_mw
    found: list[str] = []
    if requested_mw is not None and slot.wanted_mw is not None and abs(requested_mw - slot.wanted_mw) > SAME_MW:
        found.append(f"GPU {slot.index}: told {_watts(slot.wanted_mw)}, then somebody asked for {_watts(requested_mw)}")
    if enforced_mw is not None and requested_mw is not None and abs(enforced_mw - requested_mw) > SAME_MW:
        found.append(f"GPU {slot.index}: keeps {_watts(enforced_mw)} where {_watts(requested_mw)} is asked for")
    return found


def _watts(milliwatts: Milliwatts) -> str:
    return f"{milliwatts / 1000:g} W"
