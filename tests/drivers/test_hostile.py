"""Whatever JSON comes back, of whatever shape: a reading or a driver error, and no watts out of thin air."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curtaild_drivers.asic import DRIVER
from curtaild_drivers.contract import OFF, DriverError, Identity, OperatingPoint, Reading
from curtaild_drivers.registry import OpenContext
from drivers.tiny_servers import HOST, IN_TIME, digest_http, frames, http_answer, plain_http, rpc, text_rpc

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
LEAVES |= st.sampled_from(["nan", "0", 10**400, "tuned", "mining", "2300 watt ~ 87 TH"])
WORDS = """
STATUS,SUMMARY,POWER,CONFIG,VERSION,PROFILES,SESSION,DEVDETAILS,Msg,Code,Description,Power,GHS 5s,HS RT,MHS 1m,Watts,
Elapsed,Power Limit,Upfreq Complete,mineroff,power_pct,power_limit_set,CurtailMode,Profile,Profile Name,Hashrate,
SessionID,IsPowerSupplyOn,code,msg,summary,power,config,miner,working,salt,newsalt,time,power-realtime,power-limit,
power-percent,hash-realtime,elapsed,up-freq-finish,pools,url,user,pass,bitmain-work-mode,miner-mode,stats,enc,
miner_status,miner_state,hr_realtime,power_consumption,overclock,preset,presets,name,pretty,status,token,err,
Token,PSU,PowerIn,Mode,Sleep,MHS 5s,Status,Operating State,HBs,PerpetualTune,Algorithm,PowerTune,Target,Running,
Power Supply Stats,Input Power,result,error,frequency,hashRate,miningPaused,frequencyOptions,defaultFrequency,
shutdown,otp,mode,work-mode-selector,concorde,mode-select,power-target,hashrate_realtime,power_consumption_estimated
"""
KEYS = st.sampled_from(WORDS.replace("\n", "").split(","))
SHAPES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=20
)
FIRMWARES = ["antminer", "whatsminer-v2", "whatsminer-v3", "luxos", "vnish", "auradine", "epic", "axeos", "marathon"]


def is_sane(reading: Reading) -> bool:
    numbers = (reading.power_w, reading.limit_w, reading.rate)
    return all(number is None or (math.isfinite(number) and number >= 0) for number in numbers) and reading.power_w != 0


@pytest.mark.parametrize("firmware", FIRMWARES)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(shape=st.dictionaries(KEYS, SHAPES, max_size=6))
async def test_any_answer_at_all(firmware: str, shape: dict[str, Any]) -> None:
    raw = json.dumps(shape).encode()
    framed = len(raw).to_bytes(4, "little") + raw
    async with (
        rpc(lambda asked: raw) as on_rpc,
        frames(lambda asked: framed) as on_frames,
        (digest_http if firmware in ("antminer", "marathon") else plain_http)(lambda asked: http_answer(raw)) as on_web,
    ):
        chosen = {"rpc_port": on_rpc.port, "v3_port": on_frames.port, "http_port": on_web.port, **IN_TIME}
        chosen["auradine_port"] = on_web.port
        if firmware == "epic":
            chosen["rpc_port"] = on_web.port
        assert DRIVER.open_device is not None
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen), OpenContext(remembered=Identity("x", "S21", firmware))
        )
        for call in (device.read, device.operating_points, device.read):
            try:
                answer = await call()
            except DriverError:
                continue
            assert not isinstance(answer, Reading) or is_sane(answer)
        for key, draw_w in ((OFF, 30), ("limit", 3000), ("low", 2600)):
            try:
                await device.apply(OperatingPoint(key, draw_w, 1.0))
            except DriverError:
                continue


TEXT = """
STATUS= S I E , | When= nan inf 1 -5 99999999999999999999 Description= cgminer [ ] { } PS[ WALLPOWER[ GHSspd[ MGHS[
SYSTEMSTATU[Work: In Work Idle WORKMODE[ 0 2 Elapsed[ TMax[ success PROD= \0 \xff
"""
PIECES = st.sampled_from(TEXT.split()) | st.text(max_size=5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pieces=st.lists(PIECES, max_size=40))
async def test_any_text_at_all(pieces: list[str]) -> None:
    raw = " ".join(pieces).encode("utf-8", "surrogatepass")
    async with text_rpc(lambda asked: raw) as on_rpc:
        chosen = {"rpc_port": on_rpc.port, **IN_TIME}
        assert DRIVER.open_device is not None
        device = DRIVER.open_device(
            HOST, DRIVER.settings.model_validate(chosen), OpenContext(remembered=Identity("x", "Avalon Q", "avalon"))
        )
        for _ in range(2):
            try:
                answer = await device.read()
            except DriverError:
                continue
            assert is_sane(answer)
        for key in (OFF, "low"):
            try:
                await device.apply(OperatingPoint(key, 800, 1.0))
            except DriverError:
                continue
