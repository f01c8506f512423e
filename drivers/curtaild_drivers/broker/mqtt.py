"""One MQTT 3.1.1 connection: aiomqtt behind a thin adapter that closes what it leaves open and names what goes wrong.

A new client object per attempt: aiomqtt's cannot be used again after a failed or cancelled connect.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, cast

import aiomqtt
from paho.mqtt import client as paho
from paho.mqtt.reasoncodes import ReasonCode

from curtaild_drivers.broker.inbox import Inbox
from curtaild_drivers.contract import Seconds

Answer = TypeVar("Answer")

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 5.0
"""How long a broker may take to acknowledge anything; one that takes longer is frozen or gone."""
LEAVE_TIMEOUT_S = 0.5
ALERT_WAIT_S = 0.1
"""With TLS 1.3 a broker refuses a missing client certificate only after the handshake, by an alert."""

_BROKER_IS_BUSY = (136, 137)  # CONNACK: server unavailable, server busy

# The adapter reports each loss once and in words; paho's own lines would only repeat it.
_silent = logging.getLogger("curtaild.broker.paho")
_silent.setLevel(logging.CRITICAL + 1)


class Obstacle(Enum):
    """What stands in the way, by who can remove it."""

    NETWORK = "network"  # may be gone any moment
    SETUP = "setup"  # credentials, certificates, access lists: a person must act


class ConnectionFailed(Exception):
    """No connection, or no longer. The text names the likely cause; it never holds a secret."""

    def __init__(self, obstacle: Obstacle, reason: str) -> None:
        super().__init__(reason)
        self.obstacle = obstacle
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach one broker, and as whom. `ca_file` `None`: the host's own store of authorities."""

    host: str
    port: int
    is_tls: bool
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keepalive_s: Seconds = 10.0

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.is_tls else 'mqtt'}://{host}:{self.port}"


class Client(aiomqtt.Client):
    """Writes at once what there is to write, where the socket takes it.

    aiomqtt waits for the event loop to say that there is room: two turns of it, in which a busy loop does much else. It
    also leaves it to the next turn to watch for room. When the broker has hung up by then, and a flood gives it the
    time, the loop would tell of a bad descriptor; the end is told of as it is anyway.
    """

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        def write() -> None:
            try:
                client.loop_write()
            except Exception as error:
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)

        def watch() -> None:
            with suppress(OSError, ValueError):
                self._loop.add_writer(sock.fileno(), write)

        if _runs_here(self._loop):  # not so while a thread of its own connects
            write()
            if not client.want_write():
                return
        self._loop.call_soon_threadsafe(watch)

    def begin_publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> asyncio.Event:
        """Hand it to the socket now; the event is set once the broker has acknowledged it (QoS 1), or it is on its way
        (QoS 0). Raises `ConnectionFailed`."""
        told = self._client.publish(topic, payload, qos, retain)
        if told.rc != paho.MQTT_ERR_SUCCESS:
            raise lost(aiomqtt.MqttCodeError(told.rc, "Could not publish message"))
        acknowledged = asyncio.Event()
        if told.is_published():
            acknowledged.set()
        else:
            self._pending_publishes[told.mid] = acknowledged
        return acknowledged

    async def acknowledged(self, publish: asyncio.Event) -> None:
        """Until what `begin_publish` gave is set. Raises `ConnectionFailed`."""
        try:
            await heeding_cancellation(self._wait_for(publish.wait(), timeout=None))
        except aiomqtt.MqttError as error:
            raise lost(error) from None


@asynccontextmanager
async def connection(access: Access, inbox: Inbox, will: aiomqtt.Will | None = None) -> AsyncIterator[Client]:
    """A connected client whose messages go to `inbox`. Raises `ConnectionFailed`."""
    tls = await asyncio.to_thread(_tls_context, access) if access.is_tls else None
    await _knock(access, tls)
    client = Client(
        access.host,
        access.port,
        username=access.username,
        password=access.password,
        identifier=access.client_id,
        # aiomqtt wants the class and calls it with `maxsize`; ours brings its own bounds
        queue_type=cast("type[asyncio.Queue[aiomqtt.Message]]", lambda maxsize: inbox),
        protocol=aiomqtt.ProtocolVersion.V311,
        will=will,
        clean_session=True,
        timeout=ANSWER_TIMEOUT_S,
        keepalive=max(1, round(access.keepalive_s)),
        tls_context=tls,
        logger=_silent,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
    await _enter(client, access)
    try:
        yield client
    finally:
        await _leave(client)


async def subscribe(client: aiomqtt.Client, topics: Sequence[tuple[str, int]], access: Access) -> None:
    """Subscribe to (topic, QoS) each. Raises `ConnectionFailed` where the broker refuses one in so many words; many
    brokers grant what their access list then withholds."""
    try:
        codes: Sequence[int | ReasonCode] = await heeding_cancellation(client.subscribe(list(topics)))
    except aiomqtt.MqttError as error:
        raise lost(error) from None
    refused = [topic for (topic, _), code in zip(topics, codes, strict=False) if _is_failure(code)]
    if refused:
        reason = f"the broker lets {_who(access)} not read {', '.join(refused)}: check its access list"
        raise ConnectionFailed(Obstacle.SETUP, reason)


async def publish(client: Client, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
    """Returns once the broker has acknowledged (QoS 1), or the bytes are on their way (QoS 0).

    What is acknowledged may yet be swallowed by the broker's access list. Raises `ConnectionFailed`.
    """
    await client.acknowledged(client.begin_publish(topic, payload, qos=qos, retain=retain))


async def heeding_cancellation(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Await something of aiomqtt's and be cancelled if cancelled.

    It waits by `asyncio.wait_for`, which up to Python 3.11 forgets a cancellation that arrives in the same instant as
    the answer. The task then lives on, and whoever cancelled it waits for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await work
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def lost(error: aiomqtt.MqttError) -> ConnectionFailed:
    """What the end of an established connection means."""
    code = error.rc if isinstance(error, aiomqtt.MqttCodeError) else None
    if isinstance(error.__cause__, aiomqtt.MqttCodeError):
        code = error.__cause__.rc
    text = str(code) if isinstance(code, ReasonCode) else str(error)
    if "timed out" in text or "eep alive" in text:
        return ConnectionFailed(Obstacle.NETWORK, "the broker stopped answering: frozen, overloaded or cut off")
    return ConnectionFailed(
        Obstacle.NETWORK, "the broker closed the connection: stopped, or another client took our id"
    )


def _tls_context(access: Access) -> ssl.SSLContext:
    """Built anew for each attempt, so that a renewed certificate is taken up without a restart."""
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
    except (OSError, ValueError) as error:
        raise ConnectionFailed(Obstacle.SETUP, f"cannot use ca_file {access.ca_file}: {_os_text(error)}") from None
    if access.cert_file is not None:
        try:
            context.load_cert_chain(access.cert_file, access.key_file)
        except (OSError, ValueError) as error:
            files = f"cert_file {access.cert_file} with key_file {access.key_file}"
            raise ConnectionFailed(Obstacle.SETUP, f"cannot use {files}: {_os_text(error)}") from None
    return context


async def _knock(access: Access, tls: ssl.SSLContext | None) -> None:
    """Connect and hang up, to learn what stands in the way.

    aiomqtt connects in a thread that cannot be cancelled, and calls most obstacles "timed out"; after a knock that
    went well its own connect is a matter of milliseconds.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            name = access.host if tls is not None else None
            reader, writer = await asyncio.open_connection(access.host, access.port, ssl=tls, server_hostname=name)
    except (OSError, ValueError) as error:
        raise _unreachable(access, error) from None
    try:
        if tls is not None:
            async with asyncio.timeout(ALERT_WAIT_S):
                await reader.read(1)
            raise ConnectionFailed(Obstacle.NETWORK, "the broker closes the connection right after the TLS handshake")
    except TimeoutError:
        pass  # a broker waits for the client to speak
    except OSError as error:
        raise _unreachable(access, error) from None
    finally:
        await _hang_up(writer)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close politely where the other end plays along: a TLS connection just dropped is an error in the broker's log."""
    writer.close()
    try:
        async with asyncio.timeout(ALERT_WAIT_S):
            await writer.wait_closed()
    except TimeoutError:
        writer.transport.abort()  # only here: before 3.11.3 a closed TLS transport cannot be aborted (AttributeError)
    except OSError:
        return


def _unreachable(access: Access, error: Exception) -> ConnectionFailed:
    at = f"{access.host} port {access.port}"
    match error:
        case ConnectionRefusedError():
            return ConnectionFailed(Obstacle.NETWORK, f"connection refused: nothing listens at {at}")
        case TimeoutError():
            return ConnectionFailed(Obstacle.NETWORK, f"no answer from {at} in {CONNECT_TIMEOUT_S:g} s")
        case socket.gaierror():
            return ConnectionFailed(Obstacle.NETWORK, f"the name {access.host} cannot be resolved: {error.strerror}")
        case ssl.SSLCertVerificationError():
            return ConnectionFailed(Obstacle.SETUP, _not_believed(access, error))
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            return ConnectionFailed(Obstacle.SETUP, _not_welcome(access, error.reason or ""))
        case ssl.SSLError():
            return ConnectionFailed(Obstacle.SETUP, f"{at} does not speak TLS as asked: {_os_text(error)} (mqtt://?)")
        case ConnectionResetError() if access.is_tls:
            reason = f"{at} breaks off the TLS handshake: a port without TLS (mqtt://), or a broker just starting"
            return ConnectionFailed(Obstacle.NETWORK, reason)
        case _:
            return ConnectionFailed(Obstacle.NETWORK, f"cannot connect to {at}: {_os_text(error)}")


def _not_believed(access: Access, error: ssl.SSLCertVerificationError) -> str:
    """Why the broker's certificate is not accepted, by OpenSSL's codes (X509_V_ERR_…)."""
    match error.verify_code:
        case 9:
            return "the broker's certificate is not valid yet: is this host's clock right?"
        case 10:
            return "the broker's certificate has expired, or this host's clock is ahead"
        case 18 | 19 | 20 | 21:
            trusted = "the host's own store: set ca_file" if access.ca_file is None else f"ca_file {access.ca_file}"
            return f"the broker's certificate is signed by no authority of {trusted} ({error.verify_message})"
        case 62 | 64:
            return f"the broker's certificate is not for {access.host}: name the broker as its certificate names it"
        case _:
            return f"the broker's certificate is not accepted: {error.verify_message} (see ca_file)"


def _not_welcome(access: Access, alert: str) -> str:
    """What the broker's TLS alert means; TLS 1.2 calls a missing certificate a failed handshake."""
    if "CERTIFICATE_REQUIRED" in alert or ("HANDSHAKE_FAILURE" in alert and access.cert_file is None):
        return "the broker wants a client certificate: set cert_file and key_file"
    if "CERTIFICATE_EXPIRED" in alert:
        return f"the broker refuses our certificate, cert_file {access.cert_file}: it has expired"
    if "UNKNOWN_CA" in alert:
        return f"the broker does not know the authority that signed cert_file {access.cert_file}"
    return f"the broker refuses our side of TLS: {alert.replace('_', ' ').lower()} (see cert_file)"


async def _enter(client: aiomqtt.Client, access: Access) -> None:
    """Enter the client's context. Whatever goes wrong, no socket and no half-open session stays behind: a broker that
    wakes up later would otherwise take the forgotten session for the living one."""
    entering = asyncio.ensure_future(client.__aenter__())
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        # its thread goes on regardless; wait for it, then hang up
        await asyncio.wait((entering,), timeout=LEAVE_TIMEOUT_S)
        entering.cancel()
        await asyncio.wait((entering,))
        await _leave(client)
        raise
    except aiomqtt.MqttError as error:
        await _leave(client)
        raise _not_admitted(access, error) from None


def _not_admitted(access: Access, error: aiomqtt.MqttError) -> ConnectionFailed:
    code = error.rc if isinstance(error, aiomqtt.MqttCodeError) else None
    if isinstance(code, ReasonCode):
        obstacle = Obstacle.NETWORK if code.value in _BROKER_IS_BUSY else Obstacle.SETUP
        reason = f"the broker refuses {_who(access)}: {str(code).lower()} (see username, password_file, client_id)"
        return ConnectionFailed(obstacle, reason)
    hint = "" if access.is_tls else ", or a port that wants TLS (mqtts://)"
    reason = f"{access.host} port {access.port} is open but does not answer in MQTT: a frozen broker{hint}"
    return ConnectionFailed(Obstacle.NETWORK, reason)


async def _leave(client: aiomqtt.Client) -> None:
    """Say goodbye if that is still possible, and close the socket."""
    try:
        with suppress(aiomqtt.MqttError, TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await heeding_cancellation(client.__aexit__(None, None, None))
    finally:
        ended = client._disconnected  # the only place where aiomqtt keeps it
        if ended.done() and not ended.cancelled():
            ended.exception()  # marks it as seen: asyncio would log it a second time as "never retrieved"


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _is_failure(code: int | ReasonCode) -> bool:
    return (code.value if isinstance(code, ReasonCode) else code) >= 128


def _who(access: Access) -> str:
    return "us (no username is set)" if access.username is None else f"user {access.username!r}"


def _os_text(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
