"""What to emulate: the farm file's models, its loader, and a builder of mixed farms."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from curtaild_drivers.contract import DeviceId, FeederId
from curtaild_emulator.catalogue import MODELS
from curtaild_emulator.faults import Fault
from curtaild_emulator.gpu_node import NODE_MODELS, BmcFault
from curtaild_emulator.plant import Plant, PlantDevice, PlantFeeder, PlantNode

_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
LayoutName = Literal["sdm630", "pm5000", "abb-b"]
ModelName = Literal[
    "antminer-s19",
    "antminer-s19j-pro",
    "antminer-s21",
    "whatsminer-m50",
    "whatsminer-m50s",
    "whatsminer-m60",
    "whatsminer-m60s",
    "luxos-s19",
    "luxos-s21",
    "avalon-a1566",
    "bitaxe-gamma",
    "nerdqaxe-plus2",
    "braiins-s19j-pro",
    "braiins-s21",
    "epic-s19j-pro",
    "auradine-at1500",
    "marathon-s19j-pro",
    "vnish-s19j-pro",
    "vnish-1.3-s19j-pro",
]
NodeModelName = Literal["hgx-h100", "hgx-h200", "hgx-a100", "pcie-l40s"]
BmcName = Literal["nvidia-dgx", "dell-idrac9", "hpe-ilo", "lenovo-xcc", "cray", "openbmc", "ami"]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.:-]+$")]
Port = Annotated[int, Field(ge=0, le=65_535)]


class BadPlan(ValueError):
    """A farm file that cannot be emulated. The text lists all that is wrong with it, with places and remedies."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Addressed(_Table):
    @field_validator("address", check_fields=False)
    @classmethod
    def _is_loopback(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            address = ipaddress.IPv4Address(value)
        except ValueError:
            raise ValueError("is no IPv4 address; take one of 127.0.0.0/8, as 127.20.0.1") from None
        if address not in _LOOPBACK:
            raise ValueError("would be reachable from elsewhere; take an address of 127.0.0.0/8, as 127.20.0.1")
        return str(address)


class Ports(_Table):
    """Where the wires listen; 0 takes any free port. Scanners look at the real ports only, which are the defaults."""

    http: Port = 80
    rpc: Port = 4028
    whatsminer_v3: Port = 4433
    braiins: Port = 50_051
    auradine: Port = 8080
    redfish: Port = 443
    modbus: Port = 502
    control: Port = 8770


class FeederPlan(_Addressed):
    """A feeder; it has a meter where it has an `address`. Watts, fractions of one."""

    id: Name
    parent: Name | None = None
    auxiliary_w: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    auxiliary_fraction: float = Field(default=0.0, ge=0.0, le=1.0)
    meter_noise: float = Field(default=0.005, ge=0.0, le=0.5)
    address: str | None = None
    layout: LayoutName = "sdm630"


class DevicePlan(_Addressed):
    """One device."""

    id: Name
    model: ModelName
    feeder: Name
    address: str
    faults: tuple[Fault, ...] = ()


class FleetPlan(_Addressed):
    """Many devices of one model: ids `<id>-1` and on, addresses from `address` upwards."""

    id: Name
    model: ModelName
    feeder: Name
    address: str
    count: int = Field(ge=1, le=100_000)
    faults: tuple[Fault, ...] = ()

    def devices(self) -> Iterator[DevicePlan]:
        first = ipaddress.IPv4Address(self.address)
        for number in range(self.count):
            yield DevicePlan(
                id=f"{self.id}-{number + 1}",
                model=self.model,
                feeder=self.feeder,
                address=str(first + number),
                faults=self.faults,
            )


class NodePlan(_Addressed):
    """One GPU node; its BMC answers at `address`."""

    id: Name
    model: NodeModelName
    bmc: BmcName
    feeder: Name
    address: str
    faults: tuple[BmcFault, ...] = ()


class NodeFleetPlan(_Addressed):
    """Many GPU nodes with BMCs of one kind: ids `<id>-1` and on, addresses from `address` upwards."""

    id: Name
    model: NodeModelName
    bmc: BmcName
    feeder: Name
    address: str
    count: int = Field(ge=1, le=1_000)  # a listener and a certificate each
    faults: tuple[BmcFault, ...] = ()

    def nodes(self) -> Iterator[NodePlan]:
        first = ipaddress.IPv4Address(self.address)
        for number in range(self.count):
            yield NodePlan(
                id=f"{self.id}-{number + 1}",
                model=self.model,
                bmc=self.bmc,
                feeder=self.feeder,
                address=str(first + number),
                faults=self.faults,
            )


class Passwords(_Table):
    """What the devices' write APIs ask for; the makers' defaults. BMCs have none in common: one for all of them."""

    antminer: str = "root"
    whatsminer_v2: str = "admin"
    whatsminer_v3: str = "super"
    vnish: str = "admin"
    braiins: str = "root"
    epic: str = "letmein"
    auradine: str = "admin"
    marathon: str = "root"
    bmc: str = "emulated"


class FarmPlan(_Table):
    """A farm to emulate. `speed` is plant seconds per real second, `latency_s` how long each answer takes.

    `bmc_authority_file` is where the certificate of the authority is left that signs the BMCs', for clients to trust.
    """

    seed: int = 1
    speed: float = Field(default=1.0, gt=0.0, le=1e6)
    latency_s: float = Field(default=0.02, ge=0.0, le=60.0)
    resume_failure: float = Field(default=0.0, ge=0.0, le=1.0)
    ports: Ports = Ports()
    passwords: Passwords = Passwords()
    feeders: tuple[FeederPlan, ...] = Field(min_length=1)
    devices: tuple[DevicePlan, ...] = ()
    fleets: tuple[FleetPlan, ...] = ()
    nodes: tuple[NodePlan, ...] = ()
    node_fleets: tuple[NodeFleetPlan, ...] = ()
    bmc_authority_file: str | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> FarmPlan:
        seen: dict[str, str] = {}
        members = self.all_devices()
        for what, name, address in (
            *(("meter of feeder", feeder.id, feeder.address) for feeder in self.feeders if feeder.address),
            *(("device", device.id, device.address) for device in members),
            *(("device", node.id, node.address) for node in self.all_nodes()),
        ):
            other = seen.setdefault(str(address), f"{what} {name!r}")
            if other != f"{what} {name!r}":
                raise ValueError(f"{what} {name!r} has the address {address} of {other}; give it its own")
        self.plant(start=0.0, members=members)  # says what is no tree and which ids are double
        return self

    def all_devices(self) -> tuple[DevicePlan, ...]:
        """The devices and those of the fleets."""
        return (*self.devices, *(device for fleet in self.fleets for device in fleet.devices()))

    def all_nodes(self) -> tuple[NodePlan, ...]:
        """The GPU nodes and those of the node fleets."""
        return (*self.nodes, *(node for fleet in self.node_fleets for node in fleet.nodes()))

    def plant(self, start: float = 0.0, members: Sequence[DevicePlan] | None = None) -> Plant:
        """The plan's physics, beginning at `start`."""
        chosen = self.all_devices() if members is None else members
        plant = Plant(
            [PlantDevice(DeviceId(d.id), MODELS[d.model], FeederId(d.feeder), frozenset(d.faults)) for d in chosen],
            [
                PlantFeeder(
                    FeederId(f.id),
                    None if f.parent is None else FeederId(f.parent),
                    f.auxiliary_w,
                    f.auxiliary_fraction,
                    f.meter_noise,
                )
                for f in self.feeders
            ],
            self.seed,
            start,
            [
                PlantNode(DeviceId(n.id), NODE_MODELS[n.model], FeederId(n.feeder), frozenset(n.faults))
                for n in self.all_nodes()
            ],
        )
        if self.resume_failure > 0.0:
            for device in chosen:
                plant.set_fault(device.id, Fault.RESUME_NEVER, True, self.resume_failure)
        return plant

    @classmethod
    def load(cls, path: Path | str) -> FarmPlan:
        """Read a farm file (TOML). Raises `BadPlan` with everything that is wrong with it, `OSError`."""
        try:
            tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadPlan(f"{path}: no TOML: {error}") from None
        try:
            return cls.model_validate(tables)
        except ValidationError as error:
            lines = [f"  {_place(e['loc'])}: {_remedy(e['msg'], e.get('input'))}" for e in error.errors()]
            raise BadPlan("\n".join([f"{path}: {len(lines)} thing(s) to mend", *lines])) from None

    @classmethod
    def mixed(
        cls,
        count: int,
        *,
        feeders: int = 2,
        seed: int = 1,
        network: str = "127.20.0.0/16",
        models: Sequence[ModelName] = ("antminer-s19j-pro", "whatsminer-m50", "whatsminer-m60", "luxos-s21"),
        speed: float = 1.0,
        latency_s: float = 0.02,
        ports: Ports | None = None,
    ) -> FarmPlan:
        """`count` devices of all kinds in turn, on `feeders` rows under one metered site, in a `network` of 127/8.

        The first addresses of the network are the meters' (site, then rows), the devices follow.
        """
        addresses = ipaddress.IPv4Network(network).hosts()
        site = FeederPlan(id="site", auxiliary_w=50.0 * count, auxiliary_fraction=0.01, address=str(next(addresses)))
        rows = [
            FeederPlan(
                id=f"row-{n + 1}",
                parent="site",
                auxiliary_fraction=0.02,
                address=str(next(addresses)),
                layout=("pm5000", "abb-b", "sdm630")[n % 3],
            )
            for n in range(feeders)
        ]
        names = [row.id for row in rows] or [site.id]
        devices = [
            DevicePlan(
                id=f"{models[n % len(models)]}-{n + 1}",
                model=models[n % len(models)],
                feeder=names[n * len(names) // count],
                address=str(next(addresses)),
            )
            for n in range(count)
        ]
        return cls(
            seed=seed,
            speed=speed,
            latency_s=latency_s,
            ports=ports or Ports(),
            feeders=(site, *rows),
            devices=tuple(devices),
        )


def _place(location: Sequence[int | str]) -> str:
    """`devices[3].model`, as one would point at it in the file."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path or "farm"


def _remedy(message: str, value: object) -> str:
    text = message.removeprefix("Value error, ")
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return f"{value!r}: {text}"
    return text
