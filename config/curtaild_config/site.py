"""A whole site file as one frozen value, and what the daemon takes from it: its devices and meters, one by one."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from curtaild_config.addresses import expand_addresses
from curtaild_config.grid import OWN_CONNECTION, GridConnection, GridSection
from curtaild_config.plant import DeviceGroup, Feeder
from curtaild_config.secrets import SecretSource, secret_sources
from curtaild_config.sections import (
    LedgerSection,
    LogSection,
    PolicySection,
    SiteSection,
    TelemetrySection,
)
from curtaild_drivers import registry
from curtaild_drivers.contract import DeviceId, FeederId
from curtaild_drivers.registry import DriverSettings

ENV_PREFIX = "CURTAILD_"
"""`CURTAILD_GRID__FAILSAFE_LIMIT_W=500000` overrides `failsafe_limit_w` of `[grid]`."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One device as the site file describes it: powers in W, times in s. `secret_sources` is shared by its group."""

    id: DeviceId
    group: str
    address: str
    driver: str
    settings: DriverSettings
    feeder: FeederId
    priority: int
    flex_fraction: float | None
    emergency_order: int
    earns_usd_per_h: float | None
    rated_w: float | None
    poll_s: float
    stale_after_s: float
    min_on_s: float
    min_off_s: float
    secret_sources: tuple[SecretSource, ...]


@dataclass(frozen=True, slots=True)
class InterlockSpec:
    """One feeder's fans or pumps as the site file describes them: power in W, times in s."""

    feeder: FeederId
    address: str
    driver: str
    settings: DriverSettings
    poll_s: float


@dataclass(frozen=True, slots=True)
class MeterSpec:
    """One feeder's meter as the site file describes it."""

    feeder: FeederId
    address: str
    driver: str
    settings: DriverSettings
    poll_s: float
    stale_after_s: float
    secret_sources: tuple[SecretSource, ...]


class Site(BaseSettings):
    """The site file. Built in code it is what the code says; `load_site` is what reads files and environment."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    site: SiteSection
    grid: GridSection
    feeder: tuple[Feeder, ...] = Field(min_length=1)
    devices: tuple[DeviceGroup, ...] = ()
    policy: PolicySection = PolicySection()
    telemetry: TelemetrySection = TelemetrySection()
    ledger: LedgerSection = LedgerSection()
    log: LogSection = LogSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @property
    def name(self) -> str:
        """The site's id in topics and reports."""
        return self.site.name

    @property
    def root(self) -> Feeder:
        """The feeder that no other feeds."""
        return next(feeder for feeder in self.feeder if feeder.parent is None)

    def children(self, feeder_id: str) -> tuple[Feeder, ...]:
        """The feeders that `feeder_id` feeds, in the file's order."""
        return tuple(feeder for feeder in self.feeder if feeder.parent == feeder_id)

    def expand_devices(self) -> tuple[DeviceSpec, ...]:
        """Every single device, in the file's order. Raises `UnknownDriver`, or ValueError for wrong settings."""
        return tuple(spec for group in self.devices for spec in _devices_of(group))

    def meters(self) -> tuple[MeterSpec, ...]:
        """Every meter, in the order of the feeders. Raises `UnknownDriver`, or ValueError for wrong settings."""
        return tuple(
            MeterSpec(
                feeder=FeederId(feeder.id),
                address=feeder.meter.address,
                driver=feeder.meter.driver,
                settings=registry.driver(feeder.meter.driver).settings.model_validate(feeder.meter.settings),
                poll_s=feeder.meter.poll_s,
                stale_after_s=feeder.meter.stale_after_s,
                secret_sources=secret_sources(f"feeder[{feeder.id}].meter.settings", feeder.meter.settings),
            )
            for feeder in self.feeder
            if feeder.meter is not None
        )

    def interlocks(self) -> tuple[InterlockSpec, ...]:
        """Every feeder's fans or pumps. Raises `UnknownDriver`, or ValueError for wrong settings."""
        return tuple(
            InterlockSpec(
                feeder=FeederId(feeder.id),
                address=feeder.interlock.address,
                driver=feeder.interlock.driver,
                settings=registry.driver(feeder.interlock.driver).settings.model_validate(feeder.interlock.settings),
                poll_s=feeder.interlock.poll_s,
            )
            for feeder in self.feeder
            if feeder.interlock is not None
        )


def _devices_of(group: DeviceGroup) -> list[DeviceSpec]:
    settings = registry.driver(group.driver).settings.model_validate(group.settings)
    secrets = group_secret_sources(group)
    return [
        DeviceSpec(
            id=DeviceId(f"{group.name}/{address}"),
            group=group.name,
            address=address,
            driver=group.driver,
            settings=settings,
            feeder=FeederId(group.feeder),
            priority=group.priority,
            flex_fraction=group.flex_fraction,
            emergency_order=group.emergency_order,
            earns_usd_per_h=group.earns_usd_per_h,
            rated_w=group.rated_w,
            poll_s=group.poll_s,
            stale_after_s=group.stale_after_s,
            min_on_s=group.min_on_s,
            min_off_s=group.min_off_s,
            secret_sources=secrets,
        )
        for address in expand_addresses(group.addresses)
    ]


def group_secret_sources(group: DeviceGroup) -> tuple[SecretSource, ...]:
    """Where a group's secrets lie: its own password and what its driver's settings name."""
    own = {"password_file": group.password_file, "password_credential": group.password_credential}
    path = f"devices[{group.name}]"
    return secret_sources(path, own) + secret_sources(f"{path}.settings", group.settings)


def grid_secret_sources(site: Site) -> tuple[SecretSource, ...]:
    """Where the secrets of all grid connections lie."""
    return tuple(source for each in site.grid.connections for source in connection_secret_sources(each))


def connection_secret_sources(connection: GridConnection) -> tuple[SecretSource, ...]:
    """Where a connection's secrets lie: the password at its brokers, the key it signs with."""
    path = "grid" if connection.name == OWN_CONNECTION else f"grid.connection[{connection.name}]"
    return secret_sources(path, dict(connection))
