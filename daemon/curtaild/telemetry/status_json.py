"""The site's status as JSON and back: what `/status` answers and `curtaild status` reads. Keys carry their unit.

One object: the site's own keys, `feeders` and `devices` as lists, described in docs/metrics.md. Unknown is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, TypeAlias, TypeVar

from curtaild.core.events import ActuationStage, Condition, LinkPhase
from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.status import DeviceStatus, FeederStatus, SiteStatus
from curtaild.courtesy import stand_aside
from curtaild.grid.broker_link import BrokerState
from curtaild.telemetry.labels import claim
from curtaild_drivers.contract import DeviceId, FeederId, RunState, Seconds

Json: TypeAlias = dict[str, Any]
_E = TypeVar("_E", bound=Enum)

AT_ONCE = 250
"""Devices encoded before the event loop is let in: about a millisecond of work."""


class BadStatus(ValueError):
    """The JSON is not a status. The text names the key and what it should be."""


def to_json(status: SiteStatus, devices: bool = True, links: Sequence[Json] = ()) -> Json:
    """`status` as plain JSON values; without `devices` that key is left out. `links`: what `link_json` made."""
    body = _site(status)
    body["links"] = list(links)
    body["feeders"] = [_feeder(feeder) for feeder in status.feeders]
    if devices:
        body["devices"] = [_device(device, status.at) for device in status.devices]
    return body


def link_json(link: BrokerState, now: Seconds) -> Json:
    """How the link to one broker stands."""
    return {
        "connection": link.connection,
        "broker": link.url,
        "connected": link.connected,
        "for_s": max(0.0, now - link.since),
        "last_error": link.last_error,
        "is_heard": link.echo_ok,
        "reconnects": link.reconnects_total,
        "received": link.received_total,
        "rejected": sum(link.rejected_total.values()),
        "dropped": link.dropped_total,
    }


def encode(status: SiteStatus, devices: bool = True, links: Sequence[Json] = ()) -> Iterator[bytes]:
    """`to_json`, encoded in pieces: one call of the encoder for a whole fleet would hold the interpreter lock."""
    yield json.dumps(to_json(status, False, links), allow_nan=False)[:-1].encode()
    if devices:
        yield b', "devices": ['
        for start in range(0, len(status.devices), AT_ONCE):
            part = status.devices[start : start + AT_ONCE]
            text = ",\n".join([json.dumps(_device(device, status.at), allow_nan=False) for device in part])
            yield (",\n" + text if start else text).encode()
            stand_aside()
        yield b"]"
    yield b"}\n"


def from_json(body: object) -> SiteStatus:
    """The status that `body` (as `json.loads` gives it) speaks of; raises `BadStatus`. Absent devices are none."""
    site = _Fields(body, "status")
    return SiteStatus(
        at=site.number("at_s"),
        phase=site.choice("phase", LinkPhase),
        phase_reason=site.text("phase_reason"),
        root=FeederId(site.text("root")),
        heartbeat_age_s=site.number_or_none("heartbeat_age_s"),
        allocation_id=site.text_or_none("allocation_id"),
        flexible_up_w=site.number("flexible_up_w"),
        flexible_down_w=site.number("flexible_down_w"),
        actuations_in_flight=site.count("actuations_in_flight"),
        next_limit_change_at=site.number_or_none("next_limit_change_at_s"),
        feeders=[_read_feeder(each) for each in site.objects("feeders")],
        devices=[_read_device(each) for each in site.objects("devices")] if site.has("devices") else [],
    )


def _site(status: SiteStatus) -> Json:
    change_at = status.next_limit_change_at
    return {
        "at_s": status.at,
        "phase": status.phase.value,
        "phase_reason": status.phase_reason,
        "root": status.root,
        "heartbeat_age_s": _finite(status.heartbeat_age_s),
        "allocation_id": status.allocation_id,
        "flexible_up_w": _finite(status.flexible_up_w),
        "flexible_down_w": _finite(status.flexible_down_w),
        "actuations_in_flight": status.actuations_in_flight,
        "next_limit_change_at_s": _finite(change_at),
        "next_limit_change_in_s": None if change_at is None else _finite(max(0.0, change_at - status.at)),
    }


def _feeder(feeder: FeederStatus) -> Json:
    return {
        "id": feeder.id,
        "parent": feeder.parent,
        "rating_w": _finite(feeder.rating_w),
        "limit_w": _finite(feeder.limit_w),
        "ceiling_w": feeder.ceiling.watts if isinstance(feeder.ceiling, Limit) else None,
        "limit_source": feeder.limit_source,
        "metered_w": _finite(feeder.metered_w),
        "meter_is_fresh": feeder.meter_is_fresh,
        "meter_age_s": _finite(feeder.meter_age_s),
        "measured_w": _finite(feeder.measured_w),
        "reserved_w": _finite(feeder.reserved_w),
        "planned_w": _finite(feeder.planned_w),
        "auxiliary_w": _finite(feeder.auxiliary_w),
        "headroom_w": _finite(feeder.headroom_w),
        "deficit_w": _finite(feeder.deficit_w),
        "curtailed_w": _finite(feeder.curtailed_w),
        "devices": feeder.devices,
    }


def _device(device: DeviceStatus, at: Seconds) -> Json:
    return {
        "id": device.id,
        "feeder": device.feeder,
        "state": device.state.value,
        "power_w": _finite(device.power_w),
        "reserved_w": _finite(device.reserved_w),
        "rated_w": _finite(device.rated_w),
        "rate": _finite(device.rate),
        "temperature_c": _finite(device.temperature_c),
        "setpoint": device.setpoint,
        "setpoint_w": _finite(device.setpoint_w),
        "confirmed": device.confirmed,
        "actuation": None if device.actuation is None else device.actuation.value,
        "is_stale": device.is_stale,
        "drawn_at_s": _finite(device.drawn_at),
        "age_s": _finite(device.age_s(at)),
        "conditions": [condition.value for condition in device.conditions],
        "fault": None if device.fault is None else claim(device.fault),
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: they are unknown."""
    return value if value is not None and math.isfinite(value) else None


def _read_feeder(fields: _Fields) -> FeederStatus:
    ceiling_w = fields.number_or_none("ceiling_w")
    if ceiling_w is not None and ceiling_w < 0:
        raise BadStatus(f"{fields.place}.ceiling_w should not be negative")
    parent = fields.text_or_none("parent")
    return FeederStatus(
        id=FeederId(fields.text("id")),
        parent=None if parent is None else FeederId(parent),
        rating_w=fields.number("rating_w"),
        limit_w=fields.number("limit_w"),
        ceiling=UNLIMITED if ceiling_w is None else Limit(ceiling_w),
        limit_source=fields.text("limit_source"),
        metered_w=fields.number_or_none("metered_w"),
        meter_is_fresh=fields.flag("meter_is_fresh"),
        meter_age_s=fields.number_or_none("meter_age_s"),
        measured_w=fields.number("measured_w"),
        reserved_w=fields.number("reserved_w"),
        planned_w=fields.number("planned_w"),
        auxiliary_w=fields.number("auxiliary_w"),
        headroom_w=fields.number("headroom_w"),
        deficit_w=fields.number("deficit_w"),
        curtailed_w=fields.number("curtailed_w"),
        devices=fields.count("devices"),
    )


def _read_device(fields: _Fields) -> DeviceStatus:
    return DeviceStatus(
        id=DeviceId(fields.text("id")),
        feeder=FeederId(fields.text("feeder")),
        state=fields.choice("state", RunState),
        power_w=fields.number_or_none("power_w"),
        reserved_w=fields.number("reserved_w"),
        rated_w=fields.number("rated_w"),
        rate=fields.number_or_none("rate"),
        temperature_c=fields.number_or_none("temperature_c"),
        setpoint=fields.text_or_none("setpoint"),
        setpoint_w=fields.number_or_none("setpoint_w"),
        confirmed=fields.text_or_none("confirmed"),
        actuation=None if fields.is_null("actuation") else fields.choice("actuation", ActuationStage),
        is_stale=fields.flag("is_stale"),
        drawn_at=fields.number_or_none("drawn_at_s"),
        conditions=tuple(fields.choices("conditions", Condition)),
        fault=fields.text_or_none("fault"),
    )


class _Fields:
    """One JSON object at `place`; each getter raises `BadStatus` with the place and what should be there."""

    def __init__(self, body: object, place: str) -> None:
        if not isinstance(body, dict):
            raise BadStatus(f"{place} should be an object")
        self._body: Json = body
        self.place = place

    def has(self, key: str) -> bool:
        return key in self._body

    def is_null(self, key: str) -> bool:
        return self._get(key) is None

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise self._bad(key, "text")
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self.is_null(key) else self.text(key)

    def number(self, key: str) -> float:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._bad(key, "a number")
        try:
            number = float(value)
        except OverflowError:
            raise self._bad(key, "a number of sane size") from None
        if not math.isfinite(number):
            raise self._bad(key, "a finite number")
        return number

    def number_or_none(self, key: str) -> float | None:
        return None if self.is_null(key) else self.number(key)

    def count(self, key: str) -> int:
        value = self._get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._bad(key, "a whole number, 0 or more")
        return value

    def flag(self, key: str) -> bool:
        value = self._get(key)
        if not isinstance(value, bool):
            raise self._bad(key, "true or false")
        return value

    def choice(self, key: str, words: type[_E]) -> _E:
        return self._word(key, self._get(key), words)

    def choices(self, key: str, words: type[_E]) -> Iterator[_E]:
        return (self._word(key, value, words) for value in self._list(key))

    def objects(self, key: str) -> Iterator[_Fields]:
        return (_Fields(each, f"{self.place}.{key}[{index}]") for index, each in enumerate(self._list(key)))

    def _list(self, key: str) -> Sequence[object]:
        value = self._get(key)
        if not isinstance(value, list):
            raise self._bad(key, "a list")
        return value

    def _word(self, key: str, value: object, words: type[_E]) -> _E:
        try:
            return words(value)
        except ValueError:
            raise self._bad(key, "one of " + ", ".join(str(word.value) for word in words)) from None

    def _get(self, key: str) -> object:
        if key not in self._body:
            raise BadStatus(f"{self.place} lacks {key}")
        value: object = self._body[key]
        return value

    def _bad(self, key: str, should: str) -> BadStatus:
        return BadStatus(f"{self.place}.{key} should be {should}")
