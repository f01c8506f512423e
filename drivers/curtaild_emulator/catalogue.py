"""Every emulated model, with its figures.

Draws and hashrates are the makers' figures; times and standby draws are priors from the field, and where the field
is silent, assumptions. They are there to be disbelieved: the daemon must learn the truth of each unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from curtaild_drivers.contract import Watts
from curtaild_emulator.faults import Fault
from curtaild_emulator.models import DeviceModel, Firmware, Preset


def _antminer(name: str, model: str, rated_w: Watts, terahashes: float, low_w: Watts) -> DeviceModel:
    """Bitmain's own firmware: three modes, no power sensor, a restart of the mining process at every change."""
    return DeviceModel(
        name=name,
        make="AntMiner",
        model=model,
        wire_name=f"Antminer {model}",
        firmware=Firmware.ANTMINER,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=30.0,
        presets=(Preset("low", low_w), Preset("normal", rated_w)),
        fall_s=20.0,
        trim_s=20.0,
        boot_s=45.0,
        boot_w=60.0,
        warm_s=40.0,
        warm_w=0.3 * rated_w,
        climb_s=240.0,
        preset_restarts=True,
        measures_power=False,
        born_with=frozenset({Fault.EMPTY_SUMMARY_ASLEEP}),
    )


def _whatsminer(
    name: str, model: str, firmware: Firmware, rated_w: Watts, terahashes: float, api_version: str
) -> DeviceModel:
    """MicroBT's firmware: percentages follow fast, an absolute limit restarts it and holds 800–1,000 W first."""
    return DeviceModel(
        name=name,
        make="WhatsMiner",
        model=model,
        # units of one model differ in the last digit of their type, which the maker's tools blank out
        wire_name=f"{model[:-1]}1".replace(" ", "_"),
        firmware=firmware,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=60.0,
        presets=(Preset("low", 0.7 * rated_w), Preset("normal", rated_w)),
        fall_s=12.0,
        trim_s=10.0,
        boot_s=40.0,
        boot_w=70.0,
        warm_s=75.0,
        warm_w=900.0,
        climb_s=120.0,
        lowest_limit_w=0.35 * rated_w,
        api_version=api_version,
        limit_is_percent=True,
        preset_restarts=True,
        # its documentation says Number, its parser reads the string
        born_with=frozenset({Fault.NUMERIC_PERCENT_REFUSED} if firmware is Firmware.WHATSMINER_V3 else ()),
    )


def _luxos(name: str, model: str, rated_w: Watts, terahashes: float, ladder: Mapping[str, float]) -> DeviceModel:
    """LuxOS: a ladder of profiles changed on the fly, sleeps within seconds, wakes like a boot."""
    return DeviceModel(
        name=name,
        make="AntMiner",
        model=model,
        wire_name=f"Antminer {model}",
        firmware=Firmware.LUXOS,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=25.0,
        presets=tuple(Preset(key, share * rated_w) for key, share in ladder.items()),
        fall_s=4.0,
        trim_s=20.0,
        boot_s=60.0,
        boot_w=40.0,
        warm_s=30.0,
        warm_w=0.3 * rated_w,
        climb_s=60.0,
    )


def _braiins(name: str, model: str, wire_name: str, rated_w: Watts, terahashes: float) -> DeviceModel:
    """Braiins OS: a power target that quick ramping follows without a restart; pausing leaves the board awake."""
    return DeviceModel(
        name=name,
        make="AntMiner",
        model=model,
        wire_name=wire_name,
        firmware=Firmware.BRAIINS,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=50.0,
        presets=(Preset("normal", rated_w),),
        fall_s=10.0,
        trim_s=45.0,
        boot_s=40.0,
        boot_w=60.0,
        warm_s=30.0,
        warm_w=0.3 * rated_w,
        climb_s=120.0,
        lowest_limit_w=0.4 * rated_w,
        limit_restarts=False,
    )


def _epic(name: str, model: str, wire_name: str, rated_w: Watts, terahashes: float) -> DeviceModel:
    """ePIC's control board: a tuner that walks to a target in watts or TH/s; stopping idles it."""
    return DeviceModel(
        name=name,
        make="AntMiner",
        model=model,
        wire_name=wire_name,
        firmware=Firmware.EPIC,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=45.0,
        presets=(Preset("normal", rated_w),),
        fall_s=10.0,
        trim_s=60.0,
        boot_s=40.0,
        boot_w=60.0,
        warm_s=30.0,
        warm_w=0.3 * rated_w,
        climb_s=120.0,
        lowest_limit_w=0.45 * rated_w,
        limit_restarts=False,
    )


def _auradine(name: str, model: str, rated_w: Watts, terahashes: float) -> DeviceModel:
    """FluxOS: watts or an eco mode, followed by retuning on the fly."""
    return DeviceModel(
        name=name,
        make="Auradine",
        model=model,
        wire_name=model,
        firmware=Firmware.AURADINE,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=60.0,
        presets=(Preset("eco", 0.75 * rated_w), Preset("normal", rated_w)),
        fall_s=15.0,
        trim_s=40.0,
        boot_s=40.0,
        boot_w=70.0,
        warm_s=30.0,
        warm_w=0.3 * rated_w,
        climb_s=120.0,
        lowest_limit_w=0.5 * rated_w,
        limit_restarts=False,
    )


def _marathon(name: str, model: str, wire_name: str, rated_w: Watts, terahashes: float) -> DeviceModel:
    """MARA's firmware: a power target that it retunes to on the fly; a wake is a boot."""
    return DeviceModel(
        name=name,
        make="AntMiner",
        model=model,
        wire_name=wire_name,
        firmware=Firmware.MARATHON,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=45.0,
        presets=(Preset("normal", rated_w),),
        fall_s=15.0,
        trim_s=60.0,
        boot_s=45.0,
        boot_w=60.0,
        warm_s=30.0,
        warm_w=0.3 * rated_w,
        climb_s=150.0,
        lowest_limit_w=0.45 * rated_w,
        limit_restarts=False,
    )


def _vnish(name: str, model: str, terahashes: Mapping[int, float], version: str) -> DeviceModel:
    """VNish: a ladder of presets tuned per unit; changing one restarts mining each time, as real ones do at some.
    From 1.3.3 it throttles within seconds to a share of the preset. Fans keep running after a stop."""
    rated_w = float(max(terahashes))
    return DeviceModel(
        name=name,
        make="AntMiner",
        model=model,
        wire_name=f"Antminer {model}",
        firmware=Firmware.VNISH,
        rated_w=rated_w,
        rated_hs=terahashes[max(terahashes)] * 1e12,
        standby_w=60.0,
        presets=tuple(Preset(str(watts), float(watts), rate * 1e12) for watts, rate in terahashes.items()),
        fall_s=15.0,
        trim_s=20.0,
        boot_s=40.0,
        boot_w=70.0,
        warm_s=40.0,
        warm_w=0.3 * rated_w,
        climb_s=150.0,
        api_version=version,
        preset_restarts=True,
    )


def _avalon(name: str, model: str, wire_name: str, rated_w: Watts, terahashes: float) -> DeviceModel:
    """Canaan's firmware: three work levels changed on the fly, and a soft switch that acts on a time stamp."""
    return DeviceModel(
        name=name,
        make="AvalonMiner",
        model=model,
        wire_name=wire_name,
        firmware=Firmware.AVALON,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=40.0,
        presets=(Preset("0", 0.7 * rated_w), Preset("1", 0.85 * rated_w), Preset("2", rated_w)),
        fall_s=15.0,
        trim_s=30.0,
        boot_s=45.0,
        boot_w=60.0,
        warm_s=30.0,
        warm_w=0.4 * rated_w,
        climb_s=150.0,
        born_with=frozenset({Fault.JSON_COMMANDS_IGNORED}),
    )


def _axe(
    name: str, make: str, model: str, terahashes_by_watts_at_mhz: Mapping[int, tuple[Watts, float]]
) -> DeviceModel:
    """A few chips on a desk: a frequency, changed on the fly; seconds for everything."""
    rated_w, terahashes = terahashes_by_watts_at_mhz[max(terahashes_by_watts_at_mhz)]
    return DeviceModel(
        name=name,
        make=make,
        model=model,
        wire_name=model,
        firmware=Firmware.AXEOS,
        rated_w=rated_w,
        rated_hs=terahashes * 1e12,
        standby_w=1.0,
        presets=tuple(Preset(str(mhz), w, rate * 1e12) for mhz, (w, rate) in terahashes_by_watts_at_mhz.items()),
        fall_s=3.0,
        trim_s=8.0,
        boot_s=6.0,
        boot_w=0.9,
        warm_s=4.0,
        warm_w=5.0,
        climb_s=10.0,
    )


_S19_LADDER = {"285MHz": 0.47, "365MHz": 0.58, "445MHz": 0.70, "525MHz": 0.81, "605MHz": 0.92, "675MHz": 1.0}
_S21_LADDER = {"250MHz": 0.45, "310MHz": 0.56, "370MHz": 0.68, "430MHz": 0.80, "465MHz": 0.90, "490MHz": 1.0}

_VNISH_S19J_PRO = {1740: 65.0, 1850: 76.0, 2000: 80.0, 2300: 87.0, 2500: 92.0, 2700: 96.0, 2970: 100.0}

_BM1370 = {
    400: (13.8, 0.816),
    490: (16.5, 1.0),
    525: (17.5, 1.071),
    550: (18.2, 1.122),
    600: (19.7, 1.224),
    625: (20.5, 1.275),
}

_BM1370_FOUR_TIMES = {
    500: (61.0, 4.08),
    525: (64.5, 4.284),
    550: (68.0, 4.488),
    575: (72.0, 4.692),
    600: (76.0, 4.896),
}

MODELS: Mapping[str, DeviceModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            _antminer("antminer-s19", "S19", 3250.0, 95.0, 2350.0),
            _antminer("antminer-s19j-pro", "S19j Pro", 3050.0, 100.0, 2200.0),
            _antminer("antminer-s21", "S21", 3500.0, 200.0, 2600.0),
            _whatsminer("whatsminer-m50", "M50 VH30", Firmware.WHATSMINER_V2, 3306.0, 114.0, "2.0.7"),
            _whatsminer("whatsminer-m50s", "M50S VH50", Firmware.WHATSMINER_V2, 3328.0, 128.0, "2.0.5"),
            _whatsminer("whatsminer-m60", "M60 VK30", Firmware.WHATSMINER_V3, 3422.0, 172.0, "3.0.3"),
            _whatsminer("whatsminer-m60s", "M60S VK30", Firmware.WHATSMINER_V3, 3441.0, 186.0, "3.0.1"),
            _luxos("luxos-s19", "S19", 3250.0, 95.0, _S19_LADDER),
            _luxos("luxos-s21", "S21", 3500.0, 200.0, _S21_LADDER),
            _avalon("avalon-a1566", "Avalon 1566", "AvalonMiner 15-194", 3420.0, 185.0),
            _axe("bitaxe-gamma", "BitAxe", "Gamma", _BM1370),
            _axe("nerdqaxe-plus2", "NerdAxe", "NerdQAxe++", _BM1370_FOUR_TIMES),
            _braiins("braiins-s19j-pro", "S19j Pro", "Antminer S19J Pro", 3050.0, 100.0),
            _braiins("braiins-s21", "S21", "Antminer S21", 3500.0, 200.0),
            _epic("epic-s19j-pro", "S19j Pro", "Antminer S19J Pro", 3050.0, 100.0),
            _marathon("marathon-s19j-pro", "S19j Pro", "Antminer S19J Pro", 3050.0, 100.0),
            _auradine("auradine-at1500", "AT1500", 3300.0, 150.0),
            _vnish("vnish-s19j-pro", "S19j Pro", _VNISH_S19J_PRO, "1.2.6"),
            _vnish("vnish-1.3-s19j-pro", "S19j Pro", _VNISH_S19J_PRO, "1.3.4"),
        )
    }
)
"""Every emulated model by the name farm files use."""
