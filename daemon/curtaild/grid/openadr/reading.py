"""Reads from a VTN what a VEN needs: itself, its programs and events, page by page, and where notifications are had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from curtaild.clock import Clock, UnixSeconds
from curtaild.grid import fields
from curtaild.grid.fields import Rejection
from curtaild.grid.openadr import objects
from curtaild.grid.openadr.dialect import Snapshot
from curtaild.grid.openadr.objects import MqttBinding, Ven
from curtaild.grid.openadr.vtn import MAX_PAGE, Vtn, VtnFailed
from curtaild_drivers.broker.mqtt import Obstacle
from curtaild_drivers.contract import Watts

Notifications: TypeAlias = tuple[MqttBinding, tuple[str, ...]]
"""Where they are had, and the topics."""

MOST_OBJECTS = 1_000
MOST_BYTES = 4 * 1024 * 1024
TRIES = 3
MOST_PROGRAM_TOPICS = 32
MOST_ALONE = 8
"""Targets asked for one by one; more are asked for together, or a reading would never end."""


class TooMuch(VtnFailed):
    """The VTN shows more than is read."""


class Reading:
    """One pass over what the VTN shows; `tell` hears of what it would not give us. Everything raises `VtnFailed`."""

    def __init__(self, vtn: Vtn, clock: Clock, tell: Callable[[str], None]) -> None:
        self._vtn = vtn
        self._tell = tell
        self._begun_at = clock.monotonic()
        self._bytes = 0
        self._date: UnixSeconds | None = None

    async def ven(self, name: str, rating_w: Watts, known: Ven | None) -> Ven | None:
        """Our ven object; made where there is none yet. Where the VTN keeps none for us, the one that is `known`."""
        try:
            found = await self._own(name)
            if found is None:
                found = objects.read_ven((await self._vtn.post("/vens", _ven_request(name, rating_w))).body)
                self._tell(f"registered as ven {name}")
            return found
        except VtnFailed as failure:
            if not failure.is_refusal:
                raise
            self._tell(f"it keeps no ven {name} for us: {failure.reason}")
        except Rejection as refusal:
            self._tell(f"its ven {name} is not understood: {refusal.reason}")
        return known

    async def _own(self, name: str) -> Ven | None:
        for body in await self._all("/vens", [("venName", name)]):
            ven = objects.read_ven(body)
            if ven.name == name:
                return ven
        return None

    async def snapshot(self, targets: Sequence[str], is_active_only: bool) -> Snapshot:
        """All programs and events; with `is_active_only` the VTN leaves out events that are over. What has targets is
        shown only to those who name them; who names some may be shown nothing else, and who names several perhaps only
        what has all of them: so each is asked for by itself, besides what has none."""
        queries: list[list[tuple[str, str]]] = [[]]
        if len(targets) <= MOST_ALONE:
            queries += [[("targets", target)] for target in targets]
        else:
            queries.append([("targets", target) for target in targets])
        programs: dict[object, object] = {}
        events: dict[object, object] = {}
        for query in queries:
            programs |= {_key(body): body for body in await self._all("/programs", query)}
        active = [("active", "true")] if is_active_only else []
        for query in queries:
            events |= {_key(body): body for body in await self._all("/events", [*query, *active])}
        return Snapshot([*programs.values()], [*events.values()], self._begun_at, self._date)

    async def _all(self, path: str, query: Sequence[tuple[str, str]]) -> list[object]:
        for _ in range(TRIES):
            found = await self._pages(path, query)
            if found is not None:
                return found
        raise VtnFailed(Obstacle.NETWORK, f"{path} changes while it is read, {TRIES} times in a row")

    async def _pages(self, path: str, query: Sequence[tuple[str, str]]) -> list[object] | None:
        """Each page begins with the last object of the one before: where it does not, something has moved between them,
        and an object may have slipped through. Then `None`."""
        found: list[object] = []
        while True:
            skip = max(0, len(found) - 1)
            answer = await self._vtn.get(path, [*query, ("skip", str(skip)), ("limit", str(MAX_PAGE))])
            self._count(answer.size)
            self._date = answer.date
            page = answer.body
            if not isinstance(page, list):
                raise VtnFailed(Obstacle.NETWORK, f"{path}: expected a list, got {fields.shown(page)}")
            if not found:
                found = list(page)
            elif [_key(each) for each in page] == [_key(each) for each in found]:
                return found  # a VTN that knows no pages
            elif not page or _key(page[0]) != _key(found[-1]):
                return None
            else:
                found += page[1:]
            if len(page) != MAX_PAGE:
                return found
            if len(found) > MOST_OBJECTS:
                raise TooMuch(Obstacle.SETUP, f"{path}: more than {MOST_OBJECTS} objects")

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MOST_BYTES:
            raise TooMuch(Obstacle.SETUP, f"programs and events are longer than {MOST_BYTES} bytes together")

    async def notifications(self, ven: Ven | None, programs: Sequence[str]) -> Notifications | None:
        """Where the VTN notifies by MQTT, and on which topics of ours; `None` where it does not."""
        try:
            binding = objects.read_notifiers((await self._vtn.get("/notifiers")).body)
        except VtnFailed as failure:
            if not failure.is_refusal:
                raise
            self._tell(f"it tells of no notifications: {failure.reason}")
            return None
        except Rejection as refusal:
            self._tell(f"its notifications are not used: {refusal.reason}")
            return None
        if binding is None:
            return None
        of_ven = [f"vens/{ven.id}/events", f"vens/{ven.id}/programs"] if ven is not None else []
        of_programs = [f"programs/{program}/events" for program in programs[:MOST_PROGRAM_TOPICS]]
        topics: dict[str, None] = {}
        for path in (*of_ven, *of_programs):
            topics |= dict.fromkeys(await self._topics(f"/notifiers/mqtt/topics/{path}"))
        return (binding, tuple(topics)) if topics else None

    async def _topics(self, path: str) -> Sequence[str]:
        try:
            return objects.read_topics((await self._vtn.get(path)).body)
        except VtnFailed as failure:
            if not failure.is_refusal:
                raise
            return ()
        except Rejection as refusal:
            self._tell(f"{path} is not used: {refusal.reason}")
            return ()


def _key(body: object) -> object:
    """What an object is known by; one without an id is itself, and refused later."""
    identity = body.get("id") if isinstance(body, dict) else None
    return identity if isinstance(identity, str) else id(body)


def _ven_request(name: str, rating_w: Watts) -> Mapping[str, object]:
    attribute = {"type": "MAX_POWER_CONSUMPTION", "values": [rating_w / 1e3]}
    return {"objectType": "VEN_VEN_REQUEST", "venName": name, "attributes": [attribute]}
