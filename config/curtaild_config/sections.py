"""The site file's tables that stand once: site, grid, policy, telemetry, ledger, log. Defaults are the safe choice;
a key without a default has none that is safe everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from curtaild_config.quantities import (
    BrokerUrl,
    Count,
    Endpoint,
    Fraction,
    ListenEndpoint,
    Name,
    Number,
    PositiveNumber,
    PositiveSeconds,
    PositiveWatts,
    Seconds,
    Section,
    TopicPrefix,
    Watts,
)


class SiteSection(Section):
    """Who this site is."""

    name: Name
    """The site's id in MQTT topics and reports; letters, digits, `_` and `-`."""
    description: str = ""
    """For people; appears in reports."""


class GridSection(Section):
    """How the site hears the grid operator, and what holds while it does not."""

    brokers: Annotated[tuple[BrokerUrl, ...], Field(min_length=1, max_length=16)]
    """MQTT brokers, each mqtt://host:port or mqtts://host:port; all are listened to."""
    prefix: TopicPrefix = "curtaild/v1"
    """What all topics of the native dialect begin with."""
    username: str | None = None
    """The user at the brokers."""
    password_file: Path | None = None
    """A file that holds the password at the brokers."""
    password_credential: Name | None = None
    """The systemd credential that holds the password at the brokers."""
    ca_file: Path | None = None
    """The authority that signs the brokers' certificates; absent: the host's own store."""
    cert_file: Path | None = None
    """This site's certificate, for mutual TLS."""
    key_file: Path | None = None
    """The key of `cert_file`."""
    client_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The MQTT client id; absent: `curtaild-` and the site's name."""
    keepalive_s: Annotated[PositiveSeconds, Field(ge=5, le=65_535)] = 30.0
    """MQTT keepalive: a frozen broker is noticed after about twice this."""
    heartbeat: Literal["required", "none"] = "required"
    """Whether the grid's side sends heartbeats; with "none" an allocation's own age is the heartbeat."""
    heartbeat_timeout_s: PositiveSeconds = 120.0
    """After this silence the fail-safe limit holds."""
    failsafe_limit_w: Watts
    """The ceiling that holds while the grid is silent, in watts. 0 is a limit: everything off."""
    failsafe_hold_s: Seconds = 60.0
    """The least time the fail-safe limit holds once entered."""
    allocation_max_age_s: PositiveSeconds = 900.0
    """With heartbeat = "none": the age at which the last allocation no longer proves that the grid is there."""
    max_clock_skew_s: PositiveSeconds = 300.0
    """Messages stamped further than this in the future are rejected."""
    max_payload_bytes: Annotated[Count, Field(ge=1_024)] = 16_384
    """Longer messages are rejected unread."""
    status_interval_s: PositiveSeconds = 10.0
    """How often the site's status is published."""
    allocation_cap_w: PositiveWatts | None = None
    """The most the grid contract grants; no allocation lifts the limit above it."""

    @model_validator(mode="after")
    def _password_has_one_source_and_a_user(self) -> Self:
        if self.password_file and self.password_credential:
            raise ValueError("password_file and password_credential exclude each other")
        if (self.password_file or self.password_credential) and not self.username:
            raise ValueError("a password needs a username beside it")
        return self

    @model_validator(mode="after")
    def _certificate_and_key_come_together(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file need each other")
        tls_keys = [key for key in ("ca_file", "cert_file") if getattr(self, key) is not None]
        if tls_keys and not any(broker.tls for broker in self.brokers):
            raise ValueError(f"{' and '.join(tls_keys)} have no use: no broker is mqtts://")
        return self


class PolicySection(Section):
    """How the site's watts are given out."""

    ramp_up_w_per_min: PositiveWatts | None = None
    """The fastest the site may restore, in watts per minute; absent: no ramp of the site's own."""
    dead_band_fraction: Fraction = 0.005
    """Nothing is moved for a gain below this fraction of the limit."""
    margin_fraction: Fraction = 0.002
    """Kept free under the limit, as a fraction of it: the meter's noise."""
    reading_error_fraction: Fraction = 0.05
    """How far a device's own watts may be off."""
    default_rated_w: PositiveWatts = 6_000.0
    """What a device of unknown model is held to be able to draw, in watts."""
    restart_jitter_s: Seconds = 10.0
    """Restores are spread over this time."""
    max_starts_per_s: PositiveNumber = 50.0
    """No more devices than this are raised each second."""
    write_concurrency: Annotated[Count, Field(le=4_096)] = 128
    """Commands under way at once."""
    poll_concurrency: Annotated[Count, Field(le=4_096)] = 256
    """Reads under way at once."""
    hashprice_usd_per_ph_day: PositiveNumber | None = None
    """What a petahash per second earns in a day, in USD; absent: priority and efficiency decide."""
    energy_price_usd_per_mwh: Number | None = None
    """What a megawatt-hour costs, in USD; may be negative."""


def _default_listen() -> Endpoint:
    return Endpoint("127.0.0.1", 9810)


class TelemetrySection(Section):
    """Where Prometheus and people look."""

    listen: ListenEndpoint = Field(default_factory=_default_listen)
    """Address and port of /metrics, /status, /healthz and /readyz."""


class LedgerSection(Section):
    """The durable record of every allocation, decision and result."""

    path: Path = Path("curtaild.db")
    """The ledger's file; absent: `curtaild.db` in systemd's state directory, else where the daemon was started."""
    retention_days: Annotated[Count, Field(le=36_500)] = 400
    """How long records are kept; 400 days hold a whole year and the time to dispute it."""


class LogSection(Section):
    """What the daemon writes to its standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severity that is written."""
    format: Literal["text", "json"] = "text"
    """text for people, json for collectors."""
