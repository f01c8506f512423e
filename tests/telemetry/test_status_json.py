"""The status as JSON: nothing is lost on the way there and back, nothing hostile gets through."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, TypeVar, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curtaild.core.limits import UNLIMITED, Limit
from curtaild.core.status import DeviceStatus, FeederStatus, SiteStatus
from curtaild.telemetry.labels import MOST_CHARACTERS
from curtaild.telemetry.status_json import AT_ONCE, BadStatus, encode, from_json, to_json
from telemetry.sites import THE_DEVICES, THE_SITE, THE_STATUS, fleet

_T = TypeVar("_T")
_numbers = st.floats(allow_nan=False, allow_infinity=False)
_limits = st.builds(Limit, st.floats(min_value=0, allow_nan=False, allow_infinity=False)) | st.just(UNLIMITED)


def _any(kind: type[_T], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[_T]:
    """Any instance of a dataclass, its numbers finite: JSON has no others."""
    hints = get_type_hints(kind)
    numbers = {name: _numbers for name, hint in hints.items() if hint is float}
    perhaps = {name: st.none() | _numbers for name, hint in hints.items() if hint == float | None}
    return st.builds(kind, **{**numbers, **perhaps, **given})


def _statuses() -> st.SearchStrategy[SiteStatus]:
    counts = st.integers(0, 10**6)
    feeders = _any(FeederStatus, ceiling=_limits, devices=counts)
    words = st.text(st.characters(categories=["L", "N"]), max_size=MOST_CHARACTERS)  # what is not printable is replaced
    devices = _any(DeviceStatus, fault=st.none() | words)
    return _any(
        SiteStatus,
        actuations_in_flight=counts,
        feeders=st.lists(feeders, max_size=3),
        devices=st.lists(devices, max_size=3),
    )


@given(_statuses())
def test_every_status_comes_back_as_it_was(status: SiteStatus) -> None:
    assert from_json(json.loads(b"".join(encode(status)))) == status


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, AT_ONCE + 1])
def test_the_pieces_make_one_object_of_any_length(count: int) -> None:
    status = fleet(count)
    assert json.loads(b"".join(encode(status))) == to_json(status)


def test_devices_can_be_left_out() -> None:
    body = json.loads(b"".join(encode(THE_STATUS, devices=False)))
    assert "devices" not in body
    assert from_json(body) == replace(THE_STATUS, devices=[])


def test_zero_is_a_limit_and_null_is_none() -> None:
    zero = THE_SITE._replace(ceiling=Limit(0.0), limit_w=0.0)
    free = THE_SITE._replace(ceiling=UNLIMITED)
    body = to_json(replace(THE_STATUS, feeders=[zero, free]))
    assert [feeder["ceiling_w"] for feeder in body["feeders"]] == [0.0, None]
    assert [feeder.ceiling for feeder in from_json(body).feeders] == [Limit(0.0), UNLIMITED]


def test_no_word_that_is_not_json() -> None:
    wild = replace(THE_STATUS, heartbeat_age_s=math.inf, devices=[THE_DEVICES[0]._replace(rate=math.nan)])
    text = b"".join(encode(wild)).decode()
    body = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (body["heartbeat_age_s"], body["devices"][0]["rate"]) == (None, None)


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (("at_s",), "noon", "status.at_s should be a number"),
        (("at_s",), True, "status.at_s should be a number"),
        (("at_s",), float("nan"), "status.at_s should be a finite number"),
        (("at_s",), 10**400, "status.at_s should be a number of sane size"),
        (("phase",), "asleep", "status.phase should be one of starting, limited, unlimited, failsafe"),
        (("phase",), ["limited"], "status.phase should be one of starting, limited, unlimited, failsafe"),
        (("root",), 7, "status.root should be text"),
        (("feeders",), {}, "status.feeders should be a list"),
        (("feeders", 0), None, "status.feeders[0] should be an object"),
        (("feeders", 1, "ceiling_w"), -1, "status.feeders[1].ceiling_w should not be negative"),
        (("feeders", 0, "devices"), -3, "status.feeders[0].devices should be a whole number, 0 or more"),
        (("feeders", 0, "meter_is_fresh"), 1, "status.feeders[0].meter_is_fresh should be true or false"),
        (("devices", 3, "reserved_w"), None, "status.devices[3].reserved_w should be a number"),
        (("devices", 3, "conditions"), ["tired"], "status.devices[3].conditions should be one of unreachable"),
    ],
)
def test_what_is_not_a_status_is_refused_by_place(place: tuple[str | int, ...], value: object, complaint: str) -> None:
    body: Any = to_json(THE_STATUS)
    holder = body
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    with pytest.raises(BadStatus) as refusal:
        from_json(body)
    assert str(refusal.value).startswith(complaint)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(to_json(THE_STATUS))), inner),
        max_leaves=20,
    )
)
def test_any_json_is_a_status_or_refused(body: object) -> None:
    with pytest.raises(BadStatus):
        from_json(body)


def test_a_lacking_key_is_named() -> None:
    body = to_json(THE_STATUS)
    del body["devices"][2]["state"]
    with pytest.raises(BadStatus, match=r"status\.devices\[2\] lacks state"):
        from_json(body)
