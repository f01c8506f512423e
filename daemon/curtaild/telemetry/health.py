"""Whether the daemon does its work: what `/healthz` and `/readyz` answer by."""

from __future__ import annotations

from dataclasses import dataclass

from curtaild_drivers.contract import Seconds


@dataclass(frozen=True, slots=True)
class HealthReport:
    """`cycles` completed so far, `cycle_age_s` since the last one was completed (since the start where none was), and
    whether the site file on disk is the one in force."""

    config_loaded: bool
    cycles: int
    cycle_age_s: Seconds

    def ill(self, stalled_after_s: Seconds) -> str | None:
        """Why the daemon should be called ill, or `None`: it cannot follow a limit without completing cycles."""
        if self.cycle_age_s <= stalled_after_s:
            return None
        since = "the last cycle was completed" if self.cycles else "the start, and no cycle was completed"
        return f"stalled: {self.cycle_age_s:.1f} s since {since} (allowed: {stalled_after_s:g} s)"

    def unready(self) -> str | None:
        """Why the daemon is not yet at work, or `None`."""
        if not self.config_loaded:
            return "the site file is not loaded: run `curtaild check` on it"
        if not self.cycles:
            return "no cycle has been completed yet"
        return None
