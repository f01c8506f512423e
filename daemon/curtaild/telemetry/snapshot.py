"""The site's and feeders' gauges of one status, as prometheus_client families. Runs in the rendering thread only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import Metric as Family

from curtaild.core.events import Condition, LinkPhase
from curtaild.core.status import FeederStatus, SiteStatus
from curtaild.telemetry import metrics
from curtaild.telemetry.labels import label_value
from curtaild.telemetry.metrics import Metric
from curtaild_drivers.contract import FeederId, RunState, Watts

LIMIT_SOURCES = ("allocation", "fail-safe", "rating")


def over_limit_w(feeder: FeederStatus) -> Watts:
    """Draw over the limit (W), 0 while under it: by the meter while it is fresh, else by devices and auxiliary load."""
    drawn_w = feeder.measured_w + feeder.auxiliary_w
    if feeder.meter_is_fresh and feeder.metered_w is not None:
        drawn_w = feeder.metered_w
    return max(0.0, drawn_w - feeder.limit_w)


def _metered(feeder: FeederStatus) -> Watts | None:
    return feeder.metered_w if feeder.meter_is_fresh else None


_FEEDER_GAUGES: tuple[tuple[Metric, Callable[[FeederStatus], float | None]], ...] = (
    (metrics.FEEDER_RATING, lambda feeder: feeder.rating_w),
    (metrics.FEEDER_LIMIT, lambda feeder: feeder.limit_w),
    (metrics.FEEDER_METERED, _metered),
    (metrics.FEEDER_METER_AGE, lambda feeder: feeder.meter_age_s),
    (metrics.FEEDER_MEASURED, lambda feeder: feeder.measured_w),
    (metrics.FEEDER_RESERVED, lambda feeder: feeder.reserved_w),
    (metrics.FEEDER_PLANNED, lambda feeder: feeder.planned_w),
    (metrics.FEEDER_AUXILIARY, lambda feeder: feeder.auxiliary_w),
    (metrics.FEEDER_HEADROOM, lambda feeder: feeder.headroom_w),
    (metrics.FEEDER_DEFICIT, lambda feeder: feeder.deficit_w),
    (metrics.FEEDER_CURTAILED, lambda feeder: feeder.curtailed_w),
    (metrics.FEEDER_OVER_LIMIT, over_limit_w),
    (metrics.FEEDER_DEVICES, lambda feeder: feeder.devices),
)


def site_families(status: SiteStatus, metered: frozenset[FeederId]) -> Iterator[Family]:
    """All gauges of `status` but the devices' own; `metered` names the feeders known to have a meter, read or not."""
    yield from _link(status)
    yield _family(metrics.FLEXIBLE_UP, [((), status.flexible_up_w)])
    yield _family(metrics.FLEXIBLE_DOWN, [((), status.flexible_down_w)])
    yield _family(metrics.ACTUATIONS_IN_FLIGHT, [((), status.actuations_in_flight)])
    yield _family(metrics.FEEDER_INFO, [((feeder.id, feeder.parent or ""), 1) for feeder in status.feeders])
    for metric, value_of in _FEEDER_GAUGES:
        yield _family(metric, [((feeder.id,), value_of(feeder)) for feeder in status.feeders])
    yield _family(
        metrics.FEEDER_LIMIT_SOURCE,
        [
            ((feeder.id, source), float(source == _source(feeder.limit_source)))
            for feeder in status.feeders
            for source in LIMIT_SOURCES
        ],
    )
    yield _family(
        metrics.FEEDER_METER_FRESH,
        [((feeder.id,), float(feeder.meter_is_fresh)) for feeder in status.feeders if feeder.id in metered],
    )
    yield from _fleet(status)


def _source(limit_source: str) -> str:
    """An allocation's id is as many label values as there are allocations: only the kind of source is kept."""
    return limit_source if limit_source in LIMIT_SOURCES else "allocation"


def _link(status: SiteStatus) -> Iterator[Family]:
    yield _family(metrics.LINK_PHASE, [((phase.value,), float(phase is status.phase)) for phase in LinkPhase])
    yield _family(metrics.HEARTBEAT_AGE, [((), status.heartbeat_age_s)])
    change_at = status.next_limit_change_at
    yield _family(metrics.NEXT_LIMIT_CHANGE, [((), None if change_at is None else max(0.0, change_at - status.at))])


def _fleet(status: SiteStatus) -> Iterator[Family]:
    """Counts per feeder that has devices of its own; every state and condition is there, so that 0 is seen as 0."""
    states = Counter((device.feeder, device.state) for device in status.devices)
    conditions = Counter((device.feeder, condition) for device in status.devices for condition in device.conditions)
    stale = Counter(device.feeder for device in status.devices if device.is_stale)
    feeders = sorted({feeder for feeder, _ in states})
    yield _family(
        metrics.DEVICES,
        [((feeder, state.value), states[feeder, state]) for feeder in feeders for state in RunState],
    )
    yield _family(
        metrics.DEVICES_CONDITION,
        [((feeder, condition.value), conditions[feeder, condition]) for feeder in feeders for condition in Condition],
    )
    yield _family(metrics.DEVICES_STALE, [((feeder,), stale[feeder]) for feeder in feeders])


def _family(metric: Metric, samples: Iterable[tuple[tuple[str, ...], float | None]]) -> Family:
    """Unknown values have no sample: 0 would be a lie and NaN poisons every sum."""
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        if value is not None:
            family.add_metric([label_value(text) for text in labels], value)
    return family
