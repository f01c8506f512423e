"""The caps a BMC keeps: which resources hold them, what they report, and what a PATCH of one must look like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curtaild_drivers.contract import Seconds, Watts
from curtaild_emulator.bmc.messages import (
    conflict,
    missing_property,
    not_in_list,
    out_of_range,
    unknown_property,
    wrong_type,
)
from curtaild_emulator.bmc.profiles import BASEBOARD, Lever, Profile
from curtaild_emulator.gpu_node import GpuNode


@dataclass(frozen=True, slots=True)
class Change:
    """What a PATCH asks for: a cap in W, `None` to leave the number as it is; and whether the cap shall hold."""

    cap_w: Watts | None
    holds: bool


class Cap:
    """One cap of one node: the whole node's, or one GPU's."""

    def __init__(self, profile: Profile, node: GpuNode, gpu: int | None) -> None:
        self._profile = profile
        self._node = node
        self._gpu = gpu
        model = node.model
        if gpu is None:
            self.min_w, self.max_w = math.ceil(model.min_w), math.ceil(model.max_w)
        else:
            self.min_w, self.max_w = math.ceil(model.gpu_min_w), math.ceil(model.gpu_max_w)
        self._set_point_w: Watts = self.max_w  # of a cap that does not hold, where the maker keeps the number

    @property
    def path(self) -> str:
        """The resource that a client patches."""
        profile = self._profile
        if profile.lever is Lever.CONTROLS:
            return f"{profile.chassis_path}/Controls/{self.name}"
        if self._gpu is not None:
            return f"/redfish/v1/Systems/{BASEBOARD}/Processors/GPU_SXM_{self._gpu + 1}/EnvironmentMetrics"
        return f"{profile.chassis_path}/{'Power' if profile.lever is Lever.POWER else 'EnvironmentMetrics'}"

    @property
    def name(self) -> str:
        """The Id of its Control."""
        return self._profile.control if self._gpu is None else f"Accelerator{self._gpu}PowerLimit"

    @property
    def is_of_node(self) -> bool:
        return self._gpu is None

    @property
    def now_w(self) -> Watts | None:
        """What the BMC says it is set to, `None` where no cap holds."""
        if self._gpu is None:
            return self._node.node_cap_w
        cap_w = self._node.gpu_caps_w[self._gpu]
        return None if self._profile.modes is not None and cap_w >= self.max_w else cap_w

    def told(self) -> dict[str, Any]:
        """The properties that tell of it, in the shape of its resource."""
        profile, now_w = self._profile, self.now_w
        if profile.lever is Lever.POWER:
            return {"LimitInWatts": now_w, "LimitException": "NoAction", "CorrectionInMs": 1000}
        told: dict[str, Any] = {"AllowableMin": self.min_w, "AllowableMax": self.max_w}
        if profile.modes is None:
            return told | {"ControlMode": "Automatic", "SetPoint": now_w}
        holds, disabled = profile.modes
        if now_w is not None:
            return told | {"ControlMode": holds, "SetPoint": now_w}
        kept = None if profile.set_point_enables else self._set_point_w
        return told | {"ControlMode": disabled, "SetPoint": kept}

    def asked(self, body: Mapping[str, Any]) -> Change:
        """What a PATCH wants of it. Raises `Rejected` where the maker's BMC would refuse it."""
        lever = self._profile.lever
        if lever is Lever.POWER:
            return self._asked_of_power(body)
        if lever is Lever.CONTROLS:
            return self._asked_of_control(body, "")
        _only(body, {"PowerLimitWatts"}, "")
        if not isinstance(body.get("PowerLimitWatts"), dict):
            raise wrong_type(body.get("PowerLimitWatts"), "PowerLimitWatts")
        return self._asked_of_control(body["PowerLimitWatts"], "PowerLimitWatts/")

    def carry_out(self, change: Change, now: Seconds) -> None:
        """Do what a PATCH asked for."""
        bites_s = self._profile.bites_s
        if self._gpu is not None:
            cap_w = change.cap_w if change.holds and change.cap_w is not None else self.max_w
            self._node.cap_gpu(self._gpu, cap_w, now, bites_s)
            return
        if change.cap_w is not None:
            self._set_point_w = change.cap_w
        self._node.cap_node(self._set_point_w if change.holds else None, now, bites_s)

    def _asked_of_power(self, body: Mapping[str, Any]) -> Change:
        _only(body, {"PowerControl"}, "")
        controls = body.get("PowerControl")
        if not isinstance(controls, list) or len(controls) != 1 or not isinstance(controls[0], dict):
            raise wrong_type(controls, "PowerControl")
        _only(controls[0], {"PowerLimit", "MemberId", "@odata.id"}, "PowerControl/0/")
        limit = controls[0].get("PowerLimit")
        if not isinstance(limit, dict):
            raise missing_property("PowerControl/0/PowerLimit")
        _only(limit, {"LimitInWatts", "LimitException", "CorrectionInMs"}, "PowerControl/0/PowerLimit/")
        place = "PowerControl/0/PowerLimit/LimitInWatts"
        if "LimitInWatts" not in limit:
            raise missing_property(place)
        if limit["LimitInWatts"] is None:
            return Change(None, holds=False)
        return Change(self._watts(limit["LimitInWatts"], place), holds=True)

    def _asked_of_control(self, body: Mapping[str, Any], place: str) -> Change:
        modes = self._profile.modes
        _only(body, {"SetPoint"} if modes is None else {"SetPoint", "ControlMode"}, place)
        if modes is None:
            if "SetPoint" not in body:
                raise missing_property(f"{place}SetPoint")
            return Change(self._watts(body["SetPoint"], f"{place}SetPoint"), holds=True)
        mode, set_point = body.get("ControlMode"), body.get("SetPoint")
        if not body:
            raise missing_property(f"{place}SetPoint")
        if "ControlMode" in body and mode not in modes:
            raise not_in_list(mode, f"{place}ControlMode")
        cap_w = None if set_point is None else self._watts(set_point, f"{place}SetPoint")
        if not self._profile.set_point_enables:
            holds = self.now_w is not None if mode is None else mode == modes[0]
            return Change(cap_w, holds)
        if (mode == modes[1] and cap_w is not None) or (mode == modes[0] and cap_w is None):
            raise conflict(f"{place}SetPoint", f"{place}ControlMode")
        return Change(cap_w, holds=cap_w is not None)

    def _watts(self, value: object, about: str) -> Watts:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong_type(value, about)
        if self._profile.whole_watts and not isinstance(value, int):
            raise wrong_type(value, about)
        if not self.min_w <= value <= self.max_w:
            raise out_of_range(value, about)
        return value


def caps_of(profile: Profile, node: GpuNode) -> dict[str, Cap]:
    """All caps of a node, by the path of their resource."""
    gpus: list[int | None] = list(range(node.model.gpus))
    if profile.lever is not Lever.GPU_METRICS:
        gpus = [*gpus, None] if profile.caps_gpus_too else [None]
    return {cap.path: cap for cap in (Cap(profile, node, gpu) for gpu in gpus)}


def _only(body: Mapping[str, Any], known: set[str], place: str) -> None:
    for name in body:
        if name not in known:
            raise unknown_property(f"{place}{name}")
