"""What the daemon counts and measures of itself, and its exposition to Prometheus.

Counters and histograms rise by events, gauges are read from the newest status at the scrape: an `update` costs the
event loop no more than a glance at each feeder, however many devices there are.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from curtaild.clock import Clock, SystemClock
from curtaild.core.allocation import RejectCode
from curtaild.core.events import (
    Ack,
    AckStage,
    ActuationChanged,
    ActuationStage,
    AllocationTaken,
    BreachChanged,
    BreachStage,
    Event,
    InterlockChanged,
    LimitChanged,
    LinkChanged,
    LinkPhase,
    MeterChanged,
)
from curtaild.core.status import SiteStatus
from curtaild.courtesy import stand_aside
from curtaild.store import StoreHealth
from curtaild.telemetry import metrics
from curtaild.telemetry.devices import DeviceSection, info_labels
from curtaild.telemetry.health import HealthReport
from curtaild.telemetry.labels import label_value
from curtaild.telemetry.metrics import Metric
from curtaild.telemetry.snapshot import over_limit_w, site_families
from curtaild.telemetry.timing import ActuationTimes, ResponseTimes
from curtaild_drivers.contract import DeviceId, FeederId, Identity, Seconds, Watts

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_OPENMETRICS_END = b"# EOF\n"


class PollOutcome(Enum):
    """How one reading went."""

    OK = "ok"
    UNREACHABLE = "unreachable"
    AUTH_FAILED = "auth_failed"
    BAD_REPLY = "bad_reply"
    TIMEOUT = "timeout"


class Telemetry:
    """All metrics of one daemon, in a registry of its own. Every method but `exposition` belongs to the event loop."""

    def __init__(self, version: str, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._status: SiteStatus | None = None
        self._metered: frozenset[FeederId] = frozenset()
        self._over_w: dict[FeederId, Watts] = {}
        self._over_since: Seconds = 0.0
        self._infos: dict[DeviceId, str] = {}
        self._poll_series: dict[tuple[str, PollOutcome], tuple[Counter, Histogram]] = {}
        self._ledger_totals = 0, 0
        self._cycles = 0
        self._cycle_at = self._clock.monotonic()
        self._actuation_times = ActuationTimes()
        self._response_times = ResponseTimes()
        self._device_section = DeviceSection()
        self._registry = CollectorRegistry()
        self._define()
        # A shed tells of twenty thousand steps, and to look a series up by its labels takes longer than to count.
        self._count_of_kind, self._count_of_step = cache(self._events.labels), cache(self._actuations.labels)
        self._answer_of, self._confirm_of = cache(self._answer.labels), cache(self._confirm.labels)
        self._build.labels(version, platform.python_version()).set(1)
        self._cycle_age.set_function(self._cycle_age_s)
        self._start_at_zero()
        self._registry.register(_SiteCollector(self))
        ProcessCollector(registry=self._registry)

    # --- what the daemon tells ---------------------------------------------------------------------------------------

    def observe(self, events: Sequence[Event]) -> None:
        """Counts what a cycle told the world."""
        for event in events:
            self._count_of_kind(event.kind).inc()
            match event:
                case ActuationChanged():
                    self._actuation(event)
                case Ack():
                    self._ack(event)
                case AllocationTaken():
                    self._accepted.labels(str(event.scheduled).lower()).inc()
                    self._response_times.taken(event)
                case LinkChanged():
                    self._link_changes.labels(event.after.value).inc()
                case LimitChanged():
                    self._limit_changes.labels(label_value(event.feeder)).inc()
                case BreachChanged():
                    feeder = label_value(event.feeder)
                    self._breaches.labels(feeder, event.stage.value).inc()
                    self._breach.labels(feeder).set(event.stage is not BreachStage.RESOLVED)
                case InterlockChanged():
                    self._fans.labels(label_value(event.feeder)).set(event.is_running)
                case MeterChanged():
                    self._metered |= {event.feeder}

    def observe_cycle(self, seconds: Seconds) -> None:
        """One control cycle was completed and took `seconds`."""
        self._cycles += 1
        self._cycle_at = self._clock.monotonic()
        self._cycle_seconds.observe(seconds)

    def observe_poll(self, driver: str, outcome: PollOutcome, seconds: Seconds) -> None:
        """One reading was asked through `driver`; `seconds` from asking to its end, good or bad."""
        known = self._poll_series.get((driver, outcome))
        if known is None:  # to look them up by their labels takes longer than to count
            name = label_value(driver)
            known = self._polls.labels(name, outcome.value), self._poll_seconds.labels(name)
            self._poll_series[driver, outcome] = known
        count, durations = known
        count.inc()
        durations.observe(seconds)

    def observe_loop_lag(self, seconds: Seconds) -> None:
        self._loop_lag.observe(seconds)

    def observe_broker(self, broker: str, is_connected: bool, is_heard: bool | None = None) -> None:
        """`broker` is its host and port as the site file names it; a user and password before an `@` are dropped.
        `is_heard`: whether what we publish there comes back, `None` while that is not known."""
        name = label_value(broker.rpartition("@")[2])
        self._broker.labels(name).set(is_connected)
        if is_heard is not None:
            self._broker_hears.labels(name).set(is_heard)
        else:
            with suppress(KeyError):  # it was not known before either
                self._broker_hears.remove(name)

    def observe_grid_clock(self, connection: str, ahead_s: Seconds) -> None:
        """How far the grid's clock was ahead of ours at `connection`'s last heartbeat."""
        self._grid_clock.labels(label_value(connection)).set(ahead_s)

    def observe_ledger(self, health: StoreHealth) -> None:
        """How the ledger's store is doing; its totals count since it was opened, which is once in the daemon's life."""
        self._ledger_writing.set(health.ok)
        self._ledger_pending.set(health.queue_length)
        committed, dropped = self._ledger_totals
        self._ledger_committed.inc(max(0, health.committed_total - committed))
        self._ledger_dropped.inc(max(0, health.dropped_total - dropped))
        self._ledger_totals = health.committed_total, health.dropped_total

    def describe(self, device: DeviceId, driver: str, identity: Identity | None) -> None:
        """Who `device` is, for its info line; called again when it has been identified."""
        self._infos[device] = info_labels(driver, identity)

    def update(self, status: SiteStatus) -> None:
        """Takes over the newest status, and sums the energy drawn over each limit since the one before."""
        elapsed_s = max(0.0, status.at - self._over_since)
        for feeder in status.feeders:
            if feeder.id not in self._over_w:
                self._start_feeder_at_zero(label_value(feeder.id))
            elif over_w := self._over_w[feeder.id]:
                self._over_energy.labels(label_value(feeder.id)).inc(over_w * elapsed_s)
        self._over_w = {feeder.id: over_limit_w(feeder) for feeder in status.feeders}
        self._over_since = status.at
        read = {feeder.id for feeder in status.feeders if feeder.meter_is_fresh or feeder.meter_age_s is not None}
        if not read <= self._metered:
            self._metered |= read
        self._status = status

    # --- what others read --------------------------------------------------------------------------------------------

    def health(self, config_loaded: bool = True) -> HealthReport:
        return HealthReport(config_loaded, self._cycles, self._cycle_age_s())

    def exposition(self, openmetrics: bool = False) -> Iterator[bytes]:
        """Everything in the Prometheus text format 0.0.4, or in OpenMetrics 1.0, in pieces. One thread at a time."""
        status = self._status
        encode, _ = choose_encoder(OPENMETRICS if openmetrics else TEXT)
        yield encode(_WithoutCreated(self._registry)).removesuffix(_OPENMETRICS_END)
        if status is not None:
            yield from self._device_section.render(status.devices, self._infos, status.at)
        if openmetrics:
            yield _OPENMETRICS_END

    def families(self) -> Iterable[Family]:
        """The gauges of the newest status, but the devices' own; none before the first cycle."""
        return () if self._status is None else site_families(self._status, self._metered)

    # --- within ------------------------------------------------------------------------------------------------------

    def _actuation(self, event: ActuationChanged) -> None:
        direction = "restore" if event.is_raise else "shed"
        self._count_of_step(event.stage.value, direction).inc()
        taken_s = self._actuation_times.since_issue(event)
        if taken_s is not None and event.stage is ActuationStage.ANSWERED:
            self._answer_of(direction).observe(taken_s)
        elif taken_s is not None and event.stage is ActuationStage.CONFIRMED:
            self._confirm_of(direction).observe(taken_s)
        response_s = self._response_times.first_shed(event)
        if response_s is not None:
            self._first_shed.observe(response_s)

    def _ack(self, event: Ack) -> None:
        self._acks.labels(event.stage.value).inc()
        if event.stage is AckStage.REJECTED and event.code is not None:
            self._rejected.labels(event.code.value).inc()
        response_s = self._response_times.reached(event)
        if response_s is not None:
            self._reached.observe(response_s)

    def _cycle_age_s(self) -> Seconds:
        return max(0.0, self._clock.monotonic() - self._cycle_at)

    def _define(self) -> None:
        self._build = self._gauge(metrics.BUILD_INFO)
        self._cycle_age = self._gauge(metrics.CYCLE_AGE)
        self._cycle_seconds = self._histogram(metrics.CYCLE_SECONDS)
        self._loop_lag = self._histogram(metrics.LOOP_LAG)
        self._events = self._counter(metrics.EVENTS)
        self._ledger_writing = self._gauge(metrics.LEDGER_WRITING)
        self._ledger_pending = self._gauge(metrics.LEDGER_PENDING)
        self._ledger_committed = self._counter(metrics.LEDGER_COMMITTED)
        self._ledger_dropped = self._counter(metrics.LEDGER_DROPPED)
        self._broker = self._gauge(metrics.BROKER_CONNECTED)
        self._grid_clock = self._gauge(metrics.GRID_CLOCK_AHEAD)
        self._broker_hears = self._gauge(metrics.BROKER_HEARD)
        self._link_changes = self._counter(metrics.LINK_CHANGES)
        self._accepted = self._counter(metrics.ALLOCATIONS_ACCEPTED)
        self._rejected = self._counter(metrics.ALLOCATIONS_REJECTED)
        self._acks = self._counter(metrics.ACKS)
        self._first_shed = self._histogram(metrics.RESPONSE_FIRST_SHED)
        self._reached = self._histogram(metrics.RESPONSE_REACHED)
        self._limit_changes = self._counter(metrics.FEEDER_LIMIT_CHANGES)
        self._over_energy = self._counter(metrics.FEEDER_OVER_LIMIT_ENERGY)
        self._breach = self._gauge(metrics.FEEDER_BREACH)
        self._breaches = self._counter(metrics.BREACHES)
        self._fans = self._gauge(metrics.FEEDER_FANS)
        self._actuations = self._counter(metrics.ACTUATIONS)
        self._answer = self._histogram(metrics.ACTUATION_ANSWER)
        self._confirm = self._histogram(metrics.ACTUATION_CONFIRM)
        self._polls = self._counter(metrics.POLLS)
        self._poll_seconds = self._histogram(metrics.POLL_SECONDS)

    def _start_at_zero(self) -> None:
        """Closed vocabularies are there from the start: `rate()` never sees the first rise of a series born with it."""
        for direction in ("shed", "restore"):
            for actuation in ActuationStage:
                self._actuations.labels(actuation.value, direction)
            self._answer.labels(direction)
            self._confirm.labels(direction)
        for stage in AckStage:
            self._acks.labels(stage.value)
        for code in RejectCode:
            self._rejected.labels(code.value)
        for phase in LinkPhase:
            self._link_changes.labels(phase.value)
        for scheduled in ("true", "false"):
            self._accepted.labels(scheduled)

    def _start_feeder_at_zero(self, name: str) -> None:
        self._over_energy.labels(name)
        self._breach.labels(name)
        self._limit_changes.labels(name)
        for stage in BreachStage:
            self._breaches.labels(name, stage.value)

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self._registry)

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self._registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, registry=self._registry, buckets=metric.buckets)


class _SiteCollector(Collector):
    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterable[Family]:
        return self._telemetry.families()


class _WithoutCreated(Collector):
    """A registry less its `_created` series, which double every counter and say what `process_start_time_seconds`
    says already; prometheus_client's own switch for them is global to the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Family]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
            stand_aside()


async def watch_loop_lag(telemetry: Telemetry, every_s: Seconds = 0.25) -> None:
    """Measures for ever how late the event loop wakes who sleeps on it."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every_s
        await asyncio.sleep(every_s)
        telemetry.observe_loop_lag(max(0.0, loop.time() - due))
