"""The per-device section of `/metrics`: plain gauges, rendered without prometheus_client, which needs over a second
for 10,000 devices. The lines' label parts are kept between scrapes. Runs in the rendering thread only.

The text is the same in the Prometheus and the OpenMetrics format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter

from curtaild.core.status import DeviceStatus
from curtaild.courtesy import stand_aside
from curtaild.telemetry import metrics
from curtaild.telemetry.labels import claim, label
from curtaild.telemetry.metrics import STATE_CODES, Metric
from curtaild_drivers.contract import DeviceId, FeederId, Identity, Seconds

AT_ONCE = 1_000
"""Devices rendered before the event loop is let in: about half a millisecond of work."""

Values = Callable[[Sequence[DeviceStatus]], Iterable[float | None]]


def _attribute(name: str) -> Values:
    get: Callable[[DeviceStatus], float | None] = attrgetter(name)
    return lambda devices: map(get, devices)


def _states(devices: Sequence[DeviceStatus]) -> Iterable[float | None]:
    return [STATE_CODES[device.state] for device in devices]


def _ages(at: Seconds) -> Values:
    return lambda devices: [device.age_s(at) for device in devices]


_GAUGES: tuple[tuple[Metric, Values], ...] = (
    (metrics.DEVICE_POWER, _attribute("power_w")),
    (metrics.DEVICE_RESERVED, _attribute("reserved_w")),
    (metrics.DEVICE_RATED, _attribute("rated_w")),
    (metrics.DEVICE_SETPOINT, _attribute("setpoint_w")),
    (metrics.DEVICE_RATE, _attribute("rate")),
    (metrics.DEVICE_TEMPERATURE, _attribute("temperature_c")),
    (metrics.DEVICE_STATE, _states),
    (metrics.DEVICE_STALE, _attribute("is_stale")),
)


def info_labels(driver: str, identity: Identity | None) -> str:
    """The part of a device's info line that says who it is. Nothing secret: no serial, address or credential."""
    make, model, firmware = (identity.make, identity.model, identity.firmware) if identity else ("", "", "")
    told = (("driver", driver), ("make", make), ("model", model), ("firmware", firmware))
    return ",".join(label(name, claim(text)) for name, text in told)


_NOT_DESCRIBED = info_labels("", None)


class DeviceSection:
    """Renders devices, keeping their label parts for as long as the fleet is the same."""

    def __init__(self) -> None:
        self._fleet: list[tuple[DeviceId, FeederId]] = []
        self._labels: list[str] = []

    def render(self, devices: Sequence[DeviceStatus], infos: Mapping[DeviceId, str], at: Seconds) -> Iterator[bytes]:
        """The section as of `at`, in pieces; `infos` are the `info_labels` by device."""
        labels = self._labels_of(devices)
        for metric, values in (*_GAUGES, (metrics.DEVICE_AGE, _ages(at))):
            yield _header(metric)
            yield from _in_parts(devices, labels, partial(_gauge_lines, metric.name, values))
        yield _header(metrics.DEVICE_CONDITION)
        yield from _in_parts(devices, labels, _condition_lines)
        yield _header(metrics.DEVICE_FAULT)
        yield from _in_parts(devices, labels, _fault_lines)
        yield _header(metrics.DEVICE_INFO)
        yield from _in_parts(devices, labels, partial(_info_lines, infos))

    def _labels_of(self, devices: Sequence[DeviceStatus]) -> list[str]:
        fleet = [(device.id, device.feeder) for device in devices]
        if fleet != self._fleet:
            self._labels = [f"{{{label('device', device)},{label('feeder', feeder)}" for device, feeder in fleet]
            self._fleet = fleet
        return self._labels


def _in_parts(
    devices: Sequence[DeviceStatus],
    labels: Sequence[str],
    lines: Callable[[Sequence[DeviceStatus], Sequence[str]], list[str]],
) -> Iterator[bytes]:
    for start in range(0, len(devices), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        yield "".join(lines(devices[part], labels[part])).encode()
        stand_aside()


def _header(metric: Metric) -> bytes:
    return f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind.value}\n".encode()


def _gauge_lines(name: str, values: Values, devices: Sequence[DeviceStatus], labels: Sequence[str]) -> list[str]:
    # Eight digits: a downstream site draws megawatts, a GPU node's rate is a fraction, an ASIC miner's about 1e14.
    return [
        f"{name}{part}}} {value:.8g}\n"
        for part, value in zip(labels, values(devices), strict=True)
        if value is not None
    ]


def _condition_lines(devices: Sequence[DeviceStatus], labels: Sequence[str]) -> list[str]:
    name = metrics.DEVICE_CONDITION.name
    return [
        f'{name}{part},condition="{condition.value}"}} 1\n'
        for part, device in zip(labels, devices, strict=True)
        for condition in dict.fromkeys(device.conditions)  # the same line twice would void the whole scrape
    ]


def _fault_lines(devices: Sequence[DeviceStatus], labels: Sequence[str]) -> list[str]:
    name = metrics.DEVICE_FAULT.name
    return [f"{name}{part}}} 1\n" for part, device in zip(labels, devices, strict=True) if device.is_at_fault]


def _info_lines(infos: Mapping[DeviceId, str], devices: Sequence[DeviceStatus], labels: Sequence[str]) -> list[str]:
    name = metrics.DEVICE_INFO.name
    return [
        f"{name}{part},{infos.get(device.id, _NOT_DESCRIBED)}}} 1\n"
        for part, device in zip(labels, devices, strict=True)
    ]
