"""The modbus-coil driver against an emulated contactor: it starts fans, believes what it sees, and never stops them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from curtaild_drivers.contract import BadReply, Interlock, Unreachable
from curtaild_drivers.meter import COIL_DRIVER
from curtaild_drivers.registry import OpenContext
from curtaild_emulator.wires.contactor import Contactor
from drivers_meter.far_ends import raw_server
from drivers_meter.test_modbus_hostile import frame, replying


def interlock_at(address: str, **keys: Any) -> Interlock:
    assert COIL_DRIVER.open_interlock is not None
    settings = COIL_DRIVER.settings.model_validate({"coil": 0, "timeout_s": 60.0} | keys)
    return COIL_DRIVER.open_interlock(address, settings, OpenContext())


@asynccontextmanager
async def opened(contactor: Contactor, **keys: Any) -> AsyncIterator[Interlock]:
    server = await contactor.listen("127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    interlock = interlock_at(f"{host}:{port}", **keys)
    try:
        yield interlock
    finally:
        await interlock.close()
        server.close()


INPUT = {"running": {"address": 0}}


async def test_it_starts_them_and_sees_them_run() -> None:
    moment = [0.0]
    contactor = Contactor(lambda: moment[0], lag_s=3.0)
    async with opened(contactor, **INPUT) as interlock:
        assert not await interlock.is_running()
        await interlock.start()
        assert not await interlock.is_running()  # the command was taken, the fans are not up yet
        moment[0] = 3.0
        assert await interlock.is_running()
        await interlock.start()
    assert contactor.writes == [True, True]
    assert contactor.is_running  # closing the connection stops nothing


async def test_a_coil_read_back_says_only_that_it_was_taken() -> None:
    contactor = Contactor(lambda: 0.0, is_stuck=True)
    async with opened(contactor) as coil_alone, opened(contactor, **INPUT) as with_contact:
        await coil_alone.start()
        assert await coil_alone.is_running()
        assert not await with_contact.is_running()


async def test_a_silent_one_ends_at_the_deadline() -> None:
    async with opened(Contactor(lambda: 0.0, is_dead=True), timeout_s=0.05) as interlock:
        for ask in (interlock.is_running, interlock.start):
            with pytest.raises(Unreachable, match=r"no answer within 0\.05 s"):
                await ask()


async def test_a_refusal_names_what_was_asked() -> None:
    async with opened(Contactor(lambda: 0.0), unit_id=7) as interlock:
        with pytest.raises(Unreachable, match="gateway no response"):
            await interlock.start()
    async with opened(Contactor(lambda: 0.0), coil=9, running={"address": 3}) as interlock:
        with pytest.raises(BadReply, match="refused coil 9: Modbus exception 2"):
            await interlock.start()
        with pytest.raises(BadReply, match="refused discrete 3"):
            await interlock.is_running()


@pytest.mark.parametrize(
    "pdu",
    [b"\x05\x00\x00\x00\x00", b"\x05\x00\x01\xff\x00", b"\x05\xff", b"\x01\x01\x01", b"\x85\x63"],
    ids=["off instead of on", "another coil", "half of it", "another function", "an exception nobody knows"],
)
async def test_another_confirmation_is_none(pdu: bytes) -> None:
    async with raw_server(replying(lambda question: frame(question, pdu))) as server:
        interlock = interlock_at(server.address)
        with pytest.raises(BadReply):
            await interlock.start()
        await interlock.close()


async def test_no_connection_is_unreachable() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(Unreachable):
        await interlock_at(f"127.0.0.1:{port}").is_running()
