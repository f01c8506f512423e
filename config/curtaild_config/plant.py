"""The site file's tables that stand many times: feeders with their meters, and groups of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from curtaild_config.quantities import (
    Fraction,
    Name,
    PositiveNumber,
    PositiveSeconds,
    PositiveWatts,
    Priority,
    Seconds,
    Section,
    Watts,
    parse_endpoint,
)


def _stale_comes_after_polls(poll_s: float, stale_after_s: float) -> None:
    if stale_after_s <= poll_s:
        raise ValueError(
            f"stale_after_s ({stale_after_s:g}) must exceed poll_s ({poll_s:g}), "
            "else every reading is stale before the next one comes"
        )


def _host_and_port(text: str) -> str:
    parse_endpoint(text, default_port=0)
    return text


class FeederMeter(Section):
    """The meter that measures a feeder's real power."""

    driver: Name = "modbus"
    """The driver that reads it."""
    address: Annotated[str, AfterValidator(_host_and_port)]
    """Where it answers, host or host:port; without a port it is the protocol's own."""
    poll_s: PositiveSeconds = 1.0
    """How often it is read."""
    stale_after_s: PositiveSeconds = 10.0
    """A reading older than this is no reading."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The driver's own keys."""

    @model_validator(mode="after")
    def _is_polled_before_stale(self) -> Self:
        _stale_comes_after_polls(self.poll_s, self.stale_after_s)
        return self


class FeederInterlock(Section):
    """What must run before a stopped device of the feeder is started: its fans or pumps. They are started first."""

    driver: Name = "modbus-coil"
    """The driver that starts them."""
    address: Annotated[str, AfterValidator(_host_and_port)]
    """Where the contactor's controller answers, host or host:port; without a port it is the protocol's own."""
    draw_w: PositiveWatts
    """What they draw once they run, in watts; they are not started where there is no room for it."""
    poll_s: PositiveSeconds = 5.0
    """How often it is seen whether they run."""
    stale_after_s: PositiveSeconds = 20.0
    """What was seen longer ago starts nothing."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The driver's own keys."""

    @model_validator(mode="after")
    def _is_polled_before_stale(self) -> Self:
        _stale_comes_after_polls(self.poll_s, self.stale_after_s)
        return self


class Feeder(Section):
    """One node of the site's electrical tree."""

    id: Name
    """The feeder's id; allocations and device groups name it."""
    parent: Name | None = None
    """The feeder that feeds this one; exactly one feeder, the root, has none."""
    rating_w: PositiveWatts
    """The most it may carry, in watts."""
    auxiliary_w: Watts = 0.0
    """What it draws beside the devices (fans, pumps, losses), in watts, at most: the estimate until a meter knows
    better. What a meter shows above it and a quarter more may be taken for draw of devices that were never heard."""
    meter: FeederMeter | None = None
    """Its meter; absent where there is none."""
    interlock: FeederInterlock | None = None
    """Its fans or pumps, if devices must wait for them."""


class DeviceGroup(Section):
    """Devices that share a driver, a feeder and their settings."""

    name: Name
    """The group's name; a device's id is group/address."""
    driver: Name
    """The driver that speaks to them."""
    addresses: Annotated[tuple[str, ...], Field(min_length=1, max_length=65_536)]
    """Addresses, "10.0.1.0/24" blocks and "10.0.1.10-250" ranges."""
    feeder: Name
    """The feeder they hang on."""
    priority: Priority = 50
    """0 to 100: the higher, the longer they are kept running."""
    flex_fraction: Fraction | None = None
    """How much of its performance a routine allocation may take from each (0.25: a quarter); absent: all of it. An
    emergency, a feeder's rating and the fail-safe limit take more."""
    emergency_order: Priority = 50
    """0 to 100: the lower, the earlier they are taken past their flex in an emergency."""
    earns_usd_per_h: PositiveNumber | None = None
    """What one of them, not a miner, earns in an hour at full throughput, in USD. What has no price is kept longest."""
    rated_w: PositiveWatts | None = None
    """The most one of them draws, in watts; absent: what its model is known to draw."""
    poll_s: PositiveSeconds = 10.0
    """How often each is read."""
    stale_after_s: PositiveSeconds = 60.0
    """A reading older than this counts as unknown, and unknown counts as worst."""
    min_on_s: Seconds = 0.0
    """The least time between a start and the next stop; a shed overrides it."""
    min_off_s: Seconds = 60.0
    """The least time between a stop and the next start."""
    password_file: Path | None = None
    """A file that holds their password."""
    password_credential: Name | None = None
    """The systemd credential that holds their password."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The driver's own keys."""

    @model_validator(mode="after")
    def _is_polled_before_stale(self) -> Self:
        _stale_comes_after_polls(self.poll_s, self.stale_after_s)
        return self
