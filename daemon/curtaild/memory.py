"""What must survive a crash, as documents of the store: the link's memory, identities, learned draws, raise intents.

Moments are written as wall time and read back onto this run's monotonic clock.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from curtaild.clock import Clock, UnixSeconds, to_monotonic, to_unix
from curtaild.core.allocation import Allocation, AllocationId, Issuer, Urgency
from curtaild.core.device import Device, DrawRatio
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.link import LinkMemory
from curtaild.core.site import RaiseIntent
from curtaild_drivers.contract import DeviceId, FeederId, Identity, OperatingPoint, Seconds

log = logging.getLogger(__name__)

LINK = "link"
IDENTITY = "identity/"
INTENT = "intent/"
LEARNED = "learned/"


TOLD_BACK_S = 1.0


class _Stated(BaseModel):
    """An allocation with wall times."""

    model_config = ConfigDict(extra="forbid")

    id: str
    seq: int
    issuer: str
    feeder: str
    limit_w: float | None
    issued_at: UnixSeconds
    valid_from: UnixSeconds
    valid_until: UnixSeconds | None
    reach_by_s: Seconds | None
    max_ramp_up_w_per_min: float | None
    urgency: Urgency


class _Link(BaseModel):
    model_config = ConfigDict(extra="forbid")

    allocations: list[_Stated]
    scheduled: list[str]
    last_seq: dict[str, int]
    schedule_seq: dict[str, int]
    known_ids: list[tuple[str, int]]
    hold_until: UnixSeconds | None
    saved_at: UnixSeconds = 0.0


class MemoryDamaged(Exception):
    """The link's memory cannot be read: starting without it could forget a limit."""


def link_document(memory: LinkMemory, clock: Clock) -> str:
    """The link's memory as it stands."""
    return _Link(
        allocations=[_stated(allocation, clock) for allocation in memory.allocations],
        scheduled=sorted(memory.scheduled),
        last_seq={str(issuer): seq for issuer, seq in memory.last_seq.items()},
        schedule_seq={str(issuer): seq for issuer, seq in memory.schedule_seq.items()},
        known_ids=[(str(name), seq) for name, seq in memory.known_ids.items()],
        hold_until=to_unix(clock, memory.hold_until) if memory.hold_until is not None else None,
        saved_at=clock.wall(),
    ).model_dump_json()


def link_memory(documents: Mapping[str, str], clock: Clock) -> LinkMemory | None:
    """The memory an earlier run left, `None` if there was none. Raises `MemoryDamaged`.

    A clock that shows less than when this was saved was set back, or begins at 1970: then no time has passed as far as
    is known, and what was in force is in force.
    """
    text = documents.get(LINK)
    if text is None:
        return None
    try:
        kept = _Link.model_validate_json(text)
        back_s = max(0.0, kept.saved_at - clock.wall())
        if back_s > TOLD_BACK_S:
            log.error("this host's clock is %.0f s behind what it showed before; limits hold as they were", back_s)
        clock = _Earlier(clock, back_s)
        return LinkMemory(
            allocations=[_allocation(stated, clock) for stated in kept.allocations],
            scheduled={AllocationId(name) for name in kept.scheduled},
            last_seq={Issuer(issuer): seq for issuer, seq in kept.last_seq.items()},
            schedule_seq={Issuer(issuer): seq for issuer, seq in kept.schedule_seq.items()},
            known_ids=OrderedDict((AllocationId(name), seq) for name, seq in kept.known_ids),
            hold_until=to_monotonic(clock, kept.hold_until) if kept.hold_until is not None else None,
        )
    except ValueError as error:
        raise MemoryDamaged(f"the grid link's memory cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class _Earlier:
    """`clock`, with a wall that shows `back_s` more."""

    clock: Clock
    back_s: Seconds

    def monotonic(self) -> Seconds:
        return self.clock.monotonic()

    def wall(self) -> UnixSeconds:
        return self.clock.wall() + self.back_s


def _stated(allocation: Allocation, clock: Clock) -> _Stated:
    return _Stated(
        id=allocation.id,
        seq=allocation.seq,
        issuer=allocation.issuer,
        feeder=allocation.feeder,
        limit_w=allocation.ceiling.watts if isinstance(allocation.ceiling, Limit) else None,
        issued_at=to_unix(clock, allocation.issued_at),
        valid_from=to_unix(clock, allocation.valid_from),
        valid_until=to_unix(clock, allocation.valid_until) if allocation.valid_until is not None else None,
        reach_by_s=allocation.reach_by_s,
        max_ramp_up_w_per_min=allocation.max_ramp_up_w_per_min,
        urgency=allocation.urgency,
    )


def _allocation(stated: _Stated, clock: Clock) -> Allocation:
    return Allocation(
        id=AllocationId(stated.id),
        seq=stated.seq,
        issuer=Issuer(stated.issuer),
        feeder=FeederId(stated.feeder),
        ceiling=Limit(stated.limit_w) if stated.limit_w is not None else UNLIMITED,
        issued_at=to_monotonic(clock, stated.issued_at),
        valid_from=to_monotonic(clock, stated.valid_from),
        valid_until=to_monotonic(clock, stated.valid_until) if stated.valid_until is not None else None,
        reach_by_s=stated.reach_by_s,
        max_ramp_up_w_per_min=stated.max_ramp_up_w_per_min,
        urgency=stated.urgency,
    )


# ---- identities, intents, learned draws: what is unreadable is learned anew -------------------------

_IDENTITY = TypeAdapter(Identity)
_POINT = TypeAdapter(OperatingPoint)
_RATIOS = TypeAdapter(dict[str, DrawRatio])


def identity_document(identity: Identity) -> str:
    return _IDENTITY.dump_json(identity).decode()


def identities(documents: Mapping[str, str]) -> dict[DeviceId, Identity]:
    return _read(documents, IDENTITY, _IDENTITY)


def intent_document(target: OperatingPoint) -> str:
    return _POINT.dump_json(target).decode()


def raise_intents(documents: Mapping[str, str]) -> list[RaiseIntent]:
    return [RaiseIntent(device, target) for device, target in _read(documents, INTENT, _POINT).items()]


def learned_document(device: Device) -> str:
    return _RATIOS.dump_json(device.learned).decode()


def learned(documents: Mapping[str, str]) -> dict[DeviceId, dict[str, DrawRatio]]:
    return _read(documents, LEARNED, _RATIOS)


def _read(documents: Mapping[str, str], prefix: str, adapter: TypeAdapter[Any]) -> dict[DeviceId, Any]:
    found: dict[DeviceId, Any] = {}
    for key, text in documents.items():
        if not key.startswith(prefix):
            continue
        try:
            found[DeviceId(key.removeprefix(prefix))] = adapter.validate_python(json.loads(text))
        except (ValidationError, ValueError) as error:
            log.warning("what was remembered under %s cannot be read and is learned anew: %s", key, error)
    return found
