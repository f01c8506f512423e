"""The site file: its models, loading with every error at once, secrets, and the devices and meters it describes."""

from curtaild_config.grid import (
    BrokerConnection,
    DsxFlexConnection,
    GridConnection,
    GridSection,
    MaestroOSConnection,
    NativeConnection,
    NativeIssuer,
)
from curtaild_config.load import check_site, load_site
from curtaild_config.openadr import Draw, OpenAdrConnection
from curtaild_config.plant import DeviceGroup, Feeder, FeederInterlock, FeederMeter
from curtaild_config.problems import Problem, Severity, SiteFileError
from curtaild_config.quantities import Broker, Endpoint, parse_endpoint
from curtaild_config.render import render_tree
from curtaild_config.secrets import SecretSource, resolve_secrets
from curtaild_config.sections import (
    LedgerSection,
    LogSection,
    PolicySection,
    SiteSection,
    TelemetrySection,
)
from curtaild_config.site import (
    DeviceSpec,
    InterlockSpec,
    MeterSpec,
    Site,
    connection_secret_sources,
    grid_secret_sources,
)

__all__ = [
    "Broker",
    "BrokerConnection",
    "DeviceGroup",
    "DeviceSpec",
    "Draw",
    "DsxFlexConnection",
    "Endpoint",
    "Feeder",
    "FeederInterlock",
    "FeederMeter",
    "GridConnection",
    "GridSection",
    "InterlockSpec",
    "LedgerSection",
    "LogSection",
    "MaestroOSConnection",
    "MeterSpec",
    "NativeConnection",
    "NativeIssuer",
    "OpenAdrConnection",
    "PolicySection",
    "Problem",
    "SecretSource",
    "Severity",
    "Site",
    "SiteFileError",
    "SiteSection",
    "TelemetrySection",
    "check_site",
    "connection_secret_sources",
    "grid_secret_sources",
    "load_site",
    "parse_endpoint",
    "render_tree",
    "resolve_secrets",
]
