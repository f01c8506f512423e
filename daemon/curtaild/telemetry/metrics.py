"""Every metric the daemon exposes: name, type, unit, labels and meaning, in one place. Pure definitions.

`docs/metrics.md` is generated from here (`python -m curtaild.telemetry.reference`). Names end in their SI unit; what a
label may say is a closed list or a name from the site file, so the number of series is known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from curtaild_drivers.contract import RunState

PREFIX = "curtaild_"

UNITS = {
    "watts": "W",
    "joules": "J",
    "seconds": "s",
    "celsius": "°C",
}

STATE_CODES = {
    RunState.UNKNOWN: 0,
    RunState.FAULT: 1,
    RunState.ASLEEP: 2,
    RunState.IDLE: 3,
    RunState.STARTING: 4,
    RunState.RUNNING: 5,
}
"""A device's state as a number: one series per device instead of six."""


class Kind(Enum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of series. `name` is the full name on the wire; counters end in `_total`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """The unit by the name's own words; what has none is a count, a share or 0/1."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return UNITS.get(last, "")


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, Kind.GAUGE, help, labels)


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"{PREFIX}{name}_total", Kind.COUNTER, help, labels)


def _histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(PREFIX + name, Kind.HISTOGRAM, help, labels, buckets)


# Wide enough for a stalled loop, fine enough to see the 5 ms that an unchanged cycle may take.
_INSTANT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_ON_THE_WIRE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Devices settle in seconds (LuxOS sleep) to minutes (retuning to a power target).
_SETTLING = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0)

# --- the grid link -----------------------------------------------------------------------------------------------

LINK_PHASE = _gauge("link_phase", "The grid link's phase: 1 for the one it is in, 0 for the others.", "phase")
LINK_CHANGES = _counter("link_changes", "Times the grid link entered the phase.", "phase")
HEARTBEAT_AGE = _gauge("heartbeat_age_seconds", "Time since the grid's last heartbeat; absent until the first one.")
BROKER_CONNECTED = _gauge(
    "broker_connected", "Whether the MQTT broker is connected, or the OpenADR VTN answers (0 or 1).", "broker"
)
BROKER_HEARD = _gauge(
    "broker_heard",
    "Whether what the site publishes comes back from the MQTT broker (0 or 1); absent while not known.",
    "broker",
)
GRID_CLOCK_AHEAD = _gauge(
    "grid_clock_ahead_seconds",
    "How far the grid's clock is ahead of the site's, by the last heartbeat that told the time; negative is behind.",
    "connection",
)
NEXT_LIMIT_CHANGE = _gauge(
    "next_limit_change_seconds", "Time until the next change of a limit that is known today; absent if none is."
)
ALLOCATIONS_ACCEPTED = _counter(
    "allocations_accepted",
    "Allocations that became part of the link's state; scheduled says whether they came in a schedule.",
    "scheduled",
)
ALLOCATIONS_REJECTED = _counter(
    "allocations_rejected", "Grid messages that were not taken, by the code answered.", "code"
)
ACKS = _counter("acks", "Answers to the grid by stage of the allocation's life.", "stage")
RESPONSE_FIRST_SHED = _histogram(
    "response_first_shed_seconds",
    "From an allocation's start (its receipt, or its valid_from where that is later) to the first shed command for it; "
    "0 where the shed was begun ahead of the window.",
    _INSTANT,
)
RESPONSE_REACHED = _histogram(
    "response_reached_seconds",
    "From an allocation's start (its receipt, or its valid_from where that is later) to its limit being reached; "
    "only allocations that needed a shed.",
    _SETTLING,
)

LINK = (
    LINK_PHASE,
    LINK_CHANGES,
    HEARTBEAT_AGE,
    BROKER_CONNECTED,
    BROKER_HEARD,
    GRID_CLOCK_AHEAD,
    NEXT_LIMIT_CHANGE,
    ALLOCATIONS_ACCEPTED,
    ALLOCATIONS_REJECTED,
    ACKS,
    RESPONSE_FIRST_SHED,
    RESPONSE_REACHED,
)

# --- site and feeders --------------------------------------------------------------------------------------------

FLEXIBLE_UP = _gauge("flexible_up_watts", "How far the devices' draw could be raised if the grid asked.")
FLEXIBLE_DOWN = _gauge("flexible_down_watts", "How far the devices' draw could be lowered if the grid asked.")

FEEDER_INFO = _gauge(
    "feeder_info", "The feeder tree: parent is empty at the root, which is what the grid bills.", "feeder", "parent"
)
FEEDER_RATING = _gauge("feeder_rating_watts", "What the feeder's copper carries.", "feeder")
FEEDER_LIMIT = _gauge("feeder_limit_watts", "The ceiling in force now, the rating counted.", "feeder")
FEEDER_LIMIT_SOURCE = _gauge(
    "feeder_limit_source", "Who set the ceiling in force: 1 for the one that did, 0 for the others.", "feeder", "source"
)
FEEDER_LIMIT_CHANGES = _counter("feeder_limit_changes", "Times the ceiling in force moved.", "feeder")
FEEDER_METERED = _gauge(
    "feeder_metered_watts",
    "Real power by the feeder's meter; absent while the meter is stale, for a stale meter is no meter.",
    "feeder",
)
FEEDER_METER_FRESH = _gauge(
    "feeder_meter_fresh", "Whether the feeder's meter is fresh (0 or 1); absent without a meter.", "feeder"
)
FEEDER_METER_AGE = _gauge("feeder_meter_age_seconds", "Age of the meter's last valid reading.", "feeder")
FEEDER_MEASURED = _gauge("feeder_measured_watts", "Sum of what the devices under the feeder report.", "feeder")
FEEDER_RESERVED = _gauge(
    "feeder_reserved_watts", "The most the devices under the feeder may be drawing as far as is known.", "feeder"
)
FEEDER_PLANNED = _gauge(
    "feeder_planned_watts", "What the devices under the feeder will draw once all actuations have settled.", "feeder"
)
FEEDER_AUXILIARY = _gauge("feeder_auxiliary_watts", "Estimated draw beside the devices: fans, pumps, losses.", "feeder")
FEEDER_HEADROOM = _gauge(
    "feeder_headroom_watts", "Limit less what is drawn or reserved; negative is too little.", "feeder"
)
FEEDER_DEFICIT = _gauge(
    "feeder_deficit_watts", "What the limit asks to shed and the site cannot; 0 while it can.", "feeder"
)
FEEDER_CURTAILED = _gauge(
    "feeder_curtailed_watts", "What the devices would draw unlimited less what they may draw.", "feeder"
)
FEEDER_OVER_LIMIT = _gauge(
    "feeder_over_limit_watts",
    "Draw over the limit, 0 while under it: by the meter while it is fresh, else by devices and auxiliary load.",
    "feeder",
)
FEEDER_OVER_LIMIT_ENERGY = _counter(
    "feeder_over_limit_joules", "Energy drawn over the limit, summed at every cycle.", "feeder"
)
FEEDER_BREACH = _gauge("feeder_breach_active", "Whether a breach is open, told to the grid (0 or 1).", "feeder")
BREACHES = _counter("breaches", "Breaches by stage reached.", "feeder", "stage")
FEEDER_FANS = _gauge("feeder_fans_running", "Whether its fans or pumps were last seen running (0 or 1).", "feeder")
FEEDER_DEVICES = _gauge("feeder_devices", "Devices under the feeder, its children's included.", "feeder")

FEEDERS = (
    FLEXIBLE_UP,
    FLEXIBLE_DOWN,
    FEEDER_INFO,
    FEEDER_RATING,
    FEEDER_LIMIT,
    FEEDER_LIMIT_SOURCE,
    FEEDER_LIMIT_CHANGES,
    FEEDER_METERED,
    FEEDER_METER_FRESH,
    FEEDER_METER_AGE,
    FEEDER_MEASURED,
    FEEDER_RESERVED,
    FEEDER_PLANNED,
    FEEDER_AUXILIARY,
    FEEDER_HEADROOM,
    FEEDER_DEFICIT,
    FEEDER_CURTAILED,
    FEEDER_OVER_LIMIT,
    FEEDER_OVER_LIMIT_ENERGY,
    FEEDER_BREACH,
    BREACHES,
    FEEDER_FANS,
    FEEDER_DEVICES,
)

# --- fleet and actuations ----------------------------------------------------------------------------------------

DEVICES = _gauge("devices", "Devices directly on the feeder by state.", "feeder", "state")
DEVICES_CONDITION = _gauge(
    "devices_with_condition",
    "Devices directly on the feeder with which something is the matter.",
    "feeder",
    "condition",
)
DEVICES_STALE = _gauge(
    "devices_stale", "Devices directly on the feeder whose last reading is too old to trust.", "feeder"
)
ACTUATIONS = _counter("actuations", "Actuations by stage reached; direction is shed or restore.", "stage", "direction")
ACTUATIONS_IN_FLIGHT = _gauge("actuations_in_flight", "Actuations issued and not yet at their end.")
ACTUATION_ANSWER = _histogram(
    "actuation_answer_seconds", "From a command's issue to the device's answer.", _ON_THE_WIRE, "direction"
)
ACTUATION_CONFIRM = _histogram(
    "actuation_confirm_seconds",
    "From a command's issue to telemetry that shows it obeyed.",
    _SETTLING,
    "direction",
)
POLLS = _counter("polls", "Readings asked of devices and meters, by driver and result.", "driver", "outcome")
POLL_SECONDS = _histogram("poll_seconds", "Time one reading took, failed ones included.", _ON_THE_WIRE, "driver")

FLEET = (
    DEVICES,
    DEVICES_CONDITION,
    DEVICES_STALE,
    ACTUATIONS,
    ACTUATIONS_IN_FLIGHT,
    ACTUATION_ANSWER,
    ACTUATION_CONFIRM,
    POLLS,
    POLL_SECONDS,
)

# --- one device --------------------------------------------------------------------------------------------------

DEVICE_INFO = _gauge(
    "device_info",
    "Who the device is; the last four are empty until it has been identified.",
    "device",
    "feeder",
    "driver",
    "make",
    "model",
    "firmware",
)
DEVICE_POWER = _gauge(
    "device_power_watts", "Wall power the device reports; absent where it reports none.", "device", "feeder"
)
DEVICE_RESERVED = _gauge(
    "device_reserved_watts", "The most the device may be drawing as far as is known.", "device", "feeder"
)
DEVICE_RATED = _gauge("device_rated_watts", "The most the device's model draws.", "device", "feeder")
DEVICE_SETPOINT = _gauge(
    "device_setpoint_watts",
    "What the daemon wants the device to draw; absent until it wants something.",
    "device",
    "feeder",
)
DEVICE_RATE = _gauge(
    "device_rate", "Throughput: H/s of an ASIC miner, fraction of full (0 to 1) of a GPU node.", "device", "feeder"
)
DEVICE_TEMPERATURE = _gauge("device_temperature_celsius", "Hottest temperature the device reports.", "device", "feeder")
DEVICE_STATE = _gauge(
    "device_state",
    "What the device is doing: " + ", ".join(f"{code} {state.value}" for state, code in STATE_CODES.items()) + ".",
    "device",
    "feeder",
)
DEVICE_STALE = _gauge(
    "device_stale", "Whether the device's last reading is too old to trust (0 or 1).", "device", "feeder"
)
DEVICE_AGE = _gauge(
    "device_reading_age_seconds", "Age of the device's last reading; absent until the first.", "device", "feeder"
)
DEVICE_CONDITION = _gauge(
    "device_condition", "1 while this is the matter with the device; absent otherwise.", "device", "feeder", "condition"
)
DEVICE_FAULT = _gauge(
    "device_fault",
    "1 while the device says itself that something is the matter with it; absent otherwise.",
    "device",
    "feeder",
)

DEVICE = (
    DEVICE_INFO,
    DEVICE_POWER,
    DEVICE_RESERVED,
    DEVICE_RATED,
    DEVICE_SETPOINT,
    DEVICE_RATE,
    DEVICE_TEMPERATURE,
    DEVICE_STATE,
    DEVICE_STALE,
    DEVICE_AGE,
    DEVICE_CONDITION,
    DEVICE_FAULT,
)

# --- the daemon itself -------------------------------------------------------------------------------------------

BUILD_INFO = _gauge("build_info", "Which daemon this is.", "version", "python")
CYCLE_SECONDS = _histogram(
    "cycle_seconds", "Time one control cycle took; its _count is the number of cycles.", _INSTANT
)
CYCLE_AGE = _gauge(
    "cycle_age_seconds",
    "Time since the last cycle was completed, or since the start where none was; read at the scrape.",
)
LOOP_LAG = _histogram("loop_lag_seconds", "How late the event loop wakes who sleeps on it.", _INSTANT)
EVENTS = _counter("events", "What the cycle told the world, by kind.", "kind")
LEDGER_WRITING = _gauge("ledger_writing", "Whether the ledger takes records (0 or 1).")
LEDGER_PENDING = _gauge("ledger_pending_records", "Records that wait to be made durable.")
LEDGER_COMMITTED = _counter("ledger_committed_records", "Records made durable.")
LEDGER_DROPPED = _counter("ledger_dropped_records", "Records lost because the disk failed for too long.")

DAEMON = (
    BUILD_INFO,
    CYCLE_SECONDS,
    CYCLE_AGE,
    LOOP_LAG,
    EVENTS,
    LEDGER_WRITING,
    LEDGER_PENDING,
    LEDGER_COMMITTED,
    LEDGER_DROPPED,
)

SECTIONS: tuple[tuple[str, tuple[Metric, ...]], ...] = (
    ("The grid link", LINK),
    ("Site and feeders", FEEDERS),
    ("Fleet and actuations", FLEET),
    ("One device", DEVICE),
    ("The daemon itself", DAEMON),
)
METRICS = tuple(metric for _, section in SECTIONS for metric in section)
