"""What the site file may say about a GPU node behind its BMC."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from curtaild_drivers.gpu.curve import DEFAULT_CURVE, checked
from curtaild_drivers.gpu.settings import HookStage
from curtaild_drivers.gpu.throughput import FedCurve
from curtaild_drivers.registry import Doubt, DriverSettings


def _fingerprint(text: str) -> str:
    digits = re.sub(r"^sha-?256( fingerprint)?\s*[=:]\s*", "", text.strip(), flags=re.IGNORECASE).replace(":", "")
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
        raise ValueError("write the certificate's SHA-256 fingerprint: 64 hexadecimal digits, with or without colons")
    return digits.lower()


Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Watts = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
CurvePoint = tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]
ResourceId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]{1,128}$")]
ResourcePath = Annotated[str, Field(pattern=r"^/redfish/v1/[!-~]{1,1024}$")]

ProfileName = Literal["cray", "hgx", "idrac", "ilo", "openbmc", "power", "xcc"]
"""How a BMC takes a power limit; `profiles.PROFILES` says what each means."""


class RedfishSettings(DriverSettings):
    """Keys of a device with `driver = "redfish"`; only `username` and a password have no default."""

    username: Annotated[str, Field(min_length=1, max_length=128)]
    """The account on the BMC."""
    password_file: Path | None = None
    """A file that holds its password."""
    password_credential: str | None = None
    """The systemd credential that holds its password."""

    scheme: Literal["https", "http"] = "https"
    """http sends password and limits in the clear, and wants `allow_plain_http` beside it."""
    allow_plain_http: bool = False
    """Whether the network to the BMC is trusted as far as that."""
    port: Port | None = None
    """Where the BMC's web server listens; absent: 443, or 80 for http."""
    ca_file: Path | None = None
    """The authority that signs the BMCs' certificates; absent: the host's own store."""
    fingerprints: dict[str, Fingerprint] = Field(default_factory=dict)
    """By address: the SHA-256 fingerprint of the BMC's own certificate, which is then all that it is known by."""

    profile: ProfileName | None = None
    """How it takes its limit; absent: by what it says of itself."""
    system: ResourceId | None = None
    """The node among several in `/redfish/v1/Systems`; absent: the first that is no baseboard of GPUs."""
    power_path: ResourcePath | None = None
    """The resource that tells the node's watts; absent: of those found, the one that tells the most."""

    least_w: Watts | None = None
    """The least limit the node is given, in W at the wall; absent: what the BMC allows, else half of the most."""
    base_w: Watts | None = None
    """What the node draws beside its GPUs' share, in W; absent: assumed from its size."""
    gpu_factor: Annotated[float, Field(ge=1, le=3, allow_inf_nan=False)] = 1.15
    """What a watt of GPU costs at the wall (fans, conversion), where each GPU has a limit of its own."""
    curve: Annotated[tuple[CurvePoint, ...], Field(min_length=2, max_length=32)] = tuple(DEFAULT_CURVE)
    """Pairs of (fraction of full GPU power, fraction of full throughput kept), falling from (1, 1)."""
    throughput_file: Annotated[str, Field(pattern=r"^/.*\{address\}")] | None = None
    """The file into which the site's programs keep writing a node's throughput, a number in any unit, at most a minute
    old; `{address}` in it stands for the node's. The curve is learned from it; absent: it stays as it is."""
    off_w: Watts = 150.0
    """What the node draws when off, in W: BMC, standby rails, network cards."""
    at_full: Literal["limit", "lift"] = "limit"
    """At its highest point: give it its most as a limit, or lift the limit."""

    suspend: HookStage | None = None
    """The stage at which the site's programs, run here, let the node's work sleep; absent: none."""
    node_names: dict[str, Annotated[str, Field(min_length=1, max_length=253)]] = Field(default_factory=dict)
    """By address: what those programs are told that the node is called; absent: its address."""

    power_off: Literal["never", "graceful", "forced"] = "never"
    """Whether the node may be switched off: not at all, by asking its operating system, or also without that."""
    force_off_after_s: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 180.0
    """How long its operating system has to shut down, in s, before it may be forced."""

    read_deadline_s: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 10.0
    """A reading that takes longer, in s, counts as no answer."""
    write_deadline_s: Annotated[float, Field(gt=0, le=55, allow_inf_nan=False)] = 45.0
    """A command that takes longer, in s, has an unknown outcome."""
    identify_deadline_s: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 45.0
    """Finding out what the BMC offers takes at most this long, in s."""
    recheck_s: Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)] = 60.0
    """What takes a further question (power state, health, the GPUs' limits) is asked at least this often, in s."""

    @model_validator(mode="after")
    def _password_has_one_source(self) -> Self:
        if self.password_file and self.password_credential:
            raise ValueError("password_file and password_credential exclude each other")
        return self

    @model_validator(mode="after")
    def _curve_falls(self) -> Self:
        checked(self.curve)
        return self

    @model_validator(mode="after")
    def _plain_http_is_said_twice(self) -> Self:
        if self.scheme == "http" and not self.allow_plain_http:
            raise ValueError('scheme = "http" sends the password in the clear: it wants allow_plain_http = true')
        if self.scheme == "http" and (self.ca_file or self.fingerprints):
            raise ValueError('ca_file and fingerprints have no use: scheme is "http"')
        return self

    def doubts(self) -> Iterator[Doubt]:
        """Of its hooks."""
        if self.suspend is not None:
            yield from self.suspend.doubts("suspend")

    def fed_curve(self, address: str) -> FedCurve | None:
        """A node's curve as the site's throughput shows it; kept in systemd's state directory, else where the daemon
        was started."""
        if self.throughput_file is None:
            return None
        kept = self._kept(f"redfish-{address}.curve.json")
        return FedCurve(Path(self.throughput_file.replace("{address}", address)), kept, self.curve)

    def stage_file(self, address: str) -> Path:
        """Where it is kept that a node may be suspended."""
        return self._kept(f"redfish-{address}.stage.json")

    @staticmethod
    def _kept(name: str) -> Path:
        return Path(os.environ.get("STATE_DIRECTORY", "").split(":")[0]) / name

    @property
    def web_port(self) -> int:
        return self.port or {"https": 443, "http": 80}[self.scheme]
