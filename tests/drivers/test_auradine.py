"""Auradine: a power target and a sleep over HTTP under a token, the hashrate over cgminer's port in clear."""

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
from drivers.conftest import Bench
from drivers.rigs import rig_of
from drivers.tiny_servers import CLOSE, HANG, HOST, IN_TIME, Answer, HttpAsked, Server, http_answer, plain_http, rpc

OFF = OperatingPoint("off", 50, 0.0)
NORMAL = OperatingPoint("normal", 3300, 150e12)
BY = "FluxOS-2023-12.27-9bf070ee"


def limit(draw_w: float) -> OperatingPoint:
    return OperatingPoint("limit", draw_w, 1.0, divisible=True)


def told(body: dict[str, Any] | None = None, ok: bool = True, words: str = "") -> dict[str, Any]:
    return {"STATUS": [{"STATUS": "S" if ok else "E", "Code": 1, "Msg": words, "Description": BY}], **(body or {})}


@dataclass
class Miner:
    """The far end's state. `verdict` replaces the answer to a command that carries a good token."""

    mode: dict[str, Any] = field(default_factory=lambda: {"Mode": "custom", "Sleep": "off", "Power": 3000})
    mhs: Any = 180_000_000.0
    elapsed: Any = 9_000
    watts: Any = "2987.50W"
    password: str = "admin"
    description: str = "GCMiner-2023-05.24"
    rejects_by_words: bool = False
    token: str = ""
    logins: int = 0
    verdict: Answer | None = None
    obeyed: list[dict[str, Any]] = field(default_factory=list)
    wire: Server = field(default_factory=lambda: Server(0))

    def rpc(self, asked: dict[str, Any]) -> Answer:
        status = {"STATUS": "S", "Msg": "Summary", "Description": self.description}
        return {"STATUS": [status], "SUMMARY": [{"MHS 5s": self.mhs, "Elapsed": self.elapsed}]}

    def answer(self, asked: HttpAsked) -> Answer:
        if asked.page == "token":
            if (asked.body["user"], asked.body["password"]) != ("admin", self.password):
                return told(ok=False, words="Invalid user or password")
            self.logins += 1
            self.token = f"token{self.logins}"
            return told({"Token": [{"Token": self.token}]})
        if f"\r\nToken: {self.token}\r\n" not in asked.head or not self.token:
            return told(ok=False, words="Token expired") if self.rejects_by_words else http_answer({}, 401)
        if asked.method == "GET":
            report = {"model": "AT1500", "version": "2023-12.27", "SerialNo": "AU23200006"}
            return {
                "mode": told({"Mode": [self.mode]}),
                "psu": told({"PSU": [{"PowerIn": self.watts, "PowerOut": "0.00W", "PoutMax": "3452.00W"}]}),
                "ipreport": told({"IPReport": [report]}),
            }[asked.page]
        assert asked.page == "mode"
        assert asked.body.pop("command") == "mode"
        self.obeyed.append(asked.body)
        if self.verdict is not None:
            return self.verdict
        if "sleep" in asked.body:
            self.mode["Sleep"] = asked.body["sleep"]
            self.mhs, self.watts, self.elapsed = 0.0, "58.94W", 5
        else:
            self.mode |= {"Mode": asked.body["mode"], "Power": asked.body.get("power")}
        return told(words="Mode set")


@asynccontextmanager
async def running(miner: Miner, password: str | None = None, **settings: Any) -> AsyncIterator[Device]:
    assert DRIVER.open_device is not None
    async with plain_http(miner.answer) as miner.wire, rpc(miner.rpc) as on_rpc:
        chosen = {"auradine_port": miner.wire.port, "rpc_port": on_rpc.port, **IN_TIME}
        secrets = {"password": password} if password else {}
        known = Identity("Auradine", "AT1500", "auradine")
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen | settings), OpenContext(remembered=known, secrets=secrets)
        )
        yield device
        await device.close()


async def test_a_reading() -> None:
    async with running(miner := Miner()) as device:
        reading = await device.read()
        before = len(miner.wire.asked)
        await device.read()
        assert [asked.page for asked in miner.wire.asked[before:]] == ["psu"]
    assert (reading.state, reading.power_w, reading.rate) == (RunState.RUNNING, 2987.5, 180e12)
    assert (reading.point_key, reading.limit_w) == ("limit", 3000.0)


async def test_points_under_a_power_target_and_as_shipped() -> None:
    async with running(Miner()) as device:
        points = await device.operating_points()
    assert [(p.key, p.draw_w) for p in points.points] == [("off", 50.0), ("limit", 1650.0), ("limit", 3300.0)]
    async with running(Miner(mode={"Mode": "normal", "Sleep": "off"})) as device:
        points = await device.operating_points()
        assert (await device.read()).point_key == "normal"
    assert [(p.key, p.draw_w) for p in points.points[-2:]] == [("limit", 3299.0), ("normal", 3300.0)]


async def test_a_warm_stop_is_one_request() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        before = len(miner.wire.asked)
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
        assert len(miner.wire.asked) == before + 1
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.point_key, reading.limit_w) == (RunState.ASLEEP, 58.94, "off", None)
    assert miner.obeyed == [{"sleep": "on"}]


async def test_it_wakes_as_it_slept_and_another_target_is_set_before() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(OFF)
        await device.apply(limit(3000))
        assert miner.obeyed == [{"sleep": "on"}, {"sleep": "off"}]
        await device.apply(OFF)
        await device.apply(limit(2000.7))
        await device.apply(NORMAL)
    assert miner.obeyed[3:] == [
        {"mode": "custom", "tune": "power", "power": 2000},
        {"sleep": "off"},
        {"mode": "normal"},
    ]


async def test_what_is_there_already_is_not_written() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        assert await device.apply(limit(3000)) is Outcome.ALREADY_THERE
    assert miner.obeyed == []


async def test_a_point_it_does_not_have_is_never_sent() -> None:
    async with running(miner := Miner()) as device:
        with pytest.raises(Unsupported):
            await device.apply(OperatingPoint("turbo", 4000, 1.0))
    assert miner.wire.asked == []


@pytest.mark.parametrize("rejects_by_words", [True, False])
async def test_a_token_that_has_ended_is_replaced_within_the_same_call(rejects_by_words: bool) -> None:
    async with running(miner := Miner(rejects_by_words=rejects_by_words)) as device:
        await device.read()
        miner.token = "somebody rebooted it"
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
    assert (miner.obeyed, miner.logins) == ([{"sleep": "on"}], 2)


async def test_a_wrong_password_and_the_right_one() -> None:
    async with running(miner := Miner(password="other")) as device:
        with pytest.raises(AuthFailed):
            await device.apply(OFF)
    assert miner.obeyed == []
    async with running(miner := Miner(password="other"), password="other") as device:
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        (told(ok=False, words="power out of range"), Refused),
        (http_answer({}, 400), Refused),
        (http_answer({}, 500), OutcomeUnknown),
        ({}, OutcomeUnknown),
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
    assert miner.obeyed == [{"sleep": "on"}], "one attempt"


async def test_offline_with_a_token_in_hand_is_unreachable() -> None:
    async with running(Miner()) as device:
        await device.read()
    for call in (device.read, lambda: device.apply(OFF)):
        with pytest.raises(Unreachable):
            await call()


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"mode": {"Mode": "normal", "Sleep": "on"}}, RunState.RUNNING),
        ({"mode": {"Mode": "normal", "Sleep": "on"}, "mhs": 0}, RunState.ASLEEP),
        ({"mode": {"Mode": "normal", "Sleep": "off"}, "mhs": 0}, RunState.IDLE),
        ({"mode": {"Mode": "normal", "Sleep": "off"}, "mhs": 0, "elapsed": 5}, RunState.STARTING),
        ({"mode": {}, "mhs": 0}, RunState.UNKNOWN),
        ({"mhs": None}, RunState.UNKNOWN),
    ],
)
async def test_states(changed: dict[str, Any], state: RunState) -> None:
    async with running(Miner(**changed)) as device:
        assert (await device.read()).state is state


@pytest.mark.parametrize("watts", ["nanW", "-5W", "0.00W", "W", None, 10**400])
async def test_nonsense_watts_are_unknown(watts: Any) -> None:
    async with running(Miner(watts=watts)) as device:
        assert (await device.read()).power_w is None


async def test_another_firmware_at_the_same_address_is_noticed() -> None:
    async with running(Miner(description="bmminer 1.0")) as device:
        with pytest.raises(BadReply, match="identify it again"):
            await device.read()


async def test_identity() -> None:
    async with running(Miner(), firmware="auradine") as device:
        identity = await device.identify()
    assert identity == Identity("Auradine", "AT1500", "auradine", "2023-12.27", "AU23200006", 3300.0)


async def test_the_mode_it_was_found_in_can_be_put_back() -> None:
    async with rig_of("auradine") as rig:
        assert isinstance(rig, Bench)
        rig.miner.set_preset("eco", rig.emulated.now())
        rig.settle()
        points = await rig.device.operating_points()
        assert [point.key for point in points.points] == ["off", "limit", "limit", "eco"]
        found = rig.settings()
        for point in (OFF, points.highest, points.points[1], points.highest, OFF, points.highest):
            assert await rig.device.apply(point) is Outcome.ACKNOWLEDGED
            rig.settle()
        assert rig.settings() == found
        assert (await rig.device.operating_points()) == points, "also once it was throttled"
