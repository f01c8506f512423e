"""Finds out what a miner is, by its greeting and for the long tail by pyasic's probing, and makes the wire code that
speaks to it, from a probe or directly from what is remembered.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from curtaild_drivers.asic.antminer import Antminer
from curtaild_drivers.asic.auradine import Auradine
from curtaild_drivers.asic.avalon import Avalon
from curtaild_drivers.asic.axeos import AxeOS
from curtaild_drivers.asic.braiins import Braiins
from curtaild_drivers.asic.epic import Epic
from curtaild_drivers.asic.firmware import Access, Firmware, MakeFirmware
from curtaild_drivers.asic.longtail import PyasicMiner
from curtaild_drivers.asic.luxos import LuxOS
from curtaild_drivers.asic.marathon import Marathon
from curtaild_drivers.asic.pyasic_loader import pyasic
from curtaild_drivers.asic.recognise import greet
from curtaild_drivers.asic.vnish import VNish
from curtaild_drivers.asic.whatsminer_v2 import WhatsminerV2
from curtaild_drivers.asic.whatsminer_v3 import WhatsminerV3
from curtaild_drivers.contract import BadReply, DriverError, Identity, Seconds, Unreachable

OWN: Mapping[str, MakeFirmware] = {
    "antminer": Antminer,
    "auradine": Auradine,
    "avalon": Avalon,
    "axeos": AxeOS,
    "braiins": Braiins,
    "epic": Epic,
    "luxos": LuxOS,
    "marathon": Marathon,
    "vnish": VNish,
    "whatsminer-v2": WhatsminerV2,
    "whatsminer-v3": WhatsminerV3,
}

_BACKENDS = {
    "AntminerModern": "antminer",
    "Auradine": "auradine",
    "AvalonMiner": "avalon",
    "BOSer": "braiins",
    "BitAxe": "axeos",
    "LUXMiner": "luxos",
    "MaraMiner": "marathon",
    "VNish": "vnish",
    "ePIC": "epic",
}


async def probed(access: Access, until: Seconds) -> Firmware:
    """Asks the machine. Raises `Unreachable` if nothing answers, `BadReply` if nobody knows what answers."""
    greeting = await greet(access, until)
    if greeting.firmware is not None:
        return OWN[greeting.firmware](access)
    if not greeting.opened:
        raise Unreachable(f"nothing at {access.host} answers on a miner's usual ports")
    why = "; ".join(dict.fromkeys(greeting.trouble))
    if greeting.is_nonsense:
        heard = repr((greeting.rpc or greeting.web or "")[:40])
        raise BadReply(f"{access.host} answers what no miner says: {why or heard}")
    if greeting.rpc is None and greeting.web is None:
        raise Unreachable(f"{access.host} takes connections and does not say who it is: {why}")
    return await probed_by_pyasic(access, until)


async def probed_by_pyasic(access: Access, until: Seconds) -> Firmware:
    """Asks the machine as pyasic does, which knows many more kinds. Raises as `probed` does."""
    module = await pyasic()
    miner = await _probe(module, access.host, until)
    backends = [base.__name__ for base in type(miner).__mro__]
    if any(name.startswith("BTMiner") for name in backends):
        return await _whatsminer(access, until)
    for name in backends:
        if name in _BACKENDS:
            return OWN[_BACKENDS[name]](access)
    if "UnknownMiner" in backends:
        raise BadReply(f"{access.host} answers, but pyasic does not know what it is")
    known = replace(access, model=access.model or str(miner.raw_model or ""))
    return PyasicMiner(known, miner, _type_name(module, type(miner)))


async def remembered(access: Access, identity: Identity) -> Firmware | None:
    """The wire code for a miner that was identified before; `None` if what is remembered fits nothing. Asks nobody."""
    known = replace(access, model=identity.model)
    if identity.firmware in OWN:
        return OWN[identity.firmware](known)
    module = await pyasic()
    for miner_type, classes in module.miners.factory.MINER_CLASSES.items():
        if _spelled(miner_type) == identity.firmware:
            chosen = next((cls for cls in classes.values() if str(cls.raw_model) == identity.model), None)
            if chosen is None:
                chosen = classes[None]
            return PyasicMiner(known, _quietly(chosen, access.host), identity.firmware)
    return None


async def _probe(module: Any, host: str, until: Seconds) -> Any:
    try:
        async with asyncio.timeout_at(until):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                miner = await module.get_miner(host)
    except TimeoutError:
        raise Unreachable(f"{host} could not be identified in time") from None
    except Exception as error:  # its parsers let through whatever a strange answer makes them trip over
        raise BadReply(f"pyasic: {type(error).__name__}: {error}") from error
    if miner is None:
        raise Unreachable(f"nothing at {host} answers on a miner's usual ports")
    return miner


async def _whatsminer(access: Access, until: Seconds) -> Firmware:
    """v3 where its port speaks it. pyasic goes by the firmware's date, which it cannot read while 4028 is closed."""
    v3 = WhatsminerV3(access)
    try:
        await v3.describe(until)
    except DriverError:
        return WhatsminerV2(access)
    finally:
        await v3.close()  # who asked this once may never ask again
    return WhatsminerV3(access)


def _type_name(module: Any, cls: type) -> str:
    for miner_type, classes in module.miners.factory.MINER_CLASSES.items():
        if any(cls is known for known in classes.values()):
            return _spelled(miner_type)
    raise BadReply(f"pyasic says {cls.__name__}, which is in none of its tables")


def _spelled(miner_type: Any) -> str:
    return str(miner_type.name).lower().replace("_", "-")


def _quietly(cls: Any, host: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(host)
