"""What can be done with each kind of object: search, read, create, update, delete."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import NoReturn

from aiohttp import web

from curtaild.grid.openadr_vtn import bodies
from curtaild.grid.openadr_vtn.bodies import BadBody
from curtaild.grid.openadr_vtn.objects import OadrObject, Objects, Refused
from curtaild.grid.openadr_vtn.problems import allow
from curtaild.grid.openadr_vtn.tokens import Client, Role

MOST_PAGE = 50
"""The most that `limit` may ask for, and what a query without it gets."""


class Collection:
    """The five operations on one kind of object."""

    def __init__(self, kind: str, objects: Objects, verify_callbacks: Callable[[OadrObject], Awaitable[None]]) -> None:
        self._kind = kind
        self._objects = objects
        self._verify_callbacks = verify_callbacks

    async def search(self, request: web.Request, who: Client) -> web.StreamResponse:
        allow(who, "read_targets" if self._kind in ("PROGRAM", "EVENT") else "read_ven_objects")
        skip, limit = _count(request, "skip", 0, None), _count(request, "limit", MOST_PAGE, MOST_PAGE)
        asked = request.query.getall("targets", None) if self._kind not in ("REPORT", "SUBSCRIPTION") else None
        fitting = filter(self._filter(request), self._objects.seen(self._kind, who, asked))
        return web.json_response(list(islice(fitting, skip, skip + limit)))

    async def read(self, request: web.Request, who: Client) -> web.StreamResponse:
        allow(who, "read_targets" if self._kind in ("PROGRAM", "EVENT") else "read_ven_objects")
        return web.json_response(self._found(request, who))

    async def create(self, request: web.Request, who: Client) -> web.StreamResponse:
        self._allow_writing(who)
        body = await self._body(request, who, None)
        return web.json_response(self._objects.create(self._kind, body), status=201)

    async def update(self, request: web.Request, who: Client) -> web.StreamResponse:
        self._allow_writing(who)
        before = self._found(request, who)
        body = await self._body(request, who, before)
        self._found(request, who)  # it may have gone while the body came
        return web.json_response(self._objects.update(self._kind, before, body))

    async def delete(self, request: web.Request, who: Client) -> web.StreamResponse:
        self._allow_writing(who)
        return web.json_response(self._objects.delete(self._kind, self._found(request, who)["id"]))

    def _found(self, request: web.Request, who: Client) -> OadrObject:
        return self._objects.one(self._kind, request.match_info["id"], who)

    def _allow_writing(self, who: Client) -> None:
        allow(who, f"write_{'ven' if self._kind == 'RESOURCE' else self._kind.lower()}s")

    async def _body(self, request: web.Request, who: Client, before: OadrObject | None) -> OadrObject:
        """The body as it is to be kept, with the owner that the VTN adds. Raises `BadBody`, `Refused`."""
        said = await _json(request)
        match self._kind:
            case "PROGRAM":
                return bodies.read(bodies.ProgramRequest, said)
            case "EVENT":
                return bodies.read(bodies.EventRequest, said)
            case "REPORT":
                return {**bodies.read(bodies.ReportRequest, said), "clientID": who.client_id}
            case "SUBSCRIPTION":
                subscription = bodies.read(bodies.SubscriptionRequest, said)
                await self._verify_callbacks(subscription)
                return {**subscription, "clientID": before["clientID"] if before is not None else who.client_id}
            case _:
                return self._ven_or_resource(who, said, before)

    def _ven_or_resource(self, who: Client, said: object, before: OadrObject | None) -> OadrObject:
        """Only the business logic grants targets and says whose a ven is; a VEN's own update leaves both alone."""
        is_ven = self._kind == "VEN"
        if who.role is Role.BUSINESS_LOGIC:
            body = bodies.read(bodies.BlVenRequest if is_ven else bodies.BlResourceRequest, said)
        elif isinstance(said, dict) and str(said.get("objectType")).startswith("BL_"):
            raise Refused(403, f"{said['objectType']} is the business logic's")
        else:
            body = bodies.read(bodies.VenVenRequest if is_ven else bodies.VenResourceRequest, said)
            granted = {"targets": before["targets"]} if before is not None and before.get("targets") else {}
            body = {**body, **granted, "clientID": who.client_id}
        if not is_ven:
            self._objects.one("VEN", body["venID"], who)
        return body

    def _filter(self, request: web.Request) -> Callable[[OadrObject], bool]:
        """The query's terms; what is left must match every one of them."""
        query, tests = request.query, list[Callable[[OadrObject], bool]]()
        match self._kind:
            case "EVENT":
                names: tuple[str, ...] = ("programID",)
                if _truth(request, "active"):
                    tests.append(self._objects.is_active)
            case "REPORT":
                names = ("eventID", "clientName")
                if "programID" in query:
                    programs = self._objects.programs_of_events()
                    tests.append(lambda report: programs.get(report["eventID"]) == query["programID"])
            case "SUBSCRIPTION":
                names = ("programID", "clientName")
                if kinds := set(query.getall("objects", [])):
                    tests.append(lambda each: any(kinds & set(act["objects"]) for act in each["objectOperations"]))
            case _:
                names = {"VEN": ("venName",), "RESOURCE": ("resourceName", "venID")}.get(self._kind, ())
        wanted = {name: query[name] for name in names if name in query}
        tests.append(lambda each: all(each.get(name) == value for name, value in wanted.items()))
        return lambda each: all(test(each) for test in tests)


async def _json(request: web.Request) -> object:
    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(await request.text(), parse_constant=no_number)
    except (ValueError, RecursionError, LookupError) as error:
        raise BadBody(f"not JSON: {error}") from None


def _count(request: web.Request, name: str, otherwise: int, most: int | None) -> int:
    text = request.query.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or (most is not None and int(text) > most):
        raise Refused(400, f"{name} must be an integer from 0{'' if most is None else f' to {most}'}")
    return int(text)


def _truth(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise Refused(400, f"{name} must be true or false")
    return text == "true"
