"""The far end of a wire, as small as it can be: servers that answer with exactly the bytes a test gives them, and
record what they were asked.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from passlib.hash import md5_crypt  # type: ignore[import-untyped]  # passlib ships no types

from loop_clock import put_forward

HOST = "127.0.31.1"

HANG = "hang"
"""Instead of an answer: none, with the connection left open, while the loop's time passes."""
CLOSE = "close"
"""Instead of an answer: the end of the connection."""

Answer: TypeAlias = "bytes | dict[str, Any] | str"
Script: TypeAlias = Callable[[Any], Answer]


IN_TIME: dict[str, float] = {"read_deadline_s": 120.0, "write_deadline_s": 120.0}
"""Deadlines that a busy machine keeps. Where an answer hangs (`HANG`) they pass at once."""


@dataclass
class Server:
    """One listening port. `asked` is everything it was asked, decoded."""

    port: int
    asked: list[Any] = field(default_factory=list)

    def commands(self) -> list[Any]:
        return [asked.get("command") or asked.get("cmd") for asked in self.asked]


async def _deliver(writer: asyncio.StreamWriter, answer: Answer, piece: int) -> None:
    if answer == HANG:
        put_forward()
        await asyncio.Event().wait()
    if answer == CLOSE:
        return
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    for at in range(0, len(data), piece):
        writer.write(data[at : at + piece])
        await writer.drain()
        if piece < len(data):
            await asyncio.sleep(0)


@asynccontextmanager
async def _listening(
    server: Server, handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], port: int = 0
) -> AsyncIterator[Server]:
    tasks: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the driver hung up, or the test is over
        finally:
            tasks.discard(task)
            writer.close()

    listener = await asyncio.start_server(connection, HOST, port)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def rpc(script: Script, piece: int = 1 << 20, end: bytes = b"\0") -> AsyncIterator[Server]:
    """cgminer-like: one JSON question, one answer, the connection closed after it. `end` is what follows a dict."""
    server = Server(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.read(65_536))
        server.asked.append(asked)
        answer = script(asked)
        if isinstance(answer, dict):
            answer = json.dumps(answer).encode() + end
        await _deliver(writer, answer, piece)

    async with _listening(server, handle):
        yield server


@asynccontextmanager
async def text_rpc(script: Script, piece: int = 1 << 20) -> AsyncIterator[Server]:
    """cgminer-like, in text: one question, one answer, the connection closed after it."""
    server = Server(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.read(65_536)).decode()
        server.asked.append(asked)
        await _deliver(writer, script(asked), piece)

    async with _listening(server, handle):
        yield server


@asynccontextmanager
async def frames(script: Script, piece: int = 1 << 20) -> AsyncIterator[Server]:
    """Whatsminer API v3: a little-endian length, then JSON, both ways."""
    server = Server(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4), "little")
        asked = json.loads(await reader.readexactly(length))
        server.asked.append(asked)
        answer = script(asked)
        if isinstance(answer, dict):
            body = json.dumps(answer).encode()
            answer = len(body).to_bytes(4, "little") + body
        await _deliver(writer, answer, piece)

    async with _listening(server, handle):
        yield server


@dataclass
class HttpAsked:
    """One HTTP request that carried good credentials."""

    method: str
    page: str
    body: Any
    head: str = ""


def http_answer(body: Any, status: int = 200) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data)


@asynccontextmanager
async def digest_http(script: Script, password: str = "root", nonce_uses: int = 1 << 30) -> AsyncIterator[Server]:
    """A miner's web server: digest authentication (MD5, qop=auth) as root; a nonce is good `nonce_uses` times."""
    server = Server(0)
    nonces: dict[str, int] = {}

    def admitted(method: str, head: str) -> bool:
        given = dict(re.findall(r'(\w+)="?([^",]+)"?', head))
        if nonces.get(given.get("nonce", ""), 0) <= 0:
            return False
        nonces[given["nonce"]] -= 1
        ha1 = _md5(f"root:antMiner Configuration:{password}")
        ha2 = _md5(f"{method}:{given['uri']}")
        own = f"{ha1}:{given['nonce']}:{given['nc']}:{given['cnonce']}:auth:{ha2}"
        return str(given["response"]) == _md5(own)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1])) if length else b""
        authorization = re.search(r"^authorization: (.*)$", head, re.IGNORECASE | re.MULTILINE)
        if authorization is None or not admitted(method, authorization[1]):
            nonce = f"{len(nonces):08x}"
            nonces[nonce] = nonce_uses
            challenge = f'Digest realm="antMiner Configuration", nonce="{nonce}", qop="auth", algorithm=MD5'
            writer.write(f"HTTP/1.1 401 No\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        asked = HttpAsked(method, path.rpartition("/")[2], json.loads(body) if body else None)
        server.asked.append(asked)
        answer = script(asked)
        await _deliver(writer, http_answer(answer) if isinstance(answer, dict) else answer, 1 << 20)

    async with _listening(server, handle):
        yield server


@asynccontextmanager
async def plain_http(script: Script) -> AsyncIterator[Server]:
    """A web server that asks for no credentials; one request a connection."""
    server = Server(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1])) if length else b""
        asked = HttpAsked(method, path.rpartition("/")[2], json.loads(body) if body else None, head)
        server.asked.append(asked)
        answer = script(asked)
        await _deliver(writer, http_answer(answer) if isinstance(answer, dict) else answer, 1 << 20)

    async with _listening(server, handle):
        yield server


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class TokenDesk:
    """The device's side of the Whatsminer v2 token: hands them out, opens what was sealed with them."""

    def __init__(self, password: str = "admin") -> None:
        self.passphrase = md5_crypt.using(salt="BQ5hoXV9").hash(password).split("$")[3]
        self._key = hashlib.sha256(self.passphrase.encode()).digest()
        self.moment = 5626
        self.opened: list[dict[str, Any]] = []
        """The commands received, in clear."""

    def hand_out(self) -> dict[str, Any]:
        message = {"time": str(self.moment), "salt": "BQ5hoXV9", "newsalt": "jbzkfQls"}
        return {"STATUS": "S", "When": 1, "Code": 134, "Msg": message, "Description": "whatsminer v1.1"}

    def open(self, sealed: dict[str, Any]) -> dict[str, Any] | None:
        """The command, or `None` if it was not sealed with this device's password and latest token."""
        decryptor = Cipher(algorithms.AES(self._key), modes.ECB()).decryptor()
        try:
            command = json.loads(decryptor.update(base64.b64decode(sealed["data"])).rstrip(b"\0"))
        except ValueError:
            return None
        sign = md5_crypt.using(salt="jbzkfQls").hash(f"{self.passphrase}{self.moment}").split("$")[3]
        if not isinstance(command, dict) or command.pop("token", None) != sign:
            return None
        self.opened.append(command)
        return command

    def seal(self, reply: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(reply).encode()
        text += b"\0" * (-len(text) % 16)
        encryptor = Cipher(algorithms.AES(self._key), modes.ECB()).encryptor()
        return {"enc": base64.encodebytes(encryptor.update(text)).decode()}
