"""The device section: right values, valid in both formats, whatever devices claim."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curtaild.core.events import Condition
from curtaild.telemetry import Telemetry
from curtaild.telemetry.devices import AT_ONCE
from curtaild_drivers.contract import DeviceId, FeederId, Identity, RunState
from telemetry.exposed import exposed
from telemetry.sites import S19, THE_DEVICES, THE_STATUS, at_work, device, fleet


@pytest.mark.parametrize("openmetrics", [False, True])
def test_a_device_shows_its_values(openmetrics: bool) -> None:
    metrics = exposed(at_work(), openmetrics)
    where = {"device": "rig1", "feeder": "container1"}
    assert metrics("device_power_watts", **where) == 3_250.5
    assert metrics("device_reserved_watts", **where) == 3_300
    assert metrics("device_rated_watts", **where) == 3_500
    assert metrics("device_setpoint_watts", **where) == 3_250
    assert metrics("device_rate", **where) == 1.04e14
    assert metrics("device_temperature_celsius", **where) == 64.5
    assert metrics("device_state", **where) == 5
    assert metrics("device_stale", **where) == 0
    assert metrics("device_reading_age_seconds", **where) == 2.25
    assert metrics("device_info", **where, driver="asic", make="Antminer", model="S19j Pro", firmware="stock") == 1


def test_a_device_in_trouble_shows_what_is_the_matter_and_no_power() -> None:
    metrics = exposed(at_work())
    where = {"device": "rig4", "feeder": "container1"}
    assert metrics.get("device_power_watts", **where) is None
    assert metrics("device_stale", **where) == 1
    assert metrics("device_condition", **where, condition="unreachable") == 1
    assert metrics.get("device_condition", **where, condition="diverged") is None


def test_a_device_that_says_that_something_is_the_matter_is_counted_by_its_words_and_by_its_state() -> None:
    telemetry = Telemetry("1")
    unheard = device("rig1")._replace(fault="another program sets the limit of GPU 3")
    telemetry.update(replace(THE_STATUS, devices=[unheard, device("rig2", RunState.FAULT), device("rig3")]))
    metrics = exposed(telemetry)
    told = [metrics.get("device_fault", device=f"rig{number}", feeder="container1") for number in (1, 2, 3)]
    assert told == [1, 1, None]


def test_a_condition_told_twice_does_not_void_the_scrape() -> None:
    telemetry = Telemetry("1")
    twice = device("rig1", RunState.FAULT, Condition.DRIFTED, Condition.DRIFTED)
    telemetry.update(replace(THE_STATUS, devices=[twice]))
    assert len(exposed(telemetry).labels_of("device_condition")) == 1


@pytest.mark.parametrize(
    ("watts", "rate"),
    [(0.0, 0.86), (12_345_678.0, 1.0), (3_250.123, 1.23456e14)],
    ids=["a GPU node", "a downstream site of 12 MW", "a miner"],
)
def test_values_of_every_size_keep_their_digits(watts: float, rate: float) -> None:
    telemetry = Telemetry("1")
    telemetry.update(replace(THE_STATUS, devices=[THE_DEVICES[0]._replace(power_w=watts, rate=rate)]))
    metrics = exposed(telemetry)
    assert metrics("device_power_watts", device="rig1", feeder="container1") == watts
    assert metrics("device_rate", device="rig1", feeder="container1") == rate


def test_labels_follow_the_fleet_as_it_changes() -> None:
    telemetry = Telemetry("1")
    telemetry.update(replace(THE_STATUS, devices=THE_DEVICES[:2]))
    assert [labels["device"] for labels in exposed(telemetry).labels_of("device_state")] == ["rig1", "rig2"]
    moved = THE_DEVICES[1]._replace(feeder=FeederId("row7"))
    telemetry.update(replace(THE_STATUS, devices=[moved, THE_DEVICES[2]]))
    assert exposed(telemetry).labels_of("device_state") == [
        {"device": "rig2", "feeder": "row7"},
        {"device": "rig3", "feeder": "container1"},
    ]


def test_a_fleet_longer_than_one_piece_is_whole() -> None:
    telemetry = Telemetry("1")
    status = fleet(2 * AT_ONCE + 1)
    telemetry.update(status)
    shown = {labels["device"] for labels in exposed(telemetry).labels_of("device_reserved_watts")}
    assert shown == {each.id for each in status.devices}


def test_a_claimed_model_of_a_megabyte_is_cut_and_cannot_forge_lines() -> None:
    telemetry = Telemetry("1")
    forged = 'S19"} 1\ncurtaild_feeder_limit_watts{feeder="site"} 0\n'
    telemetry.describe(DeviceId("rig1"), "asic", replace(S19, model=forged, make="A" * 1_000_000))
    telemetry.update(THE_STATUS)
    metrics = exposed(telemetry)
    assert metrics("feeder_limit_watts", feeder="site") == 12_000
    (info,) = [labels for labels in metrics.labels_of("device_info") if labels["device"] == "rig1"]
    assert len(info["make"]) == 128
    assert info["model"] == forged.replace("\n", "\N{REPLACEMENT CHARACTER}")


@given(
    name=st.text(st.characters(), min_size=1, max_size=30),
    model=st.text(st.characters(), max_size=30),
    openmetrics=st.booleans(),
)
def test_no_name_and_no_claim_breaks_the_exposition(name: str, model: str, openmetrics: bool) -> None:
    telemetry = Telemetry("1")
    telemetry.describe(DeviceId(name), "asic", Identity("make", model, "stock"))
    telemetry.update(replace(THE_STATUS, devices=[THE_DEVICES[0]._replace(id=DeviceId(name))]))
    (labels,) = exposed(telemetry, openmetrics).labels_of("device_info")
    assert labels["device"] == name.encode("utf-8", "replace").decode()
    assert labels["model"].isprintable()
