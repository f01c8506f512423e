"""The resources of one BMC's service, as GET tells them: names and types are the DMTF's schemas'."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from curtaild_drivers.contract import Watts
from curtaild_emulator.bmc.caps import Cap
from curtaild_emulator.bmc.profiles import BASEBOARD, Lever, Profile
from curtaild_emulator.gpu_node import GpuNode, Power

ROOT = "/redfish/v1"
RESET = "Actions/ComputerSystem.Reset"
RESET_TYPES = ("On", "ForceOff", "GracefulShutdown", "ForceRestart")
_HGX_CHASSIS = f"{ROOT}/Chassis/HGX_Chassis_0"

Resource = dict[str, Any]


def resources(profile: Profile, node: GpuNode, caps: Mapping[str, Cap], power_w: Watts | None) -> dict[str, Resource]:
    """Every resource by its path, `power_w` being this moment's power reading (`None`: there is none)."""
    told = {ROOT: _root(profile, node), **_sessions_and_tasks(profile)}
    told |= _systems(profile, node, caps)
    told |= _chassis(profile, node, caps, power_w)
    return {path: {"@odata.id": path, **body} for path, body in told.items()}


def link(path: str) -> dict[str, str]:
    """A reference to another resource."""
    return {"@odata.id": path}


def collection(kind: str, name: str, members: Sequence[str]) -> Resource:
    """A collection of resources, by their paths."""
    return {
        "@odata.type": f"#{kind}Collection.{kind}Collection",
        "Name": name,
        "Members": [link(path) for path in members],
        "Members@odata.count": len(members),
    }


def _resource(kind: str, version: str, name: str, shown: str, **properties: Any) -> Resource:
    return {"@odata.type": f"#{kind}.{version}.{kind}", "Id": name, "Name": shown, **properties}


def _root(profile: Profile, node: GpuNode) -> Resource:
    told = _resource(
        "ServiceRoot",
        "v1_15_0",
        "RootService",
        "Root Service",
        RedfishVersion="1.17.0",
        UUID=str(uuid.uuid5(uuid.NAMESPACE_OID, node.id)),
        Systems=link(f"{ROOT}/Systems"),
        Chassis=link(f"{ROOT}/Chassis"),
        SessionService=link(f"{ROOT}/SessionService"),
        Tasks=link(f"{ROOT}/TaskService"),
        Links={"Sessions": link(f"{ROOT}/SessionService/Sessions")},
    )
    if profile.vendor is not None:
        told["Vendor"] = profile.vendor
    if profile.product is not None:
        told["Product"] = profile.product
    if profile.oem is not None:
        told["Oem"] = {profile.oem: {"@odata.type": f"#{profile.oem}ServiceRoot.v1_0_0.{profile.oem}ServiceRoot"}}
    return told


def _sessions_and_tasks(profile: Profile) -> dict[str, Resource]:
    return {
        f"{ROOT}/SessionService": _resource(
            "SessionService",
            "v1_1_8",
            "SessionService",
            "Session Service",
            ServiceEnabled=True,
            SessionTimeout=int(profile.session_timeout_s),
            Sessions=link(f"{ROOT}/SessionService/Sessions"),
        ),
        f"{ROOT}/TaskService": _resource(
            "TaskService",
            "v1_2_0",
            "TaskService",
            "Task Service",
            ServiceEnabled=True,
            Tasks=link(f"{ROOT}/TaskService/Tasks"),
        ),
    }


def _systems(profile: Profile, node: GpuNode, caps: Mapping[str, Cap]) -> dict[str, Resource]:
    has_baseboard = profile.lever is Lever.GPU_METRICS
    host, board = profile.system_path, f"{ROOT}/Systems/{BASEBOARD}"
    gpus_under = board if has_baseboard else host
    names = [f"GPU_SXM_{n + 1}" if has_baseboard else f"GPU.{n + 1}" for n in range(node.model.gpus)]
    told = {
        f"{ROOT}/Systems": collection("ComputerSystem", "Systems", [host, board] if has_baseboard else [host]),
        host: _resource(
            "ComputerSystem",
            "v1_20_0",
            profile.system,
            "System",
            SystemType="Physical",
            Manufacturer=profile.vendor if profile.vendor != "AMI" else "NVIDIA" if has_baseboard else "Gigabyte",
            Model=node.model.model,
            SerialNumber=f"EMU{node.id}",
            HostName=node.id,
            PowerState=node.power.value,
            Status={"State": "Enabled" if node.power is Power.ON else "Disabled", "Health": "OK"},
            Links={"Chassis": [link(profile.chassis_path)]},
            Actions={
                "#ComputerSystem.Reset": {
                    "target": f"{host}/{RESET}",
                    "ResetType@Redfish.AllowableValues": list(RESET_TYPES),
                }
            },
        ),
        f"{gpus_under}/Processors": collection(
            "Processor", "Processors", [f"{gpus_under}/Processors/{name}" for name in names]
        ),
    }
    told[host]["Processors"] = link(f"{gpus_under}/Processors")
    if has_baseboard:
        del told[host]["Processors"]
        told[board] = _resource(
            "ComputerSystem",
            "v1_20_0",
            BASEBOARD,
            BASEBOARD,
            SystemType="Physical",
            Manufacturer="NVIDIA",
            Model=node.model.model,
            Processors=link(f"{board}/Processors"),
            Links={"Chassis": [link(_HGX_CHASSIS)]},
        )
    for number, name in enumerate(names):
        path = f"{gpus_under}/Processors/{name}"
        told[path] = _resource("Processor", "v1_18_0", name, name, ProcessorType="GPU", Model=node.model.gpu)
        if has_baseboard:
            metrics = f"{path}/EnvironmentMetrics"
            told[path]["EnvironmentMetrics"] = link(metrics)
            told[metrics] = _metrics(name, node.gpu_power_w(number), caps[metrics])
    return told


def _chassis(profile: Profile, node: GpuNode, caps: Mapping[str, Cap], power_w: Watts | None) -> dict[str, Resource]:
    path, has_baseboard = profile.chassis_path, profile.lever is Lever.GPU_METRICS
    chassis = _resource(
        "Chassis",
        "v1_23_0",
        profile.chassis,
        "Chassis",
        ChassisType="RackMount",
        PowerState=node.power.value,
        Status={"State": "Enabled", "Health": "OK"},
        Links={"ComputerSystems": [link(profile.system_path)]},
    )
    told = {
        f"{ROOT}/Chassis": collection("Chassis", "Chassis", [path, _HGX_CHASSIS] if has_baseboard else [path]),
        path: chassis,
    }
    if profile.speaks_subsystem:
        chassis |= {
            "PowerSubsystem": link(f"{path}/PowerSubsystem"),
            "EnvironmentMetrics": link(f"{path}/EnvironmentMetrics"),
        }
        told[f"{path}/EnvironmentMetrics"] = _metrics("Chassis", power_w, caps.get(f"{path}/EnvironmentMetrics"))
        told[f"{path}/PowerSubsystem"] = _subsystem(node)
    if profile.speaks_power:
        chassis["Power"] = link(f"{path}/Power")
        told[f"{path}/Power"] = _power(profile, node, caps.get(f"{path}/Power"), power_w)
    if profile.lever is Lever.CONTROLS:
        chassis["Controls"] = link(f"{path}/Controls")
        told[f"{path}/Controls"] = collection("Control", "Controls", list(caps))
        told |= {where: _control(cap) for where, cap in caps.items()}
    if has_baseboard:
        told[_HGX_CHASSIS] = _resource("Chassis", "v1_23_0", "HGX_Chassis_0", "HGX_Chassis_0", ChassisType="Module")
        told[_HGX_CHASSIS]["EnvironmentMetrics"] = link(f"{_HGX_CHASSIS}/EnvironmentMetrics")
        gpus_w = sum(node.gpu_power_w(gpu) for gpu in range(node.model.gpus))
        told[f"{_HGX_CHASSIS}/EnvironmentMetrics"] = _metrics("HGX_Chassis_0", gpus_w, None)
    return told


def _metrics(of: str, power_w: Watts | None, cap: Cap | None) -> Resource:
    told = _resource(
        "EnvironmentMetrics",
        "v1_3_1",
        "EnvironmentMetrics",
        f"{of} Environment Metrics",
        PowerWatts={"Reading": _rounded(power_w)},
    )
    if cap is not None:
        told["PowerLimitWatts"] = cap.told()
    return told


def _subsystem(node: GpuNode) -> Resource:
    most_w = round(node.model.max_w)
    return _resource(
        "PowerSubsystem",
        "v1_1_2",
        "PowerSubsystem",
        "Power Subsystem",
        CapacityWatts=2 * most_w,
        Allocation={"AllocatedWatts": round(node.node_cap_w or most_w), "RequestedWatts": most_w},
        Status={"State": "Enabled", "Health": "OK"},
    )


def _power(profile: Profile, node: GpuNode, cap: Cap | None, power_w: Watts | None) -> Resource:
    control: dict[str, Any] = {
        **link(f"{profile.chassis_path}/Power#/PowerControl/0"),
        "MemberId": "0",
        "Name": "System Power Control",
        "PowerConsumedWatts": _rounded(power_w, whole=profile.whole_watts),
        "PowerCapacityWatts": round(2 * node.model.max_w),
    }
    if cap is not None:
        control["PowerLimit"] = cap.told()
    return _resource("Power", "v1_7_1", "Power", "Power", PowerControl=[control])


def _control(cap: Cap) -> Resource:
    return _resource(
        "Control",
        "v1_5_0",
        cap.name,
        "Node Power Limit" if cap.is_of_node else f"{cap.name.removesuffix('PowerLimit')} Power Limit",
        ControlType="Power",
        PhysicalContext="Chassis" if cap.is_of_node else "Accelerator",
        SetPointType="Single",
        SetPointUnits="W",
        Increment=1,
        Status={"State": "Enabled", "Health": "OK"},
        **cap.told(),
    )


def _rounded(power_w: Watts | None, *, whole: bool = False) -> Watts | None:
    if power_w is None or math.isnan(power_w):
        return power_w
    return round(power_w) if whole else round(power_w, 1)
