"""Who can reach the emulated devices: everybody on this machine's loopback, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys

import aiohttp
import pytest

from curtaild_emulator import MODELS, CannotListen, EmulatedFarm, FarmPlan, Firmware
from curtaild_emulator.wires.listening import listen
from emulator.asking import ANY, farm_of, is_shut

MANY = 1_200


async def test_one_listener_answers_for_more_than_a_thousand_devices() -> None:
    plan = FarmPlan.mixed(MANY, feeders=4, network="127.64.0.0/16", latency_s=0.0, ports=ANY)
    async with EmulatedFarm(plan) as farm:
        gate = asyncio.Semaphore(64)

        async def who(address: str) -> str:
            async with gate:
                reader, writer = await asyncio.open_connection(address, farm.ports.rpc)
                writer.write(b'{"command":"pools"}')
                answer = json.loads((await reader.read()).rstrip(b"\0"))
                writer.close()
                return str(answer["POOLS"][0]["User"])

        workers = await asyncio.gather(*(who(address) for address in farm.addresses.values()))
        assert workers == [f"farm.{name}" for name in farm.addresses]


PAGES = {
    Firmware.ANTMINER: "401",
    Firmware.LUXOS: "Luxor Firmware",
    Firmware.AVALON: "Avalon Device",
    Firmware.AXEOS: "AxeOS",
    Firmware.BRAIINS: "Braiins OS",
    Firmware.EPIC: "Miner Web Dashboard",
    Firmware.AURADINE: "Miner UI",
    Firmware.VNISH: "AnthillOS",
    Firmware.MARATHON: "401",
}
SPEAK_RPC_IN_JSON = frozenset(Firmware) - {Firmware.AXEOS, Firmware.EPIC, Firmware.MARATHON}


async def test_one_port_speaks_what_the_called_address_speaks() -> None:
    async with farm_of(*sorted(MODELS)) as farm, aiohttp.ClientSession() as client:
        for name, address in farm.addresses.items():
            firmware = farm.plant.miner(name).model.firmware
            if firmware in PAGES:
                async with client.get(f"http://{address}:{farm.ports.http}/") as reply:
                    assert f"<title>{PAGES[firmware]}</title>" in await reply.text()
            else:
                assert await is_shut(farm, address, farm.ports.http)
            if firmware in SPEAK_RPC_IN_JSON:
                assert not await is_shut(farm, address)
            if firmware is not Firmware.AURADINE:
                assert await is_shut(farm, address, farm.ports.auradine)


@pytest.mark.parametrize("address", ["127.62.9.9", "127.0.0.1"])
async def test_an_address_without_a_device_is_closed_at_once(address: str) -> None:
    async with farm_of("luxos-s21") as farm:
        assert await is_shut(farm, address)


async def test_a_device_does_not_answer_on_ports_it_has_not() -> None:
    async with farm_of("luxos-s21", "whatsminer-m60") as farm:
        assert await is_shut(farm, port=farm.ports.whatsminer_v3)
        assert not await is_shut(farm, port=farm.ports.rpc)


def test_the_one_socket_is_tied_to_the_loopback() -> None:
    (listener,) = listen(["127.62.0.1"], 0, one_socket=True)
    with listener:
        tied = listener.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert tied.rstrip(b"\0") == b"lo"


_OUTSIDE = """
set -e
ip link set lo up
ip link add inner type veth peer name outer
unshare --net sleep 300 & peer=$!
trap 'kill $peer $server' EXIT
until nsenter --target $peer --net ip link show lo >/dev/null 2>&1 \\
    && [ "$(readlink /proc/$peer/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
ip link set outer netns $peer
ip address add 10.9.0.1/24 dev inner
ip link set inner up
nsenter --target $peer --net ip address add 10.9.0.2/24 dev outer
nsenter --target $peer --net ip link set outer up
exec 3< <("$1" -c "$2")
read -r -u 3 server
nsenter --target $peer --net "$1" -c "$3" outside
"$1" -c "$3" inside
"""

_SERVER = """
import os, signal, socket
from curtaild_emulator.wires.listening import listen
(tied,) = listen(["127.0.0.1"], 4028, one_socket=True)
untied = socket.create_server(("0.0.0.0", 4029))
print(os.getpid(), flush=True)
signal.pause()
"""

_CLIENT = """
import socket, sys
def call(host, port):
    try:
        socket.create_connection((host, port), 60).close()
        return "open"
    except ConnectionRefusedError:
        return "refused"
host = "10.9.0.1" if sys.argv[1] == "outside" else "127.3.4.5"
print(sys.argv[1], call(host, 4028), call(host, 4029))
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="two network namespaces need root and ip")
def test_from_another_machine_the_port_is_refused() -> None:
    """A second network namespace plays the other machine; an untied socket beside ours shows that it gets through."""
    script = ["unshare", "--net", "bash", "-c", _OUTSIDE, "bash", sys.executable, _SERVER, _CLIENT]
    told = subprocess.run(script, capture_output=True, text=True, timeout=200, check=False)
    assert told.stdout.splitlines() == ["outside refused open", "inside open open"], told.stderr


def test_else_each_address_has_a_socket_of_its_own_on_the_same_port() -> None:
    addresses = ["127.62.0.1", "127.62.0.2", "127.62.0.3"]
    listeners = listen(addresses, 0, one_socket=False)
    try:
        bound = [listener.getsockname() for listener in listeners]
        assert [host for host, _ in bound] == addresses
        assert len({port for _, port in bound}) == 1
        with pytest.raises(CannotListen, match=r"port \d+ on 127\.62\.0\.1: Address already in use"):
            listen(addresses[:1], bound[0][1], one_socket=False)
    finally:
        for listener in listeners:
            listener.close()


def test_an_address_outside_the_loopback_is_refused() -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.0/8 only, not at 10\.0\.0\.1"):
        listen(["127.0.0.1", "10.0.0.1"], 0, one_socket=False)


async def test_a_closed_farm_listens_no_more_and_ends_its_calls() -> None:
    async with farm_of("luxos-s21") as farm:
        port = farm.ports.rpc
        reader, writer = await asyncio.open_connection("127.62.0.3", port)
        writer.write(b'{"command":')
        assert not await is_shut(farm)  # so the first call has surely been taken
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.62.0.3", port)


async def test_a_farm_that_cannot_open_leaves_nothing_open() -> None:
    async with farm_of("luxos-s21") as first:
        plan = first.plan.model_copy(update={"ports": ANY.model_copy(update={"control": first.ports.control})})
        second = EmulatedFarm(plan)
        with pytest.raises(OSError, match="address already in use"):
            await second.__aenter__()
        assert second.ports == plan.ports
