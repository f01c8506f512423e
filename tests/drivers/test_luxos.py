"""LuxOS: one joined command for everything, one session for all writers, profiles and curtailment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import (
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
from drivers.tiny_servers import CLOSE, HANG, HOST, IN_TIME, Answer, Server, rpc

OFF = OperatingPoint("off", 25, 0.0)
SLOW = OperatingPoint("525MHz", 2870, 170.6e12)
FULL = OperatingPoint("default", 3510, 200e12)

PROFILES = [
    {"Profile Name": "default", "Watts": 3510, "Hashrate": 200.0},
    {"Profile Name": "525MHz", "Watts": 2870, "Hashrate": 170.6},
    {"Profile Name": "twin", "Watts": 2870, "Hashrate": 150.0},
    {"Profile Name": "broken", "Watts": "nan", "Hashrate": 1.0},
    {"Profile Name": "", "Watts": 100, "Hashrate": 1.0},
    "noise",
]


def said(body: dict[str, Any] | None = None, ok: bool = True, words: str = "") -> dict[str, Any]:
    status = {"STATUS": "S" if ok else "E", "Code": 1, "Msg": words, "Description": "LUXminer 2025.1.15"}
    return {"STATUS": [status], "id": 1, **(body or {})}


@dataclass
class Miner:
    """The far end's state. `verdict` replaces the answer to a command under a good session."""

    config: dict[str, Any] = field(
        default_factory=lambda: {"CurtailMode": "None", "Profile": "default", "IsPowerSupplyOn": True}
    )
    watts: Any = 3490
    ghs: Any = 199_000.0
    elapsed: Any = 9_000
    session: str = ""
    opened: int = 0
    verdict: Answer | None = None
    obeyed: list[str] = field(default_factory=list)
    wire: Server = field(default_factory=lambda: Server(0))

    def answer(self, asked: dict[str, Any]) -> Answer:
        command = asked["command"]
        if "+" in command:
            return {"id": 1} | {each: [self._tell(each)] for each in command.split("+")}
        if command == "logon":
            if self.session:
                return said(ok=False, words="Another session is active")
            self.opened += 1
            self.session = f"session{self.opened}"
            return said({"SESSION": [{"SessionID": self.session}]})
        if command == "session":
            return said({"SESSION": [{"SessionID": self.session}]})
        if "parameter" in asked:
            return self._carry_out(command, asked["parameter"])
        return self._tell(command)

    def _tell(self, command: str) -> dict[str, Any]:
        return {
            "power": said({"POWER": [{"PSU": True, "Watts": self.watts}]}),
            "summary": said({"SUMMARY": [{"GHS 5s": self.ghs, "Elapsed": self.elapsed}]}),
            "config": said({"CONFIG": [self.config]}),
            "profiles": said({"PROFILES": PROFILES}),
            "version": said({"VERSION": [{"LUXminer": "2025.1.15", "Type": "Antminer S21"}]}),
        }[command]

    def _carry_out(self, command: str, parameter: str) -> Answer:
        session, _, argument = parameter.partition(",")
        if not session or session != self.session:
            return said(ok=False, words="Invalid session")
        if command == "logoff":
            self.session = ""
            return said(words="Session terminated")
        self.obeyed.append(f"{command} {argument}")
        if self.verdict is not None:
            return self.verdict
        if command == "profileset":
            self.config["Profile"] = argument
            return said({"PROFILE": [{"Profile": argument}]}, words="Profile Set")
        asleep = argument == "sleep"
        self.config |= {"CurtailMode": "Sleep" if asleep else "None", "IsPowerSupplyOn": not asleep}
        self.ghs, self.watts, self.elapsed = 0, 25, 5
        return said({"CURTAIL": [{"Action": argument}]}, words="Curtailment command sent")


@asynccontextmanager
async def running(miner: Miner, piece: int = 1 << 20, **settings: Any) -> AsyncIterator[Device]:
    assert DRIVER.open_device is not None
    async with rpc(miner.answer, piece) as miner.wire:
        chosen = {"rpc_port": miner.wire.port, **IN_TIME}
        known = Identity("Antminer", "S21", "luxos")
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen | settings), OpenContext(remembered=known)
        )
        yield device
        await device.close()


async def test_a_reading_is_one_command() -> None:
    async with running(miner := Miner(), piece=11) as device:
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.point_key) == (RunState.RUNNING, 3490.0, "default")
    assert len(miner.wire.asked) == 1


async def test_points_are_off_and_the_best_profile_at_each_draw() -> None:
    async with running(Miner()) as device:
        points = await device.operating_points()
    assert [(p.key, p.draw_w, p.rate) for p in points.points] == [
        ("off", 25.0, 0.0),
        ("525MHz", 2870.0, 170.6e12),
        ("default", 3510.0, 200e12),
    ]


async def test_sleep_shows_in_the_next_reading() -> None:
    async with running(Miner()) as device:
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
        reading = await device.read()
    assert (reading.state, reading.power_w, reading.point_key) == (RunState.ASLEEP, 25.0, "off")


async def test_waking_keeps_the_profile_it_slept_in() -> None:
    async with running(miner := Miner()) as device:
        for point in (SLOW, OFF, SLOW):
            await device.read()
            await device.apply(point)
        reading = await device.read()
    assert miner.obeyed == ["profileset 525MHz", "curtail sleep", "curtail wakeup"]
    assert (reading.state, reading.point_key) == (RunState.STARTING, "525MHz")


async def test_another_profile_is_chosen_before_it_wakes() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(OFF)
        await device.apply(SLOW)
    assert miner.obeyed == ["curtail sleep", "profileset 525MHz", "curtail wakeup"]


async def test_a_session_is_kept_while_it_lasts() -> None:
    async with running(miner := Miner()) as device:
        await device.read()
        await device.apply(SLOW)
        before = len(miner.wire.asked)
        await device.apply(OFF)
        assert len(miner.wire.asked) == before + 1


async def test_a_session_that_ended_is_replaced_within_the_same_call() -> None:
    async with running(miner := Miner()) as device:
        await device.apply(SLOW)
        miner.session = ""
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
    assert miner.obeyed == ["profileset 525MHz", "curtail sleep"]


async def test_a_session_outlasts_an_answer_that_was_lost() -> None:
    """Or the device, which still has it, would let nobody raise it again for a minute."""
    async with running(miner := Miner(verdict=CLOSE)) as device:
        with pytest.raises(OutcomeUnknown):
            await device.apply(OFF)
        miner.verdict = None
        await device.read()
        assert await device.apply(OperatingPoint("250MHz", 1_575, 1.0)) is Outcome.ACKNOWLEDGED
    assert miner.opened == 1


async def test_closing_gives_the_session_back() -> None:
    """So that the same machine, opened anew by a reload, can be raised at once."""
    async with running(miner := Miner()) as device:
        await device.apply(SLOW)
        assert miner.session
        await device.close()
        assert not miner.session
        await device.apply(FULL)
    assert miner.obeyed == ["profileset 525MHz", "profileset default"]


async def test_closing_gives_back_nothing_that_is_not_ours() -> None:
    async with running(miner := Miner(session="somebody")) as device:
        await device.apply(OFF)
    assert (miner.obeyed, miner.session) == (["curtail sleep"], "somebody")


async def test_another_writers_session_stops_all_but_a_shed() -> None:
    async with running(miner := Miner(session="somebody")) as device:
        with pytest.raises(Refused, match="Another session"):
            await device.apply(SLOW)  # it may as well be a raise: nobody has asked what its profiles draw
        assert miner.obeyed == []
        await device.operating_points()
        assert await device.apply(SLOW) is Outcome.ACKNOWLEDGED
        with pytest.raises(Refused, match="Another session"):
            await device.apply(FULL)
        assert await device.apply(OFF) is Outcome.ACKNOWLEDGED
        with pytest.raises(Refused, match="Another session"):
            await device.apply(SLOW)
    assert miner.obeyed == ["profileset 525MHz", "curtail sleep"]


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        (said(ok=False, words="Invalid action"), Refused),
        ({}, OutcomeUnknown),
        (b"}{", OutcomeUnknown),
        (HANG, OutcomeUnknown),
        (CLOSE, OutcomeUnknown),
    ],
)
async def test_only_success_is_success(verdict: Answer, error: type[Exception]) -> None:
    async with running(miner := Miner(verdict=verdict)) as device:
        with pytest.raises(error):
            await device.apply(OFF)
    assert miner.obeyed == ["curtail sleep"], "one attempt"


async def test_taking_another_profile_than_asked_is_no_success() -> None:
    async with running(Miner(verdict=said({"PROFILE": [{"Profile": "default"}]}))) as device:
        with pytest.raises(OutcomeUnknown, match="took 'default'"):
            await device.apply(SLOW)


async def test_offline_with_a_session_in_hand_is_unreachable() -> None:
    async with running(Miner()) as device:
        await device.apply(SLOW)
    with pytest.raises(Unreachable):
        await device.read()
    with pytest.raises(Unreachable):
        await device.apply(OFF)


async def test_a_profile_name_cannot_smuggle_a_parameter() -> None:
    async with running(miner := Miner()) as device:
        with pytest.raises(Unsupported):
            await device.apply(OperatingPoint("default,1", 100, 0.0))
    assert miner.wire.asked == []


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"config": {"CurtailMode": "Sleep", "IsPowerSupplyOn": True, "Profile": "x"}}, RunState.RUNNING),
        ({"config": {"IsTuning": True, "CurtailMode": "None"}}, RunState.STARTING),
        ({"config": {"SystemStatus": "Initializing"}}, RunState.STARTING),
        ({"config": {"IsPowerSupplyOn": False}, "ghs": None, "watts": None}, RunState.ASLEEP),
        ({"ghs": 0, "elapsed": 10}, RunState.STARTING),
        ({"ghs": 0}, RunState.IDLE),
        ({"ghs": None}, RunState.UNKNOWN),
        ({"config": {}, "ghs": None}, RunState.UNKNOWN),
    ],
)
async def test_states(changed: dict[str, Any], state: RunState) -> None:
    async with running(Miner(**changed)) as device:
        assert (await device.read()).state is state


async def test_another_firmware_at_the_same_address_is_noticed() -> None:
    miner = Miner()
    miner.answer = lambda asked: {"STATUS": [{"STATUS": "E", "Description": "bmminer 1.0"}]}  # type: ignore[method-assign]
    async with running(miner) as device:
        with pytest.raises(BadReply, match="identify it again"):
            await device.read()


async def test_identity() -> None:
    async with running(Miner(), firmware="luxos") as device:
        identity = await device.identify()
    assert identity == Identity("Antminer", "S21", "luxos", "2025.1.15", "", 3510.0)
