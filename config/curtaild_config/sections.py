"""The site file's tables that stand once, but for the grid's: site, policy, telemetry, ledger, log. Defaults are the
safe choice; a key without a default has none that is safe everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from curtaild_config.quantities import (
    Count,
    Endpoint,
    Fraction,
    ListenEndpoint,
    Name,
    Number,
    PositiveNumber,
    PositiveWatts,
    Seconds,
    Section,
)


class SiteSection(Section):
    """Who this site is."""

    name: Name
    """The site's id in MQTT topics and reports; letters, digits, `_` and `-`."""
    description: str = ""
    """For people; appears in reports."""


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
