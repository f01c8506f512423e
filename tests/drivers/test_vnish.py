"""VNish: presets as the machine has tuned them, a token that may end at any moment, and a yes that says nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    Device,
    Identity,
    OperatingPoint,
    Outcome,
    OutcomeUnknown,
    Refused,
    RunState,
    Unreachable,
    Unsupported,
)
from curtaild_drivers.registry import OpenContext
from drivers.tiny_servers import CLOSE, HANG, HOST, IN_TIME, Answer, HttpAsked, Server, http_answer, plain_http

OFF = OperatingPoint("off", 50, 0.0)
LOW = OperatingPoint("2300", 2300, 87e12)
HIGH = OperatingPoint("2970", 2970, 100e12)

PRESETS = [
    {"name": "disabled", "pretty": "Disabled", "status": "untuned", "modded_psu_required": False},
    {"name": "2970", "pretty": "2970 watt ~ 100 TH", "status": "tuned"},
    {"name": "2300", "pretty": "2300 watt ~ 87 TH", "status": "tuned"},
    {"name": "1740", "pretty": "1740 watt ~ 65 TH", "status": "untuned"},
    {"name": "", "pretty": "900 watt ~ 10 TH", "status": "tuned"},
    {"name": "x", "pretty": "nan watt ~ 1 TH", "status": "tuned"},
    "noise",
]


@dataclass
class Miner:
    """The far end's state. `verdict` replaces the answer to a command that carries a good token."""

    state: str = "mining"
    hr: Any = 99_000.0
    watts: Any = 2950
    preset: str = "2970"
    password: str = "admin"
    scheme: str = "Bearer "
    obeys: bool = True
    restart_required: bool = False
    presets: Any = field(default_factory=lambda: PRESETS)
    throttled: Any = None  # as releases before 1.3.3
    token: str = ""
    unlocked: int = 0
    verdict: Answer | None = None
    obeyed: list[Any] = field(default_factory=list)
    wire: Server = field(default_factory=lambda: Server(0))

    def answer(self, asked: HttpAsked) -> Answer:
        if asked.page == "unlock":
            if asked.body != {"pw": self.password}:
                return http_answer({"err": "wrong password"}, 401)
            self.unlocked += 1
            self.token = f"token{self.unlocked}"
            return {"token": self.token}
        if asked.page == "summary":
            return {"miner": self.summary()}
        if asked.page == "info":
            return {
                "miner": "Antminer S19j Pro",
                "fw_name": "Vnish",
                "fw_version": "1.2.6",
                "serial": "N/A",
                "system": {"network_status": {"mac": "FE:07:26:3C:BE:1B"}},
            }
        if f"\r\nAuthorization: {self.scheme}{self.token}\r\n" not in asked.head or not self.token:
            return http_answer({"err": "unauthorized"}, 401)
        if asked.method == "GET":
            settings = {"miner": {"overclock": {"preset": self.preset}, "pools": [{"pass": "secret"}]}}
            return http_answer(self.presets) if asked.page == "presets" else settings
        self.obeyed.append(asked.body or asked.page)
        if self.verdict is not None:
            return self.verdict
        return self._carry_out(asked)

    def _carry_out(self, asked: HttpAsked) -> Answer:
        if asked.page == "settings":
            if self.obeys:
                self.preset = asked.body["miner"]["overclock"]["preset"]
            return {"restart_required": self.restart_required, "reboot_required": False}
        if asked.page == "throttle":
            self.throttled = asked.body["percent"]
            return http_answer(b"")
        self.state = {"stop": "stopped", "start": "starting", "restart": "restarting"}[asked.page]
        self.hr, self.watts = 0.0, 35
        return http_answer(b"")

    def summary(self) -> dict[str, Any]:
        return {
            "miner_status": {
                "miner_state": self.state,
                "miner_state_time": 3_000,
                "description": "chain 1 lost",
                **({} if self.throttled is None else {"throttled": self.throttled}),
            },
            "miner_type": "Antminer S19j Pro (Vnish 1.2.6)",
            "hr_realtime": self.hr,
            "power_consumption": self.watts,
            "power_usage": 29.5,
            "chip_temp": {"min": 50, "max": 65},
        }


@asynccontextmanager
async def running(miner: Miner, password: str | None = None, **settings: Any) -> AsyncIterator[Device]:
    assert DRIVER.open_device is not None
    async with plain_http(miner.answer) as miner.wire:
        chosen = {"http_port": miner.wire.port, **IN_TIME}
        secrets = {"password": password} if password else {}
        known = Identity("Antminer", "S19j Pro", "vnish")
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen | settings), OpenContext(remembered=known, secrets=secrets)
        )
        yield device
        await device.close()


async def test_a_reading_is_one_request_once_the_preset_is_known() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        before = len(miner.wire.asked)
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.rate, reading.point_key, reading.temperature_c) == (
        RunState.RUNNING,
        2950.0,
        99e12,
        "2970",
        65.0,
    )
    assert len(miner.wire.asked) == before + 1


async def test_points_are_off_and_what_it_has_tuned() -> None:
    async with running(Miner()) as device:
        points = await device.operating_points()
    assert [(p.key, p.draw_w, p.rate) for p in points.points] == [
        ("off", 50.0, 0.0),
        ("2300", 2300.0, 87e12),
        ("2970", 2970.0, 100e12),
    ]


async def test_what_it_is_set_to_is_a_point_however_it_came_to_be() -> None:
    async with running(Miner(preset="disabled")) as device:
        points = await device.operating_points()
        assert (points.highest.key, points.highest.draw_w) == ("disabled", 3050.0), "as the model is rated"
    async with running(Miner(preset="1740")) as device:
        assert "1740" in {point.key for point in (await device.operating_points()).points}


async def test_a_warm_stop_is_one_request() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        before = len(miner.wire.asked)
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
        assert len(miner.wire.asked) == before + 1
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.point_key) == (RunState.ASLEEP, 35.0, "off")


async def test_a_preset_is_sent_by_its_name_alone() -> None:
    async with running(miner := Miner()) as device:
        assert await device.apply(LOW) is Outcome.ACKNOWLEDGED
        assert (await device.read()).point_key == "2300"
    assert miner.obeyed == [{"miner": {"overclock": {"preset": "2300"}}}]


async def test_mining_is_restarted_only_where_it_says_that_it_must() -> None:
    async with running(miner := Miner(restart_required=True)) as device:
        await device.apply(LOW)
    assert miner.obeyed == [{"miner": {"overclock": {"preset": "2300"}}}, "restart"]


async def test_what_is_there_already_is_not_written() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        assert await device.apply(HIGH) is Outcome.ALREADY_THERE
    assert miner.obeyed == []


@pytest.mark.parametrize("key", ["2500", "1740", "disabled"])
async def test_what_is_off_its_ladder_or_would_tune_for_hours_is_never_sent(key: str) -> None:
    async with running(miner := Miner()) as device:
        with pytest.raises(Unsupported):
            await device.apply(OperatingPoint(key, 2500, 1.0))
    assert miner.obeyed == []


async def test_it_wakes_as_it_slept_and_another_preset_is_chosen_before() -> None:
    async with running(miner := Miner(preset="2300")) as device:
        await device.apply(OFF)
        await device.read()
        await device.apply(LOW)
        assert miner.obeyed == ["stop", "start"]
        await device.apply(OFF)
        await device.apply(HIGH)
    assert miner.obeyed[2:] == ["stop", {"miner": {"overclock": {"preset": "2970"}}}, "start"]


async def test_a_yes_to_a_preset_that_was_not_taken_is_no_success() -> None:
    async with running(Miner(obeys=False)) as device:
        with pytest.raises(Refused, match="stays at '2970'"):
            await device.apply(LOW)


async def test_a_token_that_has_ended_is_replaced_within_the_same_call() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        miner.token = "somebody rebooted it"
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
    assert (miner.obeyed, miner.unlocked) == (["stop"], 2)


async def test_an_older_release_wants_the_bare_token() -> None:
    async with running(miner := Miner(scheme="")) as device:
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
    assert miner.obeyed == ["stop"]


async def test_a_wrong_password_reads_and_does_not_write() -> None:
    async with running(miner := Miner(password="other")) as device:
        reading = await device.read()
        assert (reading.state, reading.point_key) == (RunState.RUNNING, None)
        with pytest.raises(AuthFailed):
            await device.apply(OFF)
    assert miner.obeyed == []


async def test_a_password_from_the_site_file() -> None:
    async with running(miner := Miner(password="other"), password="other") as device:
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
    assert miner.obeyed == ["stop"]


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        (http_answer({"err": "CGMiner err: failed-to-activate-pause-mode"}), Refused),
        (http_answer({"err": "no such thing"}, 400), Refused),
        ({"success": False}, Refused),
        (http_answer({"err": "CGMiner err"}, 500), OutcomeUnknown),
        (http_answer(b"<html>"), OutcomeUnknown),
        (HANG, OutcomeUnknown),
        (CLOSE, OutcomeUnknown),
    ],
)
async def test_only_success_is_success(verdict: Answer, error: type[Exception]) -> None:
    async with running(miner := Miner(verdict=verdict)) as device:
        await device.read()
        with pytest.raises(error):
            await device.apply(OFF)
    assert miner.obeyed == ["stop"], "one attempt"


async def test_offline_with_a_token_in_hand_is_unreachable() -> None:
    async with running(Miner()) as device:
        await device.read()
    for call in (device.read(), device.apply(OFF)):
        with pytest.raises(Unreachable):
            await call


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"state": "stopped", "hr": 90_000.0}, RunState.RUNNING),
        ({"state": "stopped", "hr": 0}, RunState.ASLEEP),
        ({"state": "paused", "hr": None}, RunState.ASLEEP),
        ({"state": "auto-tuning"}, RunState.STARTING),
        ({"state": "shutting-down", "hr": 0}, RunState.STARTING),
        ({"state": "failure", "hr": 0}, RunState.FAULT),
        ({"hr": 0}, RunState.IDLE),
        ({"hr": "nan"}, RunState.UNKNOWN),
        ({"state": "", "hr": 0}, RunState.UNKNOWN),
    ],
)
async def test_states(changed: dict[str, Any], state: RunState) -> None:
    async with running(Miner(**changed)) as device:
        reading = await device.read()
    assert reading.state is state
    assert (reading.fault is not None) == (state is RunState.FAULT)


@pytest.mark.parametrize("watts", ["nan", -5, 0, 10**400, None, True])
async def test_nonsense_watts_are_unknown(watts: Any) -> None:
    async with running(Miner(watts=watts)) as device:
        assert (await device.read()).power_w is None


async def test_another_firmware_at_the_same_address_is_noticed() -> None:
    miner = Miner()
    miner.answer = lambda asked: {"miner": {"miner_type": "LUXminer"}}  # type: ignore[method-assign]
    async with running(miner) as device:
        with pytest.raises(BadReply, match="identify it again"):
            await device.read()


async def test_identity() -> None:
    async with running(Miner(), firmware="vnish") as device:
        identity = await device.identify()
    assert identity == Identity("Antminer", "S19j Pro", "vnish", "1.2.6", "FE:07:26:3C:BE:1B", 2970.0)


def held(draw_w: float) -> OperatingPoint:
    return OperatingPoint("limit", draw_w, 0.0, divisible=True)


async def test_from_1_3_3_it_throttles_under_its_preset_in_one_write() -> None:
    async with running(miner := Miner(throttled=100)) as device:
        points = await device.operating_points()
        assert [(point.key, point.draw_w, point.divisible) for point in points.points] == [
            ("off", 50.0, False),
            ("limit", 2970 * 0.2, False),
            ("limit", 2970 * 0.99, True),
            ("2970", 2970.0, False),
        ]
        before = len(miner.wire.asked)
        assert await device.apply(held(1_500)) is Outcome.ACKNOWLEDGED
        assert (miner.obeyed, len(miner.wire.asked) - before) == ([{"percent": 50}], 1)
        reading = await device.read()
        assert (reading.point_key, reading.limit_w) == ("limit", 1_485.0)
        assert await device.apply(held(1_500)) is Outcome.ALREADY_THERE
        assert await device.apply(HIGH) is Outcome.ACKNOWLEDGED
        assert miner.obeyed == [{"percent": 50}, {"percent": 100}]
        assert ((await device.read()).point_key, (await device.read()).limit_w) == ("2970", None)


async def test_presets_over_the_present_one_are_offered_beside_the_throttle() -> None:
    async with running(miner := Miner(throttled=60, preset="2300")) as device:
        points = await device.operating_points()
        assert [point.key for point in points.points] == ["off", "limit", "limit", "2300", "2970"]
        assert await device.apply(HIGH) is Outcome.ACKNOWLEDGED
    assert miner.obeyed == [{"miner": {"overclock": {"preset": "2970"}}}, {"percent": 100}]


async def test_watts_under_its_least_throttle_are_not_sent() -> None:
    async with running(miner := Miner(throttled=100)) as device:
        with pytest.raises(Unsupported):
            await device.apply(held(593.0))
    assert miner.obeyed == []


async def test_a_preset_that_draws_less_than_asked_is_let_run() -> None:
    """It woke in another, or somebody has chosen one since it was asked."""
    async with running(miner := Miner(throttled=50, preset="2300")) as device:
        assert await device.apply(held(2_900.0)) is Outcome.ACKNOWLEDGED
        assert await device.apply(held(2_900.0)) is Outcome.ALREADY_THERE
    assert miner.obeyed == [{"percent": 100}]


async def test_before_1_3_3_there_is_nothing_to_throttle_by() -> None:
    async with running(miner := Miner()) as device:
        with pytest.raises(Unsupported, match=r"1\.3\.3"):
            await device.apply(held(1_500))
    assert miner.obeyed == []


async def test_a_site_may_keep_to_the_presets() -> None:
    async with running(Miner(throttled=100), vnish_lever="presets") as device:
        assert [point.key for point in (await device.operating_points()).points] == ["off", "2300", "2970"]


async def test_it_is_throttled_after_it_was_woken() -> None:
    async with running(miner := Miner(throttled=100, state="stopped", hr=0.0)) as device:
        assert await device.apply(held(1_500)) is Outcome.ACKNOWLEDGED
        assert miner.obeyed == ["start", {"percent": 50}]


@pytest.mark.parametrize("verdict", [http_answer({"err": "busy"}, 400), http_answer({"err": "busy"}, 500), CLOSE, HANG])
async def test_what_befalls_a_throttle(verdict: Answer) -> None:
    is_refused = isinstance(verdict, bytes) and b" 400 " in verdict
    async with running(Miner(throttled=100, verdict=verdict)) as device:
        await device.operating_points()
        with pytest.raises(Refused if is_refused else OutcomeUnknown):
            await device.apply(held(1_500))


@pytest.mark.parametrize("said", [19, 101, "50", 50.5, True, None, [50]])
async def test_nonsense_is_no_throttle(said: Any) -> None:
    async with running(Miner(throttled=said)) as device:
        assert [point.key for point in (await device.operating_points()).points] == ["off", "2300", "2970"]
        assert (await device.read()).point_key == "2970"
