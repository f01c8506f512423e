"""What is not done: the specification's error body, and the scopes that each operation asks for."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from curtaild.grid.openadr_vtn.objects import Refused
from curtaild.grid.openadr_vtn.tokens import Client


def problem(status: int, detail: str, **more: str) -> web.Response:
    """The specification's error body; its OpenAPI definition gives it the type application/json."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return web.json_response({"title": title, "status": status, "detail": detail, **more}, status=status)


def allow(who: Client, scope: str) -> None:
    """Raises `Refused` 403."""
    if scope not in who.role.scopes:
        raise Refused(403, f"this asks for the scope {scope}")
