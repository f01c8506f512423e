"""A small site as the cycle would describe it: a container of miners behind the site's own meter."""

from __future__ import annotations

from dataclasses import replace

from curtaild.core.allocation import Allocation, AllocationId, Issuer, RejectCode
from curtaild.core.events import (
    Ack,
    AckStage,
    ActuationChanged,
    ActuationId,
    ActuationStage,
    AllocationTaken,
    BreachChanged,
    BreachId,
    BreachStage,
    Condition,
    Event,
    InterlockChanged,
    LimitChanged,
    LinkChanged,
    LinkPhase,
    MeterChanged,
)
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.status import DeviceStatus, FeederStatus, SiteStatus
from curtaild.ledger import GENESIS
from curtaild.store import StoreHealth
from curtaild.telemetry import PollOutcome, Telemetry
from curtaild_drivers.contract import DeviceId, FeederId, Identity, OperatingPoint, RunState, Seconds, Watts

SITE = FeederId("site")
CONTAINER = FeederId("container1")
S19 = Identity("Antminer", "S19j Pro", "stock", "2023-01")

THE_SITE = FeederStatus(
    id=SITE,
    parent=None,
    rating_w=20_000.0,
    limit_w=12_000.0,
    ceiling=Limit(12_000.0),
    limit_source="01J9Z",
    metered_w=11_400.0,
    meter_is_fresh=True,
    meter_age_s=0.5,
    measured_w=10_400.0,
    reserved_w=10_700.0,
    planned_w=10_300.0,
    auxiliary_w=1_000.0,
    headroom_w=300.0,
    deficit_w=0.0,
    curtailed_w=3_250.0,
    devices=4,
)
THE_CONTAINER = THE_SITE._replace(
    id=CONTAINER,
    parent=SITE,
    rating_w=15_000.0,
    limit_w=15_000.0,
    ceiling=UNLIMITED,
    limit_source="rating",
    metered_w=None,
    meter_is_fresh=False,
    meter_age_s=None,
    headroom_w=3_300.0,
)


def device(name: str, state: RunState = RunState.RUNNING, *conditions: Condition) -> DeviceStatus:
    is_stale = Condition.STALE in conditions
    return DeviceStatus(
        id=DeviceId(name),
        feeder=CONTAINER,
        state=state,
        power_w=None if is_stale else 3_250.5,
        reserved_w=3_300.0,
        rated_w=3_500.0,
        rate=1.04e14,
        temperature_c=64.5,
        setpoint="normal",
        setpoint_w=3_250.0,
        confirmed="normal",
        actuation=ActuationStage.CONFIRMED,
        is_stale=is_stale,
        drawn_at=997.75,
        conditions=conditions,
    )


THE_DEVICES = (
    device("rig1"),
    device("rig2"),
    device("rig3", RunState.ASLEEP),
    device("rig4", RunState.UNKNOWN, Condition.STALE, Condition.UNREACHABLE)._replace(fault="fan 2 stands still"),
)
THE_STATUS = SiteStatus(
    at=1_000.0,
    phase=LinkPhase.LIMITED,
    phase_reason="allocation 01J9Z",
    root=SITE,
    heartbeat_age_s=3.5,
    allocation_id="01J9Z",
    flexible_up_w=3_250.0,
    flexible_down_w=9_750.0,
    actuations_in_flight=1,
    next_limit_change_at=1_600.0,
    feeders=[THE_SITE, THE_CONTAINER],
    devices=THE_DEVICES,
)


def status_at(at: Seconds, **of_the_site: Watts | bool | None) -> SiteStatus:
    """`THE_STATUS` at another moment, with the root feeder changed."""
    changed: FeederStatus = THE_SITE._replace(**of_the_site)  # type: ignore[arg-type]  # field types vary by name
    return replace(THE_STATUS, at=at, feeders=[changed, THE_CONTAINER])


def fleet(count: int) -> SiteStatus:
    """`count` devices, a hundred to a row, in whatever state; as many gauges each as a device can have."""
    rows = [FeederId(f"row{number:03d}") for number in range(-(-count // 100))]
    devices = [THE_DEVICES[n % 3]._replace(id=DeviceId(f"rig{n:05d}"), feeder=rows[n // 100]) for n in range(count)]
    feeders = [THE_SITE, *(THE_CONTAINER._replace(id=row) for row in rows)]
    return replace(THE_STATUS, feeders=feeders, devices=devices)


def allocation(name: str = "01J9Z", *, valid_from: Seconds = 0.0, watts: Watts = 12_000.0) -> Allocation:
    return Allocation(AllocationId(name), 1, Issuer("npcc"), SITE, Limit(watts), 0.0, valid_from, None)


def taken(at: Seconds, name: str = "01J9Z", *, valid_from: Seconds = 0.0, scheduled: bool = False) -> AllocationTaken:
    return AllocationTaken(at, allocation(name, valid_from=valid_from), scheduled)


def ack(at: Seconds, stage: AckStage, name: str = "01J9Z", code: RejectCode | None = None) -> Ack:
    return Ack(at, stage, AllocationId(name), Issuer("npcc"), 1, SITE, code=code)


def actuation(
    at: Seconds,
    stage: ActuationStage,
    *,
    name: str = "a1",
    rig: str = "rig1",
    is_raise: bool = False,
    allocation_id: str | None = "01J9Z",
) -> ActuationChanged:
    return ActuationChanged(
        at=at,
        id=ActuationId(name),
        device=DeviceId(rig),
        stage=stage,
        before=OperatingPoint("normal", 3_250.0, 1e14),
        target=OperatingPoint("off", 30.0, 0.0),
        is_raise=is_raise,
        reserved_w=3_300.0,
        power_w=3_250.0,
        allocation_id=None if allocation_id is None else AllocationId(allocation_id),
        rule="site: 900 W over",
    )


def breach(at: Seconds, stage: BreachStage) -> BreachChanged:
    return BreachChanged(at, BreachId("b1"), SITE, stage, 12_000.0, 800.0, 800.0, at)


def ledger(committed: int, dropped: int = 0, queued: int = 0) -> StoreHealth:
    return StoreHealth(not queued, 0.0, "disk full" if queued else None, queued, committed, dropped, 0.001, GENESIS)


def at_work() -> Telemetry:
    """A telemetry to which everything has happened at least once, so that every metric has a sample."""
    telemetry = Telemetry("1.2.3")
    events: list[Event] = [
        LinkChanged(1.0, LinkPhase.STARTING, LinkPhase.LIMITED, "heartbeat and allocation"),
        taken(1.0),
        ack(1.0, AckStage.ACCEPTED),
        ack(1.0, AckStage.REJECTED, code=RejectCode.NOT_A_LIMIT),
        LimitChanged(1.0, SITE, None, Limit(12_000.0), "01J9Z"),
        actuation(1.1, ActuationStage.ISSUED),
        actuation(1.2, ActuationStage.ANSWERED),
        actuation(6.0, ActuationStage.CONFIRMED),
        ack(7.0, AckStage.REACHED),
        MeterChanged(7.0, SITE, True, "answers"),
        InterlockChanged(8.0, SITE, True),
        breach(8.0, BreachStage.ACTIVE),
        breach(9.0, BreachStage.RESOLVED),
    ]
    telemetry.observe(events)
    telemetry.observe_cycle(0.004)
    telemetry.observe_poll("asic", PollOutcome.OK, 0.02)
    telemetry.observe_poll("modbus", PollOutcome.TIMEOUT, 3.0)
    telemetry.observe_loop_lag(0.0004)
    telemetry.observe_broker("127.0.0.1:1883", True, True)
    telemetry.observe_grid_clock("native", -0.2)
    telemetry.observe_ledger(ledger(committed=40))
    telemetry.describe(DeviceId("rig1"), "asic", S19)
    telemetry.update(THE_STATUS)
    return telemetry
