"""A broker that takes bearer tokens for passwords (Definitions, table 12: OAUTH2_BEARER_TOKEN), which mosquitto cannot
do by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from curtaild.grid.openadr_vtn import Client

_base: Any = import_module("amqtt.plugins.base")  # amqtt comes without types
_broker: Any = import_module("amqtt.broker")

OWN_USER, OWN_PASSWORD = "vtn", "the VTN's own"

OwnerOf = Callable[[str], Client | None]
_owners: dict[str, OwnerOf] = {}
"""Who knows the tokens, by broker; amqtt makes plugins by itself from the names of their classes."""


class TokenPlugin(_base.BaseAuthPlugin):  # type: ignore[misc]
    """Admits the VTN, and who brings a token under its client's id."""

    @dataclass
    class Config:
        broker: str = ""

    async def authenticate(self, *, session: Any) -> bool:
        if (session.username, session.password) == (OWN_USER, OWN_PASSWORD):
            return True
        owner = _owners[self.context.config.broker](session.password or "")
        return owner is not None and owner.client_id == session.username


@asynccontextmanager
async def token_broker(
    owner_of: OwnerOf, cert_file: Path | None = None, key_file: Path | None = None
) -> AsyncIterator[int]:
    """The broker's port on 127.0.0.1; with a certificate it speaks TLS."""
    name = str(id(owner_of))
    _owners[name] = owner_of
    tls = {"ssl": True, "certfile": str(cert_file), "keyfile": str(key_file)} if cert_file is not None else {}
    listener = {"type": "tcp", "bind": "127.0.0.1:0", **tls}
    plugins = {f"{__name__}.{TokenPlugin.__name__}": {"broker": name}}
    broker = _broker.Broker({"listeners": {"default": listener}, "plugins": plugins})
    await broker.start()
    try:
        yield broker._servers["default"].instance.sockets[0].getsockname()[1]
    finally:
        await broker.shutdown()
        del _owners[name]
