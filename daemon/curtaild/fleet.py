"""The devices, meters and interlocks as driver objects: opened from the site file and what was remembered of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from curtaild_config import DeviceSpec, InterlockSpec, MeterSpec, SecretSource, resolve_secrets
from curtaild_drivers import registry
from curtaild_drivers.contract import Device, DeviceId, FeederId, Identity, Interlock, Meter, Seconds
from curtaild_drivers.registry import OpenContext


@dataclass(slots=True)
class FleetDevice:
    """One opened device. `identity` is what was remembered or found of it."""

    spec: DeviceSpec
    driver: Device
    identity: Identity | None


@dataclass(frozen=True, slots=True)
class FleetMeter:
    feeder: FeederId
    driver: Meter
    poll_s: Seconds


@dataclass(frozen=True, slots=True)
class FleetInterlock:
    feeder: FeederId
    driver: Interlock
    poll_s: Seconds


class NoSuchAbility(ValueError):
    """The site file asks a driver for a device, or a meter, that it does not offer."""


def open_devices(
    specs: Iterable[DeviceSpec], identities: Mapping[DeviceId, Identity], site_file: str
) -> dict[DeviceId, FleetDevice]:
    """Open every device; no I/O yet but for reading secrets. Raises `SiteFileError` and `NoSuchAbility`."""
    known_secrets: dict[tuple[SecretSource, ...], dict[str, str]] = {}
    fleet: dict[DeviceId, FleetDevice] = {}
    for spec in specs:
        open_device = registry.driver(spec.driver).open_device
        if open_device is None:
            raise NoSuchAbility(f"driver {spec.driver!r} of {spec.id} drives no devices")
        if spec.secret_sources not in known_secrets:
            known_secrets[spec.secret_sources] = _revealed(resolve_secrets(spec.secret_sources, site_file))
        identity = identities.get(spec.id)
        context = OpenContext(identity, known_secrets[spec.secret_sources], spec.rated_w, spec.flex_fraction)
        fleet[spec.id] = FleetDevice(spec, open_device(spec.address, spec.settings, context), identity)
    return fleet


def open_meters(specs: Iterable[MeterSpec], site_file: str) -> list[FleetMeter]:
    """Open every meter. Raises `SiteFileError` and `NoSuchAbility`."""
    meters: list[FleetMeter] = []
    for spec in specs:
        open_meter = registry.driver(spec.driver).open_meter
        if open_meter is None:
            raise NoSuchAbility(f"driver {spec.driver!r} of feeder {spec.feeder} reads no meters")
        context = OpenContext(secrets=_revealed(resolve_secrets(spec.secret_sources, site_file)))
        meters.append(FleetMeter(spec.feeder, open_meter(spec.address, spec.settings, context), spec.poll_s))
    return meters


def open_interlocks(specs: Iterable[InterlockSpec]) -> list[FleetInterlock]:
    """Open every interlock. Raises `NoSuchAbility`."""
    interlocks: list[FleetInterlock] = []
    for spec in specs:
        open_interlock = registry.driver(spec.driver).open_interlock
        if open_interlock is None:
            raise NoSuchAbility(f"driver {spec.driver!r} of feeder {spec.feeder} starts no fans")
        interlocks.append(
            FleetInterlock(spec.feeder, open_interlock(spec.address, spec.settings, OpenContext()), spec.poll_s)
        )
    return interlocks


def _revealed(secrets: Mapping[str, SecretStr]) -> dict[str, str]:
    return {name: secret.get_secret_value() for name, secret in secrets.items()}
