"""What the site file may say about sites below this one."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from curtaild_drivers.registry import DriverSettings


def _broker(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("mqtt", "mqtts"):
        raise ValueError("should begin with mqtt:// or mqtts://")
    if "@" in parts.netloc:
        raise ValueError("should not carry a user or password: use username and password_file")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("has no port within 1..65535") from None
    if not host or port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("should be mqtt://host:port or mqtts://host:port")
    return text


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[^/+#\x00\s]+(/[^/+#\x00\s]+)*", text):
        raise ValueError("should be an MQTT topic without wildcards, blanks, and slashes at its ends")
    return text


Watts = Annotated[float, Field(gt=0, le=1e11, allow_inf_nan=False)]
CurvePoint = tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]


class DownstreamSettings(DriverSettings):
    """Keys of a group with `driver = "downstream"`; its `addresses` are the names of the sites below."""

    broker: Annotated[str, AfterValidator(_broker)]
    """The broker where they listen: one of those in their own site files."""
    username: str | None = None
    """The user at the broker."""
    password_file: Path | None = None
    """A file that holds the password at the broker."""
    password_credential: str | None = None
    """The systemd credential that holds the password at the broker."""
    ca_file: Path | None = None
    """The authority that signs the broker's certificate; absent: the host's own store."""
    cert_file: Path | None = None
    """Our certificate, for mutual TLS."""
    key_file: Path | None = None
    """The key of `cert_file`."""
    prefix: Annotated[str, Field(max_length=200), AfterValidator(_prefix)] = "curtaild/v1"
    """What all their topics begin with."""
    issuer: Annotated[str, Field(pattern=r"^[!-.0-~]+$", max_length=128)] = "parent"
    """Who we are to them. Of one issuer the newest allocation counts, of several the strictest."""
    signing_key_file: Path | None = None
    """A file that holds the private key we sign with, PEM or JWK: EC P-256 or RSA; absent: nothing is signed."""
    signing_key_credential: str | None = None
    """The systemd credential that holds the private key we sign with."""
    signing_key_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """What they find its public half by; absent: the key's own `kid`."""
    heartbeat_s: Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)] = 30.0
    """How often they hear that we live, in s: well below their `heartbeat_timeout_s`."""

    failsafe_limit_w: Watts | None = None
    """What their own site files let each draw when it does not hear us, in W; absent: the most it can draw."""
    least_w: Watts | None = None
    """The least limit each is given in the ordinary way, in W; below it only 0 W, which it answers with all it can
    shed. Absent: any limit down to its floor."""
    most_w: Watts | None = None
    """The most each is given, in W; absent: what it says that it can draw."""
    base_w: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] = 0.0
    """What each draws without earning anything (fans, processors), in W."""
    curve: Annotated[tuple[CurvePoint, ...], Field(min_length=2, max_length=32)] = ((1.0, 1.0), (0.5, 0.5))
    """Pairs of (fraction of its watts above base_w, fraction of full throughput kept), falling from (1, 1)."""
    settle_down_s: Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)] = 30.0
    """How long its devices take to follow a lower limit, in s."""
    settle_up_s: Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)] = 120.0
    """How long they take to follow a higher one, in s."""
    read_deadline_s: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 25.0
    """A status that takes longer to come, in s, counts as silence: more than their `status_interval_s`."""
    write_deadline_s: Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)] = 10.0
    """An allocation that is not answered for so long, in s, has an unknown outcome."""

    @model_validator(mode="after")
    def _access_is_whole(self) -> Self:
        if self.password_file and self.password_credential:
            raise ValueError("password_file and password_credential exclude each other")
        if self.signing_key_file and self.signing_key_credential:
            raise ValueError("signing_key_file and signing_key_credential exclude each other")
        if self.signing_key_id and not (self.signing_key_file or self.signing_key_credential):
            raise ValueError("signing_key_id has no use without signing_key_file or signing_key_credential")
        if (self.password_file or self.password_credential) and not self.username:
            raise ValueError("a password needs a username beside it")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file need each other")
        if (self.ca_file or self.cert_file) and not self.is_tls:
            raise ValueError("ca_file and cert_file have no use: the broker is not mqtts://")
        return self

    @model_validator(mode="after")
    def _watts_rise_and_the_curve_falls(self) -> Self:
        known = [watts for watts in (self.base_w, self.least_w, self.most_w) if watts is not None]
        if any(upper <= lower for lower, upper in pairwise(known)):
            raise ValueError("base_w, least_w and most_w must rise")
        falls = all(above[0] > below[0] and above[1] >= below[1] for above, below in pairwise(self.curve))
        if self.curve[0] != (1.0, 1.0) or not falls:
            raise ValueError("curve must begin with [1.0, 1.0] and fall")
        return self

    @property
    def is_tls(self) -> bool:
        return self.broker.startswith("mqtts://")

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port of the broker."""
        parts = urlsplit(self.broker)
        return parts.hostname or "", parts.port or (8883 if self.is_tls else 1883)
