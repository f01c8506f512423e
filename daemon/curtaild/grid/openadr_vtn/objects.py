"""The objects of the VTN, in memory and bounded: programs, events, reports, subscriptions, vens, resources; who may see
which (Definitions, "Object Privacy")."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from curtaild.clock import Clock
from curtaild.grid.fields import timestamp
from curtaild.grid.openadr_vtn.span import ends_at
from curtaild.grid.openadr_vtn.tokens import Client, Role

OadrObject = dict[str, Any]
"""An object as the wire carries it; never changed in place."""

MOST_OBJECTS = {"PROGRAM": 1_000, "EVENT": 10_000, "REPORT": 10_000, "SUBSCRIPTION": 1_000, "VEN": 10_000}
MOST_RESOURCES = 10_000
_OWNED = ("REPORT", "SUBSCRIPTION", "VEN", "RESOURCE")
"""What a VEN sees only where `clientID` is its own; programs and events are kept apart by targets instead."""


class Refused(Exception):
    """An operation that the present objects do not allow; `status` is its HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


Noted = Callable[[str, OadrObject], None]
"""Hears of every change: the operation (CREATE, UPDATE, DELETE) and the object."""


class Objects:
    """`noted` hears of every change. With `grants_unasked` a VEN reads what its targets open without naming them in
    the query, as the User Guide has it (8.13); without, it must name them, as the Definitions do."""

    def __init__(self, clock: Clock, noted: Noted, *, grants_unasked: bool = False) -> None:
        self._clock = clock
        self._noted = noted
        self._grants_unasked = grants_unasked
        self._kept: dict[str, dict[str, OadrObject]] = {kind: {} for kind in (*MOST_OBJECTS, "RESOURCE")}

    # ---- reading ------------------------------------------------------------------------------

    def seen(self, kind: str, who: Client, asked: Sequence[str] | None = None) -> Iterator[OadrObject]:
        """What `who` may see of this kind, the oldest first. `asked`: the targets of the query, `None` without any;
        what carries none of them is left out."""
        granted = self.granted(who)
        unasked = granted if self._grants_unasked else frozenset[str]()
        allowed = unasked if asked is None else granted & set(asked)
        for found in self._kept[kind].values():
            if asked is None or not set(asked).isdisjoint(found.get("targets") or ()):
                visible = _as_seen(found, who, allowed)
                if visible is not None:
                    yield visible

    def one(self, kind: str, object_id: str, who: Client) -> OadrObject:
        """Raises `Refused` 404; what one may not see does not exist. Asking for an object by its id names no targets:
        here all that were granted count."""
        found = self._kept[kind].get(object_id)
        visible = _as_seen(found, who, self.granted(who)) if found is not None else None
        if visible is None:
            raise Refused(404, f"no such {kind.lower()}")
        return visible

    def granted(self, who: Client) -> frozenset[str]:
        """The targets of a VEN's ven objects and their resources."""
        return frozenset(
            target
            for kind in ("VEN", "RESOURCE")
            for each in self._kept[kind].values()
            if each["clientID"] == who.client_id
            for target in each.get("targets") or ()
        )

    def vens_that_see(self, targets: Iterable[str]) -> list[str]:
        """The ids of the vens that hold one of these targets, themselves or by a resource."""
        wanted = set(targets)
        found = [ven_id for ven_id, ven in self._kept["VEN"].items() if wanted & set(ven.get("targets") or ())]
        by_resource = [
            each["venID"] for each in self._kept["RESOURCE"].values() if wanted & set(each.get("targets") or ())
        ]
        return list(dict.fromkeys([*found, *by_resource]))

    def programs_of_events(self) -> Mapping[str, str]:
        """The program of each event, by the event's id."""
        return {event_id: event["programID"] for event_id, event in self._kept["EVENT"].items()}

    def is_active(self, event: OadrObject) -> bool:
        """Whether some of it is still to come."""
        return ends_at(event) > self._clock.wall()

    # ---- writing ------------------------------------------------------------------------------

    def create(self, kind: str, body: OadrObject) -> OadrObject:
        """Raises `Refused`: a name taken or a reference to nothing (409), or no room (507); the oldest report gives way
        to a new one."""
        self._check(kind, body, None)
        kept = self._kept[kind]
        if len(kept) >= MOST_OBJECTS.get(kind, MOST_RESOURCES):
            if kind != "REPORT":
                raise Refused(507, f"this VTN keeps no more than {len(kept)} objects of this kind")
            del kept[next(iter(kept))]
        now = timestamp(self._clock.wall())
        made = {
            **body,
            "id": str(uuid.uuid4()),
            "createdDateTime": now,
            "modificationDateTime": now,
            "objectType": kind,
        }
        kept[made["id"]] = made
        self._noted("CREATE", made)
        return made

    def update(self, kind: str, before: OadrObject, body: OadrObject) -> OadrObject:
        """`body` in the place of what `before` said. Raises `Refused`."""
        self._check(kind, body, before["id"])
        metadata = {key: before[key] for key in ("id", "createdDateTime")}
        made = {**body, **metadata, "modificationDateTime": timestamp(self._clock.wall()), "objectType": kind}
        self._kept[kind][before["id"]] = made
        self._noted("UPDATE", made)
        return made

    def delete(self, kind: str, object_id: str) -> OadrObject:
        """With what cannot be without it: a program's events, a ven's resources."""
        gone = self._kept[kind][object_id]
        for part, reference in {"PROGRAM": [("EVENT", "programID")], "VEN": [("RESOURCE", "venID")]}.get(kind, ()):
            for each in [each for each in self._kept[part].values() if each[reference] == object_id]:
                self.delete(part, each["id"])
        # the topics of those who could see it are worked out while it still stands
        self._noted("DELETE", gone)
        del self._kept[kind][object_id]
        return gone

    def _check(self, kind: str, body: OadrObject, own_id: str | None) -> None:
        for key, of in (("programID", "PROGRAM"), ("eventID", "EVENT"), ("venID", "VEN")):
            if body.get(key) is not None and body[key] not in self._kept[of]:
                raise Refused(409, f"{key}: no such {of.lower()}")
        name, within = {
            "PROGRAM": ("programName", ()),
            "VEN": ("venName", ()),
            "RESOURCE": ("resourceName", ("venID",)),
        }.get(kind, (None, ()))
        if name is None:
            return
        for each in self._kept[kind].values():
            if each["id"] != own_id and each[name] == body[name] and all(each[key] == body[key] for key in within):
                raise Refused(409, f"{name} is taken: {body[name]}")


def _as_seen(found: OadrObject, who: Client, allowed: frozenset[str]) -> OadrObject | None:
    if who.role is Role.BUSINESS_LOGIC:
        return found
    if found["objectType"] in _OWNED:
        return found if found["clientID"] == who.client_id else None
    if not found.get("targets"):
        return found
    shared = [target for target in found["targets"] if target in allowed]
    return {**found, "targets": shared} if shared else None  # the others' targets stay hidden
