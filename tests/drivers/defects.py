"""Everything that drivers, libraries and devices were seen to do wrong, as a table: one check each, and for every
firmware on which a defect cannot exist the reason why.

A check plays the defect on a device and says what the driver must make of it. Whatever happens, nothing but what it was
told to change may have changed on the device: `may_change` names that, all else is compared (`test_defects.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from unittest import mock

import pytest

from curtaild_drivers.contract import (
    AuthFailed,
    BadReply,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    OutcomeUnknown,
    Reading,
    Refused,
    RunState,
    Unreachable,
)
from curtaild_emulator import Fault, Firmware, Miner
from curtaild_emulator.wires.unit import Effect
from drivers.conftest import FIRMWARES, Bench
from drivers.test_contract import is_at
from loop_clock import comes_true, cut_short

OFF = OperatingPoint("off", 30, 0.0)
SLEEP = frozenset({"asleep", "mode"})
POINT = SLEEP | {"preset", "limit_w", "percent", "tuner"}

NO_MEASURE = "it measures no power"
NO_PASSWORD = "it has no password"
NO_WEB = "it takes its commands on no web server"
ONE_FIELD = "its commands carry one setting each; no configuration is read and written back"


@dataclass(frozen=True)
class Defect:
    """One thing that goes wrong. `cannot` says for a firmware why it does not exist there."""

    name: str
    check: Callable[[Bench], Awaitable[None]]
    may_change: frozenset[str]
    cannot: Mapping[str, str] = field(default_factory=dict)


DEFECTS: dict[str, Defect] = {}


def defect(
    may_change: Iterable[str] = SLEEP, cannot: Mapping[str, str] | None = None
) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[Bench], Awaitable[None]]]:
    def entered(check: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        DEFECTS[check.__name__] = Defect(check.__name__, check, frozenset(may_change), cannot or {})
        return check

    return entered


def on(reason: str, *firmwares: str) -> dict[str, str]:
    return dict.fromkeys(firmwares, reason)


def all_but(reason: str, *firmwares: str) -> dict[str, str]:
    return {name: reason for name in FIRMWARES if name not in firmwares}


# --- what the checks have in common ----------------------------------------------------------------


def is_stopped(reading: Reading) -> bool:
    return reading.state in (RunState.ASLEEP, RunState.UNKNOWN) and not reading.rate


async def warm(rig: Bench) -> OperatingPoints:
    """The driver knows all that a shed needs beforehand: configuration, token, salt, session."""
    points = await rig.device.operating_points()
    await rig.device.apply(points.highest)
    await rig.device.read()
    return points


def between(points: OperatingPoints) -> OperatingPoint:
    """A point that is neither off nor full."""
    for lower, upper in pairwise(points.points):
        if upper.divisible and not lower.is_off:
            draw_w, rate = (lower.draw_w + 2 * upper.draw_w) / 3, (lower.rate + 2 * upper.rate) / 3
            return OperatingPoint(upper.key, draw_w, rate, divisible=True)
    working = [point for point in points.points if not point.is_off]
    return working[(len(working) - 1) // 2]


async def asleep(rig: Bench) -> OperatingPoints:
    points = await warm(rig)
    await rig.device.apply(OFF)
    rig.settle()
    assert is_stopped(await rig.device.read())
    return points


# --- the answer to a write is lost, late, or a lie -------------------------------------------------


@defect()
async def a_write_hangs_but_was_carried_out(rig: Bench) -> None:
    await warm(rig)
    rig.set_fault(Fault.HANG_WRITE_APPLIED)
    with pytest.raises(OutcomeUnknown):
        await cut_short(rig.open_another().apply(OFF), lambda: rig.unit().answered[Effect.STOP] > 0)
    rig.set_fault(Fault.HANG_WRITE_APPLIED, on=False)
    rig.settle()
    assert is_stopped(await rig.device.read()), "reading back tells that it worked"


@defect()
async def the_connection_closes_instead_of_an_answer_to_a_stop(rig: Bench) -> None:
    await warm(rig)
    rig.set_fault(Fault.CLOSE_AFTER_POWER_OFF)
    with pytest.raises(OutcomeUnknown):
        await rig.device.apply(OFF)
    rig.settle()
    assert is_stopped(await rig.device.read())


@defect()
async def acknowledges_a_stop_and_does_not_obey(rig: Bench) -> None:
    full = (await warm(rig)).highest
    rig.set_fault(Fault.ACK_NO_OBEY)
    assert await rig.device.apply(OFF) is Outcome.ACKNOWLEDGED, "its word, and nothing more"
    rig.settle()
    reading = await rig.device.read()
    assert reading.state is RunState.RUNNING
    assert reading.rate
    if rig.device.capabilities.measures_power:
        assert reading.power_w is not None
        assert reading.power_w > 0.8 * full.draw_w


@defect(may_change=POINT)
async def acknowledges_a_limit_and_does_not_obey(rig: Bench) -> None:
    points = await warm(rig)
    rig.set_fault(Fault.ACK_NO_OBEY)
    assert await rig.device.apply(between(points)) is Outcome.ACKNOWLEDGED
    rig.settle()
    assert not is_at(points.points, between(points))(await rig.device.read())


@defect(may_change=POINT)
async def settles_at_half_its_limit(rig: Bench) -> None:
    points = await warm(rig)
    rig.set_fault(Fault.HALF_OBEY)
    await rig.device.apply(between(points))
    rig.settle()
    reading = await rig.device.read()
    assert not is_at(points.points, between(points))(reading)
    if reading.power_w is not None:
        assert reading.power_w == pytest.approx(rig.true_power_w(), rel=0.06)
    else:
        assert reading.rate is not None
        assert reading.rate < 0.8 * between(points).rate


@defect()
async def answers_with_garbage(rig: Bench) -> None:
    await warm(rig)
    rig.set_fault(Fault.GARBAGE)
    # What is no frame of HTTP/2 may be skipped, by its rules, and then there is no answer.
    with pytest.raises((BadReply, Unreachable)):
        await rig.device.read()
    with pytest.raises((OutcomeUnknown, Refused, Unreachable)):
        await rig.device.apply(OFF)


@defect()
async def answers_come_in_fragments(rig: Bench) -> None:
    rig.set_fault(Fault.FRAGMENT)
    await warm(rig)
    assert await rig.device.apply(OFF) is Outcome.ACKNOWLEDGED
    rig.settle()
    assert is_stopped(await rig.device.read())


class _Counting(Counter[Effect]):
    """What a device has answered; `then` is done at its first command."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self._then = then

    def __setitem__(self, effect: Effect, count: int) -> None:
        super().__setitem__(effect, count)
        if effect is Effect.COMMAND and count == 1:
            self._then()


@defect(may_change=POINT, cannot=on("its waking is one command, whatever it is set to", "antminer", "marathon"))
async def it_is_gone_after_the_first_of_two_commands(rig: Bench) -> None:
    """Half of a waking is neither success nor refusal."""
    points = await asleep(rig)
    rig.unit().answered = _Counting(lambda: rig.set_fault(Fault.REFUSE_CONNECTION))
    with pytest.raises(OutcomeUnknown):
        await rig.device.apply(between(points))
    assert rig.unit().answered[Effect.COMMAND] == 1
    rig.set_fault(Fault.REFUSE_CONNECTION, on=False)
    assert await rig.device.apply(between(points)) is Outcome.ACKNOWLEDGED
    rig.settle()
    assert not rig.is_stopped()


# --- nobody there ----------------------------------------------------------------------------------


@defect(may_change=())
async def it_is_offline(rig: Bench) -> None:
    """Where pyasic says True."""
    ports = dict.fromkeys(("rpc_port", "http_port", "v3_port", "braiins_port", "auradine_port"), 1)
    stranger = rig.open_another(**ports)
    with pytest.raises(Unreachable):
        await stranger.read()
    with pytest.raises(Unreachable):
        await stranger.apply(OFF)


@defect(may_change=())
async def it_goes_offline_with_a_session_in_hand(rig: Bench) -> None:
    """Where pyasic says True as well, and where a kept connection is found closed."""
    await warm(rig)
    await rig.go_offline()
    with pytest.raises(Unreachable):
        await rig.device.read()
    with pytest.raises(Unreachable):
        await rig.device.apply(OFF)


@defect(may_change=())
async def accepts_and_never_answers(rig: Bench) -> None:
    await warm(rig)
    rig.set_fault(Fault.HANG)
    impatient = rig.open_another(read_deadline_s=0.1, write_deadline_s=0.1)
    async with asyncio.timeout(60):
        with pytest.raises(Unreachable):
            await impatient.read()
        with pytest.raises((Unreachable, OutcomeUnknown)):
            await impatient.apply(OFF)


@defect()
async def a_reading_hangs_when_it_must_be_shed(rig: Bench) -> None:
    await warm(rig)
    rig.set_fault(Fault.HANG)
    with mock.patch.object(Miner, "strikes", autospec=True, side_effect=Miner.strikes) as strikes:
        hung = asyncio.ensure_future(rig.device.read())
        await comes_true(lambda: mock.call(rig.miner, Fault.HANG) in strikes.mock_calls)  # its question has arrived
    rig.set_fault(Fault.HANG, on=False)
    assert await rig.device.apply(OFF) is Outcome.ACKNOWLEDGED
    assert not hung.done(), "the shed did not wait for it"
    hung.cancel()
    await asyncio.gather(hung, return_exceptions=True)


@defect(may_change=())
async def hangs_up_at_once(rig: Bench) -> None:
    await warm(rig)
    rig.set_fault(Fault.REFUSE_CONNECTION)
    with pytest.raises(Unreachable):
        await rig.device.read()
    with pytest.raises((Unreachable, OutcomeUnknown)):
        await rig.device.apply(OFF)


@defect(may_change=())
async def the_api_is_gone_while_it_boots(rig: Bench) -> None:
    await warm(rig)
    rig.set_fault(Fault.API_GONE_WHILE_BOOTING)
    rig.miner.reboot(rig.emulated.now())
    rig.emulated.skip(1.0)
    try:
        reading = await rig.device.read()
    except Unreachable:
        pass
    else:
        assert (reading.state, reading.power_w) == (RunState.STARTING, None)
    with pytest.raises((Unreachable, OutcomeUnknown)):
        await rig.device.apply(OFF)


# --- it says no -----------------------------------------------------------------------------------


@defect(may_change=(), cannot=on(NO_PASSWORD, "avalon", "axeos"))
async def somebody_changed_the_password(rig: Bench) -> None:
    rig.set_fault(Fault.WRONG_PASSWORD)
    firmware = rig.miner.model.firmware.value
    if firmware in ("braiins", "auradine", "marathon"):
        with pytest.raises(AuthFailed):
            await rig.device.read()
    else:
        assert (await rig.device.read()).state is RunState.RUNNING, "reading needs none"
    with pytest.raises(Refused if firmware == "luxos" else AuthFailed):  # which has sessions instead of passwords
        await rig.device.apply(OFF)


@defect(may_change=(), cannot=on(NO_WEB, "whatsminer-v2", "whatsminer-v3", "luxos", "avalon", "braiins"))
async def a_write_is_answered_with_http_500(rig: Bench) -> None:
    await warm(rig)
    rig.set_fault(Fault.HTTP_500)
    with pytest.raises(OutcomeUnknown):  # it may have been carried out
        await rig.device.apply(OFF)
    with pytest.raises((OutcomeUnknown, Refused, Unreachable)):  # nothing that was known before is trusted any more
        await rig.device.apply(OFF)
    rig.set_fault(Fault.HTTP_500, on=False)
    assert (await rig.device.read()).state is RunState.RUNNING


@defect(may_change=(), cannot=all_but(ONE_FIELD, "antminer", "marathon", "epic"))
async def a_configuration_cannot_be_read(rig: Bench) -> None:
    """Where pyasic overwrites all pools with nothing. An ePIC's tuner is written whole as well; its stop is not."""
    is_tuner = rig.miner.model.firmware is Firmware.EPIC
    point = OperatingPoint("limit", 2_000.0, 0.0, divisible=True) if is_tuner else OFF
    rig.set_fault(Fault.SETTINGS_UNREADABLE)
    for device in (rig.device, rig.open_another()):
        with pytest.raises((Refused, Unreachable)):
            await device.apply(point)
    assert rig.unit().answered.keys() == {Effect.READ}, "nothing was written"


@defect(may_change=(), cannot=all_but("it hands out as many tokens as are asked for, or none", "whatsminer-v2"))
async def the_seventeenth_token_is_refused(rig: Bench) -> None:
    rig.set_fault(Fault.TOKEN_LIMIT)
    await warm(rig)
    for _ in range(15):
        another = rig.open_another()
        await another.operating_points()
        await another.read()
    with pytest.raises(Refused, match="token"):
        await rig.open_another().apply(OFF)
    assert not rig.is_stopped()
    points = await rig.device.operating_points()
    assert await rig.device.apply(points.highest) is Outcome.ACKNOWLEDGED, "the token in hand still serves"


NOTHING_ENDS = "it hands out nothing that ends"
NONCE = "test_digest.py plays a nonce that has ended"
TOKENLESS = on(NOTHING_ENDS, "avalon", "epic", "axeos", "nerdaxe") | on(NONCE, "antminer", "marathon")


@defect(cannot=TOKENLESS | on("it makes a token for each command by itself", "whatsminer-v3"))
async def what_it_handed_out_has_ended_when_it_must_be_shed(rig: Bench) -> None:
    """Where pyasic's first command fails."""
    await warm(rig)
    rig.unit().board.wall_clock = lambda: time.monotonic() + 7_200.0
    assert await rig.device.apply(OFF) is Outcome.ACKNOWLEDGED
    assert rig.unit().answered[Effect.STOP] == 1
    rig.settle()
    assert is_stopped(await rig.device.read())


@defect(may_change=POINT, cannot=all_but("it takes no percentage as text", "whatsminer-v2", "whatsminer-v3"))
async def a_numeric_percentage_is_refused(rig: Bench) -> None:
    rig.set_fault(Fault.NUMERIC_PERCENT_REFUSED)
    points = await rig.device.operating_points()
    assert await rig.device.apply(OperatingPoint("limit", points.highest.draw_w * 0.6, 0.0, divisible=True))
    assert rig.settings()["percent"] == 60


# --- what it says of itself ------------------------------------------------------------------------


@defect(may_change=(), cannot=on(NO_MEASURE, "antminer"))
async def power_reads_nan(rig: Bench) -> None:
    rig.set_fault(Fault.NAN_POWER)
    reading = await rig.device.read()
    assert (reading.power_w, reading.state) == (None, RunState.RUNNING)


@defect(may_change=(), cannot=on(NO_MEASURE, "antminer"))
async def its_watts_are_off_by_a_constant(rig: Bench) -> None:
    """Not the driver's to mend: passed on as it is claimed, for the meter to judge."""
    rig.set_fault(Fault.BIAS)
    rig.settle()
    claims = [(await rig.device.read()).power_w or 0.0 for _ in range(3)]
    assert all(0.03 < abs(claim / rig.true_power_w() - 1.0) < 0.22 for claim in claims)


@defect()
async def its_clock_is_years_off(rig: Bench) -> None:
    rig.set_fault(Fault.CLOCK_WRONG)
    await warm(rig)
    before = time.monotonic()
    assert before <= (await rig.device.read()).taken_at <= time.monotonic()
    assert await rig.device.apply(OFF) is Outcome.ACKNOWLEDGED
    rig.settle()
    assert (await rig.device.read()).state is RunState.ASLEEP


@defect(may_change=SLEEP | {"percent"})
async def the_summary_is_empty_while_asleep(rig: Bench) -> None:
    rig.set_fault(Fault.EMPTY_SUMMARY_ASLEEP)
    points = await asleep(rig)
    reading = await rig.device.read()
    # These have nothing else to ask: then nobody can know, and they can be woken all the same.
    has_no_other_word = rig.miner.model.firmware.value in ("avalon", "epic", "axeos")
    assert reading.state is (RunState.UNKNOWN if has_no_other_word else RunState.ASLEEP)
    assert reading.power_w != 0.0
    assert await rig.device.apply(points.highest) is Outcome.ACKNOWLEDGED
    rig.settle()
    assert not rig.is_stopped()


@defect(may_change=SLEEP | {"percent"})
async def keys_vanish_after_sleep(rig: Bench) -> None:
    """Nothing is made up for what is missing: neither watts nor a working miner."""
    rig.set_fault(Fault.KEYS_VANISH_AFTER_SLEEP)
    await asleep(rig)
    reading = await rig.device.read()
    assert reading.power_w is None
    points = await rig.device.operating_points()
    assert await rig.device.apply(points.highest) is Outcome.ACKNOWLEDGED
    rig.settle()
    assert not rig.is_stopped()


# --- waking, and what it is set to afterwards ------------------------------------------------------


@defect(may_change=SLEEP | {"percent"})
async def a_resume_is_acknowledged_and_never_comes(rig: Bench) -> None:
    points = await asleep(rig)
    rig.set_fault(Fault.RESUME_NEVER)
    assert await rig.device.apply(points.highest) is Outcome.ACKNOWLEDGED
    rig.settle()
    reading = await rig.device.read()
    assert reading.state is not RunState.RUNNING
    assert not reading.rate


@defect(may_change=POINT)
async def wakes_in_another_mode_than_it_slept_in(rig: Bench) -> None:
    points = await warm(rig)
    chosen = between(points)
    await rig.device.apply(chosen)
    rig.settle()
    await rig.device.apply(OFF)
    rig.settle()
    await rig.device.read()
    rig.set_fault(Fault.WAKES_OTHER_MODE)
    assert await rig.device.apply(chosen) is Outcome.ACKNOWLEDGED
    rig.settle()
    assert not is_at(points.points, chosen)(await rig.device.read()), "no reading claims the point it is not at"
    rig.set_fault(Fault.WAKES_OTHER_MODE, on=False)
    await rig.device.apply(chosen)
    rig.settle()
    # A Whatsminer's own mode and a VNish's preset are not touched for it: those may be left drawing less.
    reading, full = await rig.device.read(), points.highest
    assert reading.state is RunState.RUNNING
    assert (reading.power_w or 0.0) < chosen.draw_w + 0.06 * full.draw_w
    assert (reading.rate or 0.0) < chosen.rate + 0.1 * full.rate


@defect(may_change=POINT)
async def the_mode_before_sleep_is_restored_after_it(rig: Bench) -> None:
    points = await warm(rig)
    chosen = between(points)
    await rig.device.apply(chosen)
    rig.settle()
    await rig.device.read()
    before = rig.settings()
    assert await rig.device.apply(OFF) is Outcome.ACKNOWLEDGED
    rig.settle()
    await rig.device.read()
    assert await rig.device.apply(chosen) is Outcome.ACKNOWLEDGED
    rig.settle()
    assert rig.settings() == before
    assert is_at(points.points, chosen)(await rig.device.read())


@defect(may_change=POINT)
async def reboots_when_a_limit_is_set(rig: Bench) -> None:
    points = await warm(rig)
    rig.set_fault(Fault.REBOOT_ON_LIMIT)
    assert await rig.device.apply(between(points)) is Outcome.ACKNOWLEDGED
    rig.emulated.skip(4.0)
    reading = await rig.device.read()
    assert reading.state is RunState.STARTING
    rig.settle()
    assert is_at(points.points, between(points))(await rig.device.read())


@defect(may_change=())
async def every_change_forces_other_settings(rig: Bench) -> None:
    """Where pyasic forces an Antminer's frequency level, and where a hundred changes could wear something away."""
    points = (await warm(rig)).points
    for number in range(3 * len(points)):
        await rig.device.apply(points[number % len(points)])
        rig.settle()
    await rig.device.apply(points[-1])
    rig.settle()
