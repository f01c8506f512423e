"""The device as the daemon sees it: deadlines around everything, and an identity found once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from curtaild_drivers.asic import identify
from curtaild_drivers.asic.firmware import Access, Firmware
from curtaild_drivers.asic.settings import AsicSettings
from curtaild_drivers.contract import (
    BadReply,
    Capabilities,
    Identity,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    Reading,
    Refused,
    Seconds,
)
from curtaild_drivers.registry import DriverSettings, OpenContext

_NOT_KNOWN_YET = Capabilities(measures_power=False, throttles=False, stops=False)


class AsicDevice:
    """One ASIC miner (`contract.Device`)."""

    def __init__(self, address: str, settings: AsicSettings, context: OpenContext) -> None:
        self._settings = settings
        self._access = Access(
            host=address,
            settings=settings,
            password=context.secrets.get("password"),
            rated_w=context.rated_w,
            model=context.remembered.model if context.remembered else "",
        )
        self._identity = context.remembered
        self._identifying = asyncio.Lock()
        self._applying = asyncio.Lock()
        self._firmware = self._own_firmware()

    @property
    def capabilities(self) -> Capabilities:
        """What the firmware can do; nothing while nobody knows which it is."""
        return self._firmware.capabilities if self._firmware is not None else _NOT_KNOWN_YET

    async def identify(self) -> Identity:
        """Asks the machine anew, whatever is remembered; only the settings' word on its firmware is not doubted."""
        until = _moment_in(self._settings.identify_deadline_s)
        async with self._identifying:
            if self._settings.firmware is not None:
                firmware: Firmware = identify.OWN[self._settings.firmware](self._access)
            else:
                firmware = await identify.probed(self._access, until)
            return await self._learn_identity(firmware, until)

    async def read(self) -> Reading:
        until = _moment_in(self._settings.read_deadline_s)
        firmware = self._firmware or await self._known(until)
        return await firmware.read(until)

    async def operating_points(self) -> OperatingPoints:
        until = _moment_in(self._settings.read_deadline_s)
        firmware = await self._known(until)
        if self._identity is None:  # its model says what it draws
            async with self._identifying:
                await self._learn_identity(firmware, until)
            firmware = await self._known(until)
        return await firmware.operating_points(until)

    async def apply(self, point: OperatingPoint) -> Outcome:
        until = _moment_in(self._settings.write_deadline_s)
        async with self._applying:
            firmware = await self._known(until)
            try:
                return await firmware.apply(point, until)
            except BadReply as error:
                raise Refused(f"nothing was sent, its answer to a question before was unreadable: {error}") from error

    async def close(self) -> None:
        firmware, self._firmware = self._firmware, None
        if firmware is not None:
            await firmware.close()

    def _own_firmware(self) -> Firmware | None:
        """Wire code that needs neither pyasic nor a question, where what is known of the miner is enough."""
        name = self._settings.firmware or (self._identity.firmware if self._identity else "")
        make = identify.OWN.get(name)
        return make(self._access) if make is not None else None

    async def _known(self, until: Seconds) -> Firmware:
        if self._firmware is not None:
            return self._firmware
        async with self._identifying:
            if self._firmware is None:
                self._firmware = self._own_firmware()
            if self._firmware is None and self._identity is not None:
                self._firmware = await identify.remembered(self._access, self._identity)
            if self._firmware is None:
                self._firmware = await identify.probed(self._access, until)
            return self._firmware

    async def _learn_identity(self, firmware: Firmware, until: Seconds) -> Identity:
        before = self._firmware
        try:
            identity = await firmware.describe(until)
            self._access = replace(self._access, model=identity.model)
            rating = self._access.rating()
            if identity.rated_w is None and rating is not None:
                identity = replace(identity, rated_w=rating.power_w)
            if before is None or identity != self._identity:
                self._firmware = await identify.remembered(self._access, identity) or firmware
            self._identity = identity  # still the same: what it has in hand, a session or a token, stays so
        finally:
            for outdated in (before, firmware):  # some keep a connection
                if outdated is not None and outdated is not self._firmware:
                    await outdated.close()
        return identity


def open_device(address: str, settings: DriverSettings, context: OpenContext) -> AsicDevice:
    """For the registry. Does no I/O."""
    if not isinstance(settings, AsicSettings):
        raise TypeError(f"the asic driver needs AsicSettings, not {type(settings).__name__}")
    return AsicDevice(address, settings, context)


def _moment_in(seconds: Seconds) -> Seconds:
    return asyncio.get_running_loop().time() + seconds
