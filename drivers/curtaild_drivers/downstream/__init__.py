"""The `downstream` driver: another curtaild as one device. Its status is the reading, its allocation the actuation."""

from curtaild_drivers.downstream.child import open_device
from curtaild_drivers.downstream.settings import DownstreamSettings
from curtaild_drivers.maturity import Maturity, Support
from curtaild_drivers.registry import Driver

SUPPORT = Support(
    firmware="",
    device="another curtaild over MQTT: a GPU host that holds its own GPUs, a container, a whole site",
    maturity=Maturity.EMULATED,
    proven="the contract suite; daemons as processes of their own on emulated GPUs, behind a real mosquitto "
    "(`tests/downstream`, `tests/site/test_hybrid.py`)",
    reads_watts="yes: its meter's, else the sum of its devices and its auxiliary load",
    throttled_by="its allocation, in watts",
    stopped_by="an allocation of 0 W, where `least_w` says how far the ordinary ones go",
    auth="the broker's: user and password, certificates",
    ports="the broker's",
    quirks=(
        "It falls back to its own fail-safe limit when it hears nothing from here, and is counted with that.",
        "What it makes of its watts at each limit is assumed (`curve`): its status does not say it.",
    ),
    sources=("docs/grid/native.md",),
)

DRIVER = Driver(name="downstream", settings=DownstreamSettings, open_device=open_device, support=(SUPPORT,))

__all__ = ["DRIVER"]
