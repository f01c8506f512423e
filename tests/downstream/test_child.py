"""A site below and the line to it: what is said, what is believed, and what happens when either falls silent."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import aiomqtt
import pytest
from joserfc.jwk import ECKey

from curtaild_drivers.contract import (
    AuthFailed,
    Device,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    Refused,
    RunState,
    Unreachable,
    Unsupported,
)
from curtaild_drivers.downstream import child
from downstream.conftest import Opener
from downstream.paper_child import PaperChild
from loop_clock import comes_true
from mosquitto import Mosquitto
from running_site import until

TOPIC = "curtaild/v1/gpu-01"


def at(power_w: float) -> OperatingPoint:
    return OperatingPoint("limit", power_w, 0.5, divisible=True)


async def test_an_allocation_is_taken_then_kept_and_not_said_twice(paper: PaperChild, opener: Opener) -> None:
    device = opener()
    assert await device.apply(at(4_000)) is Outcome.ACKNOWLEDGED
    assert (await device.read()).limit_w == 4_000.0
    assert await device.apply(at(4_000)) is Outcome.ALREADY_THERE
    (said,) = paper.taken
    assert (said["limit_w"], said["valid_until"], said["issuer"]) == (4_000.0, None, "parent")
    await until("it has heard that we live", lambda: paper.heartbeats)
    await device.close()


async def test_points_follow_the_curve_above_what_earns_nothing(paper: PaperChild, opener: Opener) -> None:
    device = opener(base_w=2_000, least_w=3_000, curve=[[1.0, 1.0], [0.5, 0.8]])
    points = [(point.key, point.draw_w, round(point.rate, 3)) for point in (await device.operating_points()).points]
    assert points == [("off", 500.0, 0.0), ("limit", 3_000.0, 0.267), ("limit", 5_000.0, 0.8), ("limit", 8_000.0, 1.0)]
    await device.close()


async def test_a_site_that_offers_no_range_is_only_watched(paper: PaperChild, opener: Opener) -> None:
    paper.says = {"flexible_up_w": 0.0, "flexible_down_w": 0.0}
    device = opener()
    with pytest.raises(Unsupported, match="no range"):
        await device.operating_points()
    assert (await device.read()).power_w == paper.power_w
    await device.close()


async def test_its_range_is_believed_only_once_it_stands_still(
    paper: PaperChild, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that has just started has not asked all its devices yet."""
    device = opener()
    monkeypatch.setattr(child, "STANDS_STILL_S", 3_600.0)  # longer than this takes
    assert isinstance(device, child.Child)
    asked = asyncio.ensure_future(device.operating_points())
    for most_w in range(5_000, 8_000, 500):
        paper.full_w = float(most_w)
        await device.read()
        assert not asked.done()
    paper.full_w = 8_000.0
    await comes_true(lambda: device._status is not None and device._status.most_w == 8_000.0)
    monkeypatch.setattr(child, "STANDS_STILL_S", 0.1)
    assert (await asked).highest.draw_w == 8_000.0
    await device.close()


async def test_it_is_told_again_what_holds_when_it_fell_to_its_failsafe(paper: PaperChild, opener: Opener) -> None:
    device = opener()
    await device.apply(at(7_000))
    paper.state, paper.limit_w, paper.source = "failsafe", paper.failsafe_w, "fail-safe"
    assert (await device.read()).limit_w == 7_000.0, "it may take that up again at any moment"

    while paper.state != "limited":
        await device.read()
    assert paper.limit_w == 7_000.0
    await device.close()


async def test_a_parent_that_restarts_goes_on_from_what_the_broker_keeps(paper: PaperChild, opener: Opener) -> None:
    before = opener()
    await before.apply(at(7_000))
    await before.close()
    (said,) = paper.taken
    ahead = json.dumps({**said, "id": "from-a-clock-ahead", "seq": said["seq"] + 10**9})
    async with aiomqtt.Client("127.0.0.1", paper.port) as another:
        await another.publish(f"{TOPIC}/allocation", ahead, qos=1, retain=True)
    await until("the child has it", lambda: len(paper.taken) == 2)
    paper.state, paper.limit_w = "starting", paper.failsafe_w
    after = opener()
    assert (await after.read()).limit_w == 7_000.0
    await after.apply(at(6_000))
    seqs = [each["seq"] for each in paper.taken]
    assert seqs == sorted(set(seqs)), "each above the one before"
    await after.close()


async def test_zero_is_off_where_the_ordinary_limits_end_above_its_floor(paper: PaperChild, opener: Opener) -> None:
    device = opener(least_w=3_000)
    await device.apply((await device.operating_points()).lowest)
    assert paper.limit_w == 0.0
    reading = await device.read()
    assert (reading.state, reading.point_key, reading.power_w) == (RunState.ASLEEP, "off", 500.0)
    await device.close()


@pytest.mark.parametrize(("flex", "kept", "said"), [
    (None, 0.1, "normal"), (0.25, 0.75, "normal"), (0.25, 0.74, "emergency"), (0.0, 0.99, "emergency")])  # fmt: skip
async def test_what_takes_more_than_its_flex_is_an_emergency_below_too(
    paper: PaperChild, opener: Opener, flex: float | None, kept: float, said: str
) -> None:
    device = opener(flex=flex)
    await device.apply(OperatingPoint("limit", 4_000.0, kept, divisible=True))
    assert [each["class"] for each in paper.taken] == [said]
    await device.close()


async def test_an_emergency_under_the_same_limit_is_said_and_again_to_one_that_had_fallen_back(
    paper: PaperChild, opener: Opener
) -> None:
    device = opener(flex=0.5)
    for kept in (0.6, 0.4, 0.4):
        await device.apply(OperatingPoint("limit", 4_000.0, kept, divisible=True))
        await device.read()
    assert [each["class"] for each in paper.taken] == ["normal", "emergency"]
    paper.state, paper.limit_w, paper.source = "failsafe", paper.failsafe_w, "fail-safe"
    while paper.state != "limited":
        await device.read()
    assert paper.taken[-1]["class"] == "emergency"
    await device.close()


async def test_what_is_signed_is_for_its_topic_alone_and_goes_on_after_a_restart(
    broker: Mosquitto, opener: Opener
) -> None:
    key = ECKey.generate_key("P-256", {"kid": "parent-1"})
    async with PaperChild("gpu-01").at(broker.port) as paper:
        paper.key = key
        device = opener(signing_key=json.dumps(key.as_dict(private=True)))
        assert await device.apply(at(4_000)) is Outcome.ACKNOWLEDGED
        await device.read()
        await until("it has heard that we live", lambda: paper.heartbeats)
        await device.close()
        assert paper.taken[-1]["aud"] == f"{TOPIC}/allocation"
        async with aiomqtt.Client("127.0.0.1", broker.port) as another:
            forged = {**paper.taken[-1], "limit_w": 8_000.0, "seq": paper.taken[-1]["seq"] + 10**9}
            await another.publish(f"{TOPIC}/allocation", json.dumps(forged), qos=1)
        again = opener(signing_key=json.dumps(key.as_dict(private=True)))
        await again.read()
        assert await again.apply(at(4_000)) is Outcome.ALREADY_THERE, "it knows what it signed, and what it did not"
        await again.close()


async def test_a_key_that_is_none_wants_a_person(paper: PaperChild, opener: Opener) -> None:
    device = opener(signing_key="not a key")
    for _ in range(2):
        with pytest.raises(AuthFailed, match="the signing key is neither an EC nor an RSA key"):
            await device.apply(at(4_000))
    assert paper.taken == []
    await device.close()


async def test_a_refusal_is_a_refusal_with_its_words(paper: PaperChild, opener: Opener) -> None:
    device = opener()
    await device.apply(at(5_000))
    paper.refusal = ("CLOCK_SKEW", "issued_at lies 400 s ahead")
    with pytest.raises(Refused, match="CLOCK_SKEW: issued_at lies 400 s ahead"):
        await device.apply(at(4_000))
    assert (await device.read()).limit_w == 5_000.0
    await device.close()


async def test_what_is_not_answered_may_yet_be_followed(paper: PaperChild, opener: Opener) -> None:
    device = opener(write_deadline_s=0.3)
    paper.answers = False
    with pytest.raises(OutcomeUnknown, match=r"did not answer in 0\.3 s; the broker keeps it"):
        await device.apply(at(4_000))
    await device.close()


async def test_a_child_that_died_is_away_at_once_and_back_when_it_is_back(broker: Mosquitto, opener: Opener) -> None:
    device = opener()
    async with PaperChild("gpu-01").at(broker.port) as paper:
        assert (await device.read()).power_w == paper.power_w
        paper.die()
        with pytest.raises(Unreachable, match="gpu-01 is offline: connection lost"):
            await _read_on(device)
    async with PaperChild("gpu-01").at(broker.port) as paper:
        power_w: float = await until("it is back", partial(_power_w, device))
        assert power_w == paper.power_w
    await device.close()


async def test_a_broker_that_was_away_is_found_again(
    broker: Mosquitto, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curtaild_drivers.broker.mqtt.ANSWER_TIMEOUT_S", 0.5)
    device = opener()
    async with PaperChild("gpu-01").at(broker.port):
        await device.apply(at(6_000))
        broker.stop()
        with pytest.raises(
            Unreachable, match=r"mqtt://127\.0\.0\.1|connection lost"
        ):  # by our own link, or its last will
            await _read_on(device)
    broker.start()
    async with PaperChild("gpu-01").at(broker.port) as paper:
        power_w: float = await until("it is heard again", partial(_power_w, device))
        assert power_w == paper.power_w
        while paper.limit_w != 6_000:
            await device.read()
    await device.close()


async def _read_on(device: Device) -> None:
    while True:
        await device.read()


async def _power_w(device: Device) -> float | None:
    try:
        return (await device.read()).power_w
    except Unreachable:
        return None


async def test_a_wrong_name_is_said_to_be_one(paper: PaperChild, opener: Opener) -> None:
    device = opener("gpu-02", read_deadline_s=0.3)
    with pytest.raises(Unreachable, match=r"gpu-02 has said nothing for 0\.3 s: is that its name"):
        await device.read()
    await device.close()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"state": "limited", "limit_w": NaN}',
        b'{"state": "limited", "limit_w": -1, "planned_w": 1, "auxiliary_w": 0, "flexible_up_w": 0}',
        b'{"state": ["limited"], "limit_w": "4000"}',
        b'{"state": "limited", "limit_w": 1e400}',
        b'{"state": "limited", "limit_w": 1' + b"0" * 400 + b"}",
    ],
)
async def test_nonsense_on_its_topics_is_no_message(paper: PaperChild, opener: Opener, nonsense: bytes) -> None:
    device = opener()
    await device.apply(at(5_000))
    async with aiomqtt.Client("127.0.0.1", paper.port) as anybody:
        for topic in ("status", "ack", "allocation"):
            await anybody.publish(f"{TOPIC}/{topic}", nonsense, qos=1)
    reading = await device.read()
    assert (reading.power_w, reading.limit_w) == (5_000.0, 5_000.0)
    assert await device.apply(at(4_500)) is Outcome.ACKNOWLEDGED
    await device.close()


async def test_while_its_own_devices_move_it_counts_with_all_that_it_reserves(
    paper: PaperChild, opener: Opener
) -> None:
    device = opener()
    await device.apply(at(5_000))
    paper.says = {"actuations_in_flight": 3, "reserved_w": 6_800.0}
    async with asyncio.timeout(60):
        while (await device.read()).power_w != 7_000.0:
            pass  # it was on its way already
    await device.close()


async def test_a_broker_that_is_away_or_refuses_us_is_told_apart(tmp_path: Path, opener: Opener) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    folder = tmp_path / "closed"
    folder.mkdir()
    closed = Mosquitto(folder, ("allow_anonymous false", f"password_file {passwords}"))
    closed.start()
    device = opener(broker=closed.url)
    with pytest.raises(AuthFailed, match="the broker refuses us"):
        await device.read()
    await device.close()
    closed.stop()
    device = opener(broker=closed.url)
    with pytest.raises(Unreachable, match="nothing listens"):
        await device.apply(at(4_000))
    await device.close()
