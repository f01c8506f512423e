"""What must survive a crash, as documents of the store: the link's memory, identities, learned draws, raise intents.

Moments are written as wall time and read back onto this run's monotonic clock.
"""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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
HELD = "held/"
KNOWN = "known/"
IDENTITY = "identity/"
INTENT = "intent/"
LEARNED = "learned/"


TOLD_BACK_S = 1.0
SET_BY_S = 0.01
"""A wall clock that has moved further against the monotonic one since: wall times are written anew."""


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
    """`allocations` and `known_ids` are in it as earlier versions wrote it; now they are documents of their own."""

    model_config = ConfigDict(extra="forbid")

    allocations: list[_Stated] = []
    scheduled: list[str]
    last_seq: dict[str, int]
    schedule_seq: dict[str, int]
    known_ids: list[tuple[str, int]] = []
    hold_until: UnixSeconds | None
    saved_at: UnixSeconds = 0.0


class _Known(NamedTuple):
    """An id that was taken: its `seq`, and which it was of all that were."""

    seq: int
    place: int


_KNOWN = TypeAdapter(_Known)


class MemoryDamaged(Exception):
    """The link's memory cannot be read: starting without it could forget a limit."""


class LinkKeeper:
    """Says what to write so that the link's memory survives a crash: each allocation and each known id is a document of
    its own, for the grid waits for them and most have been written before. `found`: what is there already. Raises
    `MemoryDamaged`."""

    def __init__(self, found: Mapping[str, str]) -> None:
        try:
            known = _known(found)
        except ValueError as error:
            raise MemoryDamaged(f"the grid link's memory cannot be read: {error}") from error
        self._known = {AllocationId(name): entry.seq for name, entry in known.items()}
        self._last = next(reversed(self._known), None)
        self._places = 1 + max((entry.place for entry in known.values()), default=-1)
        self._held: dict[str, Allocation | None] = {
            key.removeprefix(HELD): None for key in found if key.startswith(HELD)
        }
        self._ahead_s = math.nan

    def documents(self, memory: LinkMemory, clock: Clock) -> dict[str, str | None]:
        """What differs from what was last asked for; `None` is to be deleted."""
        ahead_s = to_unix(clock, 0.0)
        if not abs(ahead_s - self._ahead_s) <= SET_BY_S:
            self._ahead_s, self._held = ahead_s, dict.fromkeys(self._held)
        documents: dict[str, str | None] = {LINK: _link(memory, clock, self._ahead_s)}
        held: dict[str, Allocation | None] = {allocation.id: allocation for allocation in memory.allocations}
        documents.update(dict.fromkeys(HELD + name for name in self._held.keys() - held.keys()))
        for name, allocation in held.items():
            if allocation is not None and self._held.get(name) is not allocation:
                documents[HELD + name] = _stated(allocation, self._ahead_s).model_dump_json()
        for name, seq in self._fresh(memory.known_ids):
            documents[KNOWN + name] = _KNOWN.dump_json(_Known(seq, self._places)).decode()
            self._places += 1
            self._known[name] = seq
        if len(self._known) != len(memory.known_ids):
            for name in self._known.keys() - memory.known_ids.keys():
                documents[KNOWN + name] = None
                del self._known[name]
        self._held = held
        return documents

    def forget(self) -> None:
        """What was asked for last may not have been written: all is to be written anew."""
        self._held, self._known, self._last = dict.fromkeys(self._held), dict.fromkeys(self._known, -1), None

    def _fresh(self, known: OrderedDict[AllocationId, int]) -> list[tuple[AllocationId, int]]:
        """Those that are not written yet, in the order in which they came: all after the last that is."""
        fresh: list[tuple[AllocationId, int]] = []
        for name, seq in reversed(known.items()):
            is_written = self._known.get(name) == seq
            if is_written and name == self._last:
                break
            if not is_written:
                fresh.append((name, seq))
        self._last = next(reversed(known), None)
        return fresh[::-1]


def _link(memory: LinkMemory, clock: Clock, ahead_s: Seconds) -> str:
    return _Link(
        scheduled=sorted(memory.scheduled),
        last_seq={str(issuer): seq for issuer, seq in memory.last_seq.items()},
        schedule_seq={str(issuer): seq for issuer, seq in memory.schedule_seq.items()},
        hold_until=memory.hold_until + ahead_s if memory.hold_until is not None else None,
        saved_at=clock.wall(),
    ).model_dump_json(exclude_defaults=True)


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
        known = dict(kept.known_ids) | {name: entry.seq for name, entry in _known(documents).items()}
        held = [
            *kept.allocations,
            *(_Stated.model_validate_json(documents[key]) for key in documents if key.startswith(HELD)),
        ]
        places = {name: place for place, name in enumerate(known)}
        held.sort(key=lambda stated: places.get(stated.id, -1))
        back_s = max(0.0, kept.saved_at - clock.wall())
        if back_s > TOLD_BACK_S:
            log.error("this host's clock is %.0f s behind what it showed before; limits hold as they were", back_s)
        clock = _Earlier(clock, back_s)
        return LinkMemory(
            allocations=[_allocation(stated, clock) for stated in held],
            scheduled={AllocationId(name) for name in kept.scheduled},
            last_seq={Issuer(issuer): seq for issuer, seq in kept.last_seq.items()},
            schedule_seq={Issuer(issuer): seq for issuer, seq in kept.schedule_seq.items()},
            known_ids=OrderedDict((AllocationId(name), seq) for name, seq in known.items()),
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


def _known(documents: Mapping[str, str]) -> dict[str, _Known]:
    """In the order in which they came. Raises `ValueError`."""
    found = {
        key.removeprefix(KNOWN): _KNOWN.validate_json(text) for key, text in documents.items() if key.startswith(KNOWN)
    }
    return dict(sorted(found.items(), key=lambda item: item[1].place))


def _stated(allocation: Allocation, ahead_s: Seconds) -> _Stated:
    """With wall times, which are `ahead_s` ahead of monotonic ones."""
    return _Stated(
        id=allocation.id,
        seq=allocation.seq,
        issuer=allocation.issuer,
        feeder=allocation.feeder,
        limit_w=allocation.ceiling.watts if isinstance(allocation.ceiling, Limit) else None,
        issued_at=allocation.issued_at + ahead_s,
        valid_from=allocation.valid_from + ahead_s,
        valid_until=allocation.valid_until + ahead_s if allocation.valid_until is not None else None,
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
