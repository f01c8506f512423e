"""What the site file may say about an ASIC miner."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from curtaild_drivers.registry import DriverSettings

Port = Annotated[int, Field(ge=1, le=65_535)]
Deadline = Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)]

OwnFirmware = Literal[
    "antminer",
    "auradine",
    "avalon",
    "axeos",
    "braiins",
    "epic",
    "luxos",
    "marathon",
    "vnish",
    "whatsminer-v2",
    "whatsminer-v3",
]
"""The firmwares that are spoken to in this driver's own wire code."""


class AsicSettings(DriverSettings):
    """Keys of a device with `driver = "asic"`; everything has a default that fits a miner as it is shipped."""

    model_config = ConfigDict(use_attribute_docstrings=True)  # docs/hardware.md tells them

    firmware: OwnFirmware | None = None
    """What the miner runs, where that is known: it is then not probed (probing knows the usual ports only)."""
    username: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """The user (Antminer, Auradine, Braiins OS, Marathon) or account (Whatsminer v3); absent: as the firmware ships."""
    password_file: Path | None = None
    """A file that holds the miner's password; absent: as the firmware ships."""
    password_credential: str | None = None
    """The systemd credential that holds the miner's password."""
    rpc_port: Port = 4028
    """The cgminer-like API of Antminer, Auradine, Avalon, LuxOS and Whatsminer v2; the web server of ePIC."""
    http_port: Port = 80
    """The web server of Antminer, AxeOS, Marathon and VNish."""
    auradine_port: Port = 8080
    """The web server of Auradine."""
    braiins_port: Port = 50_051
    """The gRPC API of Braiins OS."""
    v3_port: Port = 4433
    """The Whatsminer API v3."""
    read_deadline_s: Deadline = 5.0
    """A reading that takes longer, in s, counts as no answer."""
    write_deadline_s: Deadline = 10.0
    """A command that takes longer, in s, has an unknown outcome."""
    identify_deadline_s: Deadline = 20.0
    """Finding out what a miner is takes at most this long, in s."""
    recheck_s: Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)] = 60.0
    """What a miner is set to is asked anew at least this often, in s, where that takes a second question; and an
    Antminer's configuration is never written back older than this."""
    lowest_power_percent: Annotated[int, Field(ge=1, le=99)] = 40
    """How far a Whatsminer may be throttled, in percent of its power limit; below it is switched off instead."""

    luxos_session: Literal["opened", "kept"] = "opened"
    """Whether LuxOS's one session is opened for each command, or kept by readings, so that a shed is a single command;
    then people and other tools cannot change the machine while the daemon runs."""

    vnish_lever: Literal["throttle", "presets"] = "throttle"
    """How VNish from release 1.3.3 on is brought down: by its throttle, within seconds, or through its tuned presets,
    which hash more per watt and restart it at some changes. Older releases have presets only."""

    @model_validator(mode="after")
    def _password_has_one_source(self) -> Self:
        if self.password_file and self.password_credential:
            raise ValueError("password_file and password_credential exclude each other")
        return self
