"""Finds out whether what answers at an address is a miner, and which: for a scan that knows nothing beforehand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from curtaild_drivers.asic.device import open_device
from curtaild_drivers.asic.firmware import Access
from curtaild_drivers.asic.recognise import greet
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.contract import AuthFailed, DriverError, Identity
from curtaild_drivers.registry import OpenContext

TELLING_PORTS = (4028, 80, 4433, 50_051)
"""A miner listens on one of these at least; what else it needs is asked once it is found."""

_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Finding:
    """What answers at an address. `identity` is `None` where it is no miner that anybody knows; where it rejects the
    password only its firmware is known, and `model` is empty. `trouble` says in words what is in the way."""

    identity: Identity | None
    trouble: str = ""


async def find(address: str, settings: AsicSettings, context: OpenContext) -> Finding:
    """Asks `address`, within twice `identify_deadline_s`. Raises nothing: the network is full of other things.

    pyasic, which reads answers of any length, is asked only about what greets as a miner does.
    """
    until = asyncio.get_running_loop().time() + settings.identify_deadline_s
    greeting = await greet(Access(address, settings, password=context.secrets.get("password")), until)
    if not greeting.is_of_a_miner:
        if greeting.rpc is not None or greeting.web is not None:
            return Finding(None, "answers, but not as a miner")
        silent = "takes connections and says nothing" if greeting.opened else "is gone again"
        return Finding(None, "; ".join(dict.fromkeys(greeting.trouble)) or silent)
    device = open_device(address, settings.model_copy(update={"firmware": greeting.firmware}), context)
    try:
        identity = await device.identify()
    except AuthFailed as error:
        if greeting.firmware is None:
            return Finding(None, str(error))
        return Finding(Identity(make="", model="", firmware=greeting.firmware), str(error))
    except DriverError as error:
        return Finding(None, f"greets as {greeting.firmware or 'a miner'}, then: {error}")
    finally:
        await device.close()
    if not identity.model or identity.model == "None":
        return Finding(None, f"pyasic takes it for a {identity.firmware or 'miner'}, and cannot say which model it is")
    return Finding(_plain(identity))


def _plain(identity: Identity) -> Identity:
    """What a device says of itself, fit for a terminal and a file: printable, and no longer than a name is."""
    return replace(
        identity,
        make=_printable(identity.make),
        model=_printable(identity.model),
        version=_printable(identity.version),
        serial=_printable(identity.serial),
    )


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST_NAME])
