"""What breaks between the site and the grid: brokers that stop or freeze, wires that are cut, setups that are wrong."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from curtaild.core.allocation import AllocationReceived
from curtaild.grid.broker_link import retry_delay_s
from curtaild_drivers.broker.mqtt import ConnectionFailed, Obstacle, heeding_cancellation
from grid.rig import (
    PATIENCE_S,
    Place,
    Settings,
    a_status,
    an_ack,
    at,
    error_of,
    heard,
    is_state,
    limit_of,
    native_link,
    onlooker,
    operator,
    running,
    topics,
)
from grid.wire import wire_to
from mosquitto import Mosquitto

pytestmark = pytest.mark.broker


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a person at the log has read, but for the debugging."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_link_is_back_by_itself_when_the_broker_is(
    own_broker: Callable[..., Mosquitto], site: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = own_broker()
    async with running(at(broker), site) as run:
        async with operator(broker, site) as grid:
            await grid.allocate(1_000)
            await run.next(AllocationReceived)
        broker.stop()
        await run.until(lambda state: "nothing listens" in (state.last_error or ""))
        broker.start()
        state = await run.until(lambda state: state.connected)
        assert (state.reconnects_total, state.last_error) == (1, None)
        again = await run.next(AllocationReceived)
        assert (limit_of(again), again.retained) == (1_000, True)
    lines = told(caplog)
    assert "is lost: the broker closed the connection" in lines[0]
    assert "cannot be made: connection refused: nothing listens" in lines[1]
    assert "is up, after" in lines[2]
    assert len(lines) == 3


@pytest.mark.parametrize("attempt", [1, 2, 5, 100, 100_000])
def test_however_long_a_broker_was_away_the_next_knock_is_near(attempt: int) -> None:
    assert 0.1 < retry_delay_s(attempt, Obstacle.NETWORK) <= 1.5


def test_who_is_not_let_in_knocks_ever_more_rarely() -> None:
    assert retry_delay_s(1, Obstacle.SETUP) <= 0.2
    assert retry_delay_s(4, Obstacle.SETUP) > retry_delay_s(1, Obstacle.SETUP)
    assert 20 < retry_delay_s(100_000, Obstacle.SETUP) <= 30


async def test_a_cut_wire_leaves_the_last_will_and_is_mended(broker: Mosquitto, site: str) -> None:
    async with (
        wire_to(broker.port) as wire,
        onlooker(broker, topics(site).status) as someone,
        running(Settings((Place("127.0.0.1", wire.port),)), site) as run,
    ):
        run.link.status(a_status())
        await heard(someone, is_state("limited"))
        wire.cut()
        will = await heard(someone, is_state("offline"))
        assert b"connection lost" in will.payload
        await heard(someone, is_state("limited"))  # connected again, and said so unasked
        async with onlooker(broker, topics(site).status) as late:
            assert (await heard(late, is_state("limited"))).retain


async def test_a_frozen_broker_is_noticed_in_silence(own_broker: Callable[..., Mosquitto], site: str) -> None:
    broker = own_broker()
    async with running(at(broker, keepalive_s=1.0), site) as run:
        broker.freeze()
        state = await run.until(lambda state: not state.connected)
        assert "stopped answering" in (state.last_error or "")
        broker.thaw()
        await run.connected()


async def test_a_frozen_broker_is_noticed_sooner_when_there_is_something_to_say(
    own_broker: Callable[..., Mosquitto], site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = own_broker()
    async with operator(broker, site) as grid:
        monkeypatch.setattr("curtaild_drivers.broker.mqtt.ANSWER_TIMEOUT_S", 1.0)  # whoever knocks in vain knocks again
        async with running(at(broker, keepalive_s=600.0), site) as run:
            broker.freeze()
            run.link.ack(an_ack(1))
            state = await run.until(lambda state: not state.connected)
            assert "stopped answering" in (state.last_error or "")
            broker.thaw()
            await run.connected()
            assert (await anext(grid.acks()))["seq"] == 1


async def test_a_broker_frozen_from_the_start_is_reached_when_it_thaws(
    own_broker: Callable[..., Mosquitto], site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts given up meanwhile must not come alive and fight for our client id."""
    monkeypatch.setattr("curtaild_drivers.broker.mqtt.ANSWER_TIMEOUT_S", 0.3)
    broker = own_broker()
    broker.freeze()
    async with running(at(broker), site, wait=False) as run:
        await run.until(lambda state: "does not answer in MQTT" in (state.last_error or ""))
        monkeypatch.setattr("curtaild_drivers.broker.mqtt.ANSWER_TIMEOUT_S", PATIENCE_S)
        broker.thaw()
        await run.connected()
        async with operator(broker, site) as grid:
            await grid.allocate(3)
            assert limit_of(await run.next(AllocationReceived)) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """All that the test writes, its broker too, is on a disk of 2 MiB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def filled(disk: Path) -> Path:
    """The file that takes all its room."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as sink:
        while True:
            sink.write(bytes(4_096))
    return filler


async def test_a_broker_whose_disk_is_full_still_carries_words(
    small_disk: Path, own_broker: Callable[..., Mosquitto], site: str
) -> None:
    """It keeps them in memory, and on disk again as soon as there is room."""
    broker = own_broker("allow_anonymous true", "autosave_on_changes true", "autosave_interval 1")
    async with running(at(broker), site) as run, operator(broker, site) as grid:
        filler = filled(small_disk)
        for limit_w in (1.0, 2.0, 3.0):
            await grid.allocate(limit_w)
            assert limit_of(await run.next(AllocationReceived)) == limit_w
        run.link.status(a_status())
        await run.until(lambda state: state.echo_ok is True)
        filler.unlink()
        await grid.allocate(4.0)
        assert limit_of(await run.next(AllocationReceived)) == 4.0
        broker.restart()
        again = await run.next(AllocationReceived)
        assert (limit_of(again), again.retained) == (4.0, True)


@pytest.mark.parametrize("outcome", ["answered", "failed"])
async def test_a_cancellation_that_comes_with_the_answer_is_not_lost(outcome: str) -> None:
    """aiomqtt waits by `asyncio.wait_for`, which on Python 3.11 forgets the one for the other."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask() -> str:
        return await asyncio.wait_for(answer, timeout=PATIENCE_S)

    asking = asyncio.create_task(heeding_cancellation(ask()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if outcome == "answered":
        answer.set_result("answer")
    else:
        answer.set_exception(OSError("failed"))
    asking.cancel()
    await asyncio.wait((asking,), timeout=PATIENCE_S)
    assert asking.cancelled()


async def test_stopping_at_any_moment_stops(broker: Mosquitto, site: str) -> None:
    """While connecting, subscribing, publishing: wherever the cancellation strikes, the link ends and says so."""
    for steps in range(60):
        async with running(at(broker), site, wait=steps % 2 == 0) as run:
            run.link.status(a_status())
            for number in range(20):
                run.link.ack(an_ack(number))
            for _ in range(steps):
                await asyncio.sleep(0)
        assert run.task.cancelled()


async def test_stopping_does_not_wait_for_the_answer_of_a_frozen_broker(
    own_broker: Callable[..., Mosquitto], site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curtaild_drivers.broker.mqtt.ANSWER_TIMEOUT_S", 10 * PATIENCE_S)
    broker = own_broker()
    broker.freeze()
    async with running(at(broker), site, wait=False):  # which stops within a test's patience
        await asyncio.to_thread(wait_for_a_connection_to, broker.port)


def wait_for_a_connection_to(port: int) -> None:
    """Until the kernel lists a client of `port` with something sent and not read: our CONNECT."""
    wanted, until = f"0100007F:{port:04X}", time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[1] == wanted and columns[3] == "01" and int(columns[4].split(":")[1], 16) > 0:
                return
    raise TimeoutError("nobody connected")


def with_password(folder: Path, user: str, password: str) -> str:
    path = folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(path), user, password], check=True, capture_output=True)
    return f"password_file {path}"


async def test_a_wrong_password_is_named_and_never_shown(
    own_broker: Callable[..., Mosquitto], site: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    broker = own_broker("allow_anonymous false", with_password(tmp_path, "thar", "right-one"))
    async with running(at(broker, username="thar"), site, password="hunter2-wrong", wait=False) as run:
        state = await run.until(lambda state: state.last_error is not None)
        assert "refuses user 'thar'" in (state.last_error or "")
        assert "hunter2" not in caplog.text + repr(state) + repr(run.link.links)
    async with running(at(broker, username="thar"), site, password="right-one") as run:
        assert run.link.links[0].connected


@asynccontextmanager
async def broker_that_answers(connack: int, suback: int) -> AsyncIterator[Settings]:
    """A broker of ten lines: answers CONNECT and each SUBSCRIBE to two topics with these codes, and nothing else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(2):
            packet = await reader.readexactly(head[1])  # all of them are shorter than 128 bytes, in these tests
            if head[0] == 0x10:
                writer.write(bytes([0x20, 2, 0, connack]))
            elif head[0] == 0x82:
                writer.write(bytes([0x90, 4, packet[0], packet[1], suback, suback]))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Settings((Place("127.0.0.1", server.sockets[0].getsockname()[1]),), prefix="c")


async def test_a_subscription_refused_in_words_is_named() -> None:
    async with broker_that_answers(connack=0, suback=0x80) as settings:
        error = await error_of(settings, "s")
    assert "not read c/s/allocation, c/s/schedule" in error
    assert "access list" in error


async def test_a_broker_that_is_busy_is_named() -> None:
    async with broker_that_answers(connack=3, suback=0) as settings:
        assert "server unavailable" in await error_of(settings, "s")


async def test_a_fault_of_our_own_goes_up_and_is_not_taken_for_a_lost_link(broker: Mosquitto, site: str) -> None:
    def deliver(message: object) -> None:
        raise ZeroDivisionError

    link = native_link(at(broker), site, None, deliver)
    async with operator(broker, site) as grid:
        await grid.allocate(1)
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.timeout(PATIENCE_S):
                await link.run()
    assert raised.group_contains(ZeroDivisionError)


async def test_a_name_that_does_not_resolve_is_named(site: str) -> None:
    settings = Settings((Place("broker.invalid", 1883),))
    async with running(settings, site, wait=False) as run:
        state = await run.until(lambda state: state.last_error is not None)
    assert "broker.invalid" in (state.last_error or "")


async def test_an_operator_whose_line_falls_is_told(own_broker: Callable[..., Mosquitto], site: str) -> None:
    broker = own_broker()
    async with operator(broker, site) as grid:
        broker.stop()
        with pytest.raises(ConnectionFailed, match="closed the connection"):
            await anext(grid.acks())
        with pytest.raises(ConnectionFailed):
            await grid.heartbeat()
    with pytest.raises(ConnectionFailed, match="connection refused"):
        async with operator(broker, site):
            pass


async def test_a_port_that_takes_and_never_answers_is_left_cleanly(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curtaild_drivers.broker.mqtt.ANSWER_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = Settings((Place("127.0.0.1", mute.getsockname()[1]),))
        assert "does not answer in MQTT" in await error_of(settings, site)
