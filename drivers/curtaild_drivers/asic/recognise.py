"""Tells what a miner runs by how it greets: one question on each telling port, side by side, bounded in bytes and in
time.

pyasic's own probing goes by whatever answers first, and so takes a VNish for a stock Antminer when the API is quicker
than the web server; here an answer that fits two firmwares waits for the other port. Source of the words: pyasic's
factory (miners/factory.py, `_parse_web_type` and `_parse_socket_type`); of Marathon's path /kaonsu/v1/brief likewise.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from curtaild_drivers.asic.cgminer import has_ended, parse
from curtaild_drivers.asic.digest import DigestClient
from curtaild_drivers.asic.firmware import Access
from curtaild_drivers.asic.http import WebServer, said
from curtaild_drivers.asic.wire import Unanswered, ask
from curtaild_drivers.contract import BadReply, DriverError, Seconds

ANSWER_WITHIN_S: Seconds = 3.0
"""Who greets later than this says nothing: a miner's API answers within tens of milliseconds."""

_BY_RPC = {
    "LUXMINER": "luxos",
    "AVALON": "avalon",
    "GCMINER": "auradine",
    "FLUXOS": "auradine",
    "BOSER": "braiins",
    "BTMINER": "whatsminer-v2",
    "BITMICRO": "whatsminer-v2",
    "VNISH": "vnish",
    "KAONSU": "marathon",
}
_BY_WEB = {
    "AnthillOS": "vnish",
    "Miner Web Dashboard": "epic",
    "AxeOS": "axeos",
    "Luxor Firmware": "luxos",
    "Miner UI": "auradine",
}
_STOCK_REALM = 'realm="antMiner'
_DRESSED_AS_STOCK = ("HIVEON", "RWGLR")
"""Firmwares of others that keep Bitmain's web server and name themselves on the API."""
_LONG_TAIL_WEB = (
    'realm="blackMiner', 'realm="Daoge', "Braiins OS", "用户界面", "Lucky miner", "cloud-box", "DragonMint", "Fluminer",
)  # fmt: skip


@dataclass(slots=True)
class Greeting:
    """What was heard. `rpc` and `web` are the text that came, `None` while nothing has; `asked` are the questions that
    are over, `opened` says whether any port took a connection."""

    rpc: str | None = None
    web: str | None = None
    speaks_v3: bool = False
    is_marathon: bool = False
    opened: bool = False
    is_unreadable: bool = False
    trouble: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    @property
    def firmware(self) -> str | None:
        """The firmware that surely answers, by its name in `identify.OWN`; `None` while, or if, that is open."""
        if self.speaks_v3:
            return "whatsminer-v3"
        if self.is_marathon:
            return "marathon"
        rpc, web = (self.rpc or "").upper(), self.web or ""
        for word, name in _BY_RPC.items():
            if word in rpc and (name != "whatsminer-v2" or "v3" in self.asked):
                return name
        for word, name in _BY_WEB.items():
            if word in web:
                return name
        if "rpc" not in self.asked or any(word in rpc for word in _DRESSED_AS_STOCK):
            return None
        if _STOCK_REALM in web:
            return "antminer"
        return "avalon" if "Avalon" in web else None

    @property
    def is_of_a_miner(self) -> bool:
        """Whether anything heard is a miner's, if only one that pyasic may know: cgminer's API, or a known web page."""
        if self.firmware is not None or any(word in (self.web or "") for word in (*_LONG_TAIL_WEB, _STOCK_REALM)):
            return True
        try:
            return "STATUS" in parse((self.rpc or "").encode())
        except BadReply:
            return False

    @property
    def is_nonsense(self) -> bool:
        """Whether what was heard is of no protocol: pyasic's parsers would trip over it."""
        is_no_text = any("\ufffd" in (heard or "") for heard in (self.rpc, self.web))
        return not self.is_of_a_miner and (self.is_unreadable or is_no_text)


async def greet(access: Access, until: Seconds) -> Greeting:
    """Asks the machine who it is, no longer than it takes to be sure. Raises nothing."""
    loop, greeting = asyncio.get_running_loop(), Greeting()
    soon = min(until, loop.time() + ANSWER_WITHIN_S)
    questions = {_ask_rpc(access, greeting, soon), _ask_web(access, greeting, soon), _ask_v3(access, greeting, soon)}
    pending = {asyncio.ensure_future(question) for question in questions}
    try:
        while pending and greeting.firmware is None:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    if greeting.firmware == "antminer":
        greeting.is_marathon = await _is_marathon(access, min(until, loop.time() + 2 * ANSWER_WITHIN_S))
    return greeting


async def _ask_rpc(access: Access, greeting: Greeting, until: Seconds) -> None:
    question = b'{"command":"version"}'
    try:
        answer = await ask(access.host, access.settings.rpc_port, question, until, has_ended)
        greeting.opened = True
        greeting.rpc = answer.decode("utf-8", "replace")
    except DriverError as error:
        _note(greeting, error)
    finally:
        greeting.asked.add("rpc")


async def _ask_web(access: Access, greeting: Greeting, until: Seconds) -> None:
    try:
        answer = await WebServer(access.host, access.settings.http_port).request("GET", "/", until)
        greeting.opened = True
        if answer.status == 401:
            greeting.web = answer.head
        elif answer.status < 500:
            greeting.web = answer.body.decode("utf-8", "replace")
    except DriverError as error:
        _note(greeting, error)
    finally:
        greeting.asked.add("web")


async def _ask_v3(access: Access, greeting: Greeting, until: Seconds) -> None:
    body = json.dumps({"cmd": "get.device.info"}).encode()
    framed = len(body).to_bytes(4, "little") + body
    try:
        answer = await ask(access.host, access.settings.v3_port, framed, until, _is_whole_frame)
        greeting.opened = True
        told = parse(answer[4:]).get("msg")
        greeting.speaks_v3 = isinstance(told, dict) and "miner" in told
    except DriverError as error:
        _note(greeting, error)
    finally:
        greeting.asked.add("v3")


def _note(greeting: Greeting, error: DriverError) -> None:
    if isinstance(error, (Unanswered, BadReply)):
        greeting.opened = True
        greeting.is_unreadable = greeting.is_unreadable or isinstance(error, BadReply)
        greeting.trouble.append(str(error))


def _is_whole_frame(buffer: bytearray) -> bool:
    return len(buffer) >= 4 and len(buffer) >= 4 + int.from_bytes(buffer[:4], "little")


async def _is_marathon(access: Access, until: Seconds) -> bool:
    """Digest takes two answers. A JSON body alone proves nothing: a stock Antminer may word its 404 in JSON."""
    settings = access.settings
    client = DigestClient(access.host, settings.http_port, settings.username or "root", access.password or "root")
    try:
        return bool(said(await client.request("GET", "/kaonsu/v1/brief", until)))
    except DriverError:
        return False
