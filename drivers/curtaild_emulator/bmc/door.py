"""The BMCs' HTTPS listeners: one per address, with its own certificate and a door for few clients only."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from curtaild_emulator.bmc.certificates import Certificates
from curtaild_emulator.bmc.service import Bmc
from curtaild_emulator.gpu_node import BmcFault
from curtaild_emulator.wires.listening import listen

_GRACE_S = 0.1  # hanging requests end with the farm


class Door(web.Server):
    """Lets in as many connections at once as the BMC bears, and closes the others as soon as they are made."""

    def __init__(self, bmc: Bmc) -> None:
        super().__init__(bmc.answer, handler_cancellation=True, access_log=None)
        self._bmc = bmc

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        is_full = len(self.connections) > self._bmc.profile.connections
        if is_full or self._bmc.node.has(BmcFault.REFUSE_CONNECTION):
            transport.abort()


async def serve_bmcs(opening: AsyncExitStack, bmcs: dict[str, Bmc], port: int, certificates: Certificates) -> int:
    """Serve BMCs by their addresses while `opening` is open; returns the port (0 takes any free one).

    Raises `CannotListen`, `NotPermitted`.
    """
    sockets = listen(tuple(bmcs), port, one_socket=False)  # a certificate each, so a socket each
    loop = asyncio.get_running_loop()
    for listener, (address, bmc) in zip(sockets, bmcs.items(), strict=True):
        door = Door(bmc)
        context = certificates.context(address, bmc.node.id, bmc.node.has)
        server = await loop.create_server(door, sock=listener, ssl=context)
        opening.push_async_callback(door.shutdown, _GRACE_S)
        opening.callback(server.close)
    return int(sockets[0].getsockname()[1])
