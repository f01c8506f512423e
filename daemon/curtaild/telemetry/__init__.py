"""What the daemon shows of itself: metrics, status as JSON, health, over one HTTP port."""

from curtaild.telemetry.health import HealthReport
from curtaild.telemetry.server import ListenError, TelemetryServer
from curtaild.telemetry.telemetry import PollOutcome, Telemetry, watch_loop_lag

__all__ = ["HealthReport", "ListenError", "PollOutcome", "Telemetry", "TelemetryServer", "watch_loop_lag"]
