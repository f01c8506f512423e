"""What makes one maker's Redfish service differ from another's: names, where the cap is written, and manners.

Sources: the makers' API guides and mockups (iDRAC9 guide: whole watts; XCC REST guide: Controls/PowerLimit and its
conflict rule; OpenBMC bmcweb: EnvironmentMetrics with ControlMode; Cray: Controls/NodePowerLimit; NVIDIA: GPU_SXM_n of
HGX_Baseboard_0). How long a cap takes to hold is an assumption within the 40 s that were reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from curtaild_drivers.contract import Seconds


class Lever(Enum):
    """Where a cap is written."""

    GPU_METRICS = "each GPU's EnvironmentMetrics: PowerLimitWatts"
    NODE_METRICS = "the chassis' EnvironmentMetrics: PowerLimitWatts"
    POWER = "the chassis' Power: PowerControl[0].PowerLimit.LimitInWatts"
    CONTROLS = "a Control of the chassis: SetPoint"


@dataclass(frozen=True, slots=True)
class Profile:
    """One maker's service.

    `vendor` and `product` stand in the service root, where there are any. `control` is the Id of the node's Control;
    with `caps_gpus_too` each GPU has one beside it. `modes` are the words for a cap that holds
    and one that does not, `None` where the lever takes none. `whole_watts`: a number with a point is refused.
    `demands_etag`: a PATCH without If-Match is refused. `set_point_enables`: a SetPoint alone switches the cap on.
    `patched` is the status of a write that was carried out; `in_that_state` that of a reset to where it is already.
    """

    name: str
    vendor: str | None
    product: str | None
    oem: str | None
    user: str
    system: str
    chassis: str
    lever: Lever
    control: str = ""
    caps_gpus_too: bool = False
    modes: tuple[str, str] | None = None
    speaks_power: bool = True
    speaks_subsystem: bool = True
    whole_watts: bool = False
    demands_etag: bool = False
    set_point_enables: bool = True
    patched: int = 200
    in_that_state: int = 204
    connections: int = 4
    sessions: int = 8
    session_timeout_s: Seconds = 1800.0
    bites_s: Seconds = 10.0

    @property
    def chassis_path(self) -> str:
        return f"/redfish/v1/Chassis/{self.chassis}"

    @property
    def system_path(self) -> str:
        return f"/redfish/v1/Systems/{self.system}"


BASEBOARD = "HGX_Baseboard_0"

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                name="nvidia-dgx",  # the host's BMC is AMI's, the baseboard's resources are gathered under it
                vendor="AMI",
                product="AMI Redfish Server",
                oem="Ami",
                user="admin",
                system="DGX",
                chassis="DGX",
                lever=Lever.GPU_METRICS,
                speaks_power=False,
                demands_etag=True,
                patched=204,
                bites_s=5.0,
            ),
            Profile(
                name="dell-idrac9",
                vendor="Dell",
                product="Integrated Dell Remote Access Controller",
                oem="Dell",
                user="root",
                system="System.Embedded.1",
                chassis="System.Embedded.1",
                lever=Lever.POWER,
                whole_watts=True,
                in_that_state=409,
                bites_s=20.0,
            ),
            Profile(
                name="hpe-ilo",
                vendor="HPE",
                product="ProLiant XL675d Gen10 Plus",
                oem="Hpe",
                user="Administrator",
                system="1",
                chassis="1",
                lever=Lever.POWER,
                speaks_subsystem=False,
                in_that_state=400,
                bites_s=30.0,
            ),
            Profile(
                name="lenovo-xcc",
                vendor="Lenovo",
                product="ThinkSystem SR675 V3",
                oem="Lenovo",
                user="USERID",
                system="1",
                chassis="1",
                lever=Lever.CONTROLS,
                control="PowerLimit",
                modes=("Manual", "Disabled"),
            ),
            Profile(
                name="cray",
                vendor=None,
                product=None,
                oem=None,
                user="root",
                system="Node0",
                chassis="Node0",
                lever=Lever.CONTROLS,
                control="NodePowerLimit",
                caps_gpus_too=True,
                modes=("Automatic", "Disabled"),
                speaks_power=False,
                patched=204,
                bites_s=5.0,
            ),
            Profile(
                name="openbmc",
                vendor=None,
                product=None,
                oem="OpenBMC",
                user="root",
                system="system",
                chassis="chassis",
                lever=Lever.NODE_METRICS,
                modes=("Automatic", "Disabled"),
                speaks_power=False,
                set_point_enables=False,
                patched=204,
            ),
            Profile(
                name="ami",  # Gigabyte, ASUS and others
                vendor="AMI",
                product="AMI Redfish Server",
                oem="Ami",
                user="admin",
                system="Self",
                chassis="Self",
                lever=Lever.POWER,
                speaks_subsystem=False,
                demands_etag=True,
                patched=204,
                bites_s=20.0,
            ),
        )
    }
)
"""Every emulated BMC by the name farm files use."""
