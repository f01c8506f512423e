"""What a BMC of each make tells, as their references show it, cut down to what matters here: a node of 8 × H100 at
full draw, 8,400 W.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
Documents: TypeAlias = dict[str, Json]

RESET = "/redfish/v1/Systems/{}/Actions/ComputerSystem.Reset"


def collection(*paths: str) -> Json:
    return {"Members": [{"@odata.id": path} for path in paths], "Members@odata.count": len(paths)}


def service(
    vendor: str,
    system: str,
    chassis: str,
    manager: Json,
    boards: tuple[str, ...] = (),
    **system_says: Any,
) -> Documents:
    """Root, one system, one chassis, one manager."""
    kinds = ["On", "ForceOff", "GracefulShutdown", "ForceRestart"]
    home = f"/redfish/v1/Chassis/{chassis}"
    return {
        "/redfish/v1/": {
            "RedfishVersion": "1.15.0",
            "Vendor": vendor,
            "Systems": {"@odata.id": "/redfish/v1/Systems"},
            "Chassis": {"@odata.id": "/redfish/v1/Chassis"},
            "Managers": {"@odata.id": "/redfish/v1/Managers"},
            "Links": {"Sessions": {"@odata.id": "/redfish/v1/SessionService/Sessions"}},
        },
        "/redfish/v1/Systems": collection(*(f"/redfish/v1/Systems/{name}" for name in (*boards, system))),
        f"/redfish/v1/Systems/{system}": {
            "Manufacturer": vendor,
            "Model": "an 8-GPU node",
            "SerialNumber": "SN-1",
            "PowerState": "On",
            "Status": {"State": "Enabled", "Health": "OK"},
            "Links": {"Chassis": [{"@odata.id": home}]},
            "Actions": {
                "#ComputerSystem.Reset": {
                    "target": RESET.format(system),
                    "ResetType@Redfish.AllowableValues": kinds,
                }
            },
            **system_says,
        },
        "/redfish/v1/Chassis": collection(home),
        home: {"Manufacturer": vendor, "Model": "chassis"},
        "/redfish/v1/Managers": collection("/redfish/v1/Managers/BMC"),
        "/redfish/v1/Managers/BMC": {"FirmwareVersion": "1.2.3", **manager},
    }


def with_power(documents: Documents, chassis: str) -> Documents:
    """The old Power schema, as iDRAC and iLO keep it."""
    home = f"/redfish/v1/Chassis/{chassis}"
    documents[home]["Power"] = {"@odata.id": f"{home}/Power"}
    documents[f"{home}/Power"] = {
        "PowerControl": [
            {
                "PowerConsumedWatts": 8400,
                "PowerCapacityWatts": 16800,
                "PowerLimit": {"LimitInWatts": None, "LimitException": "NoAction"},
            }
        ]
    }
    return documents


def idrac() -> Documents:
    return with_power(
        service("Dell", "System.Embedded.1", "System.Embedded.1", {"Model": "17G Monolithic"}), "System.Embedded.1"
    )


def ilo() -> Documents:
    return with_power(service("HPE", "1", "1", {"Model": "iLO 6"}), "1")


def xcc() -> Documents:
    documents = service("Lenovo", "1", "1", {"Model": "Lenovo XClarity Controller"})
    home = "/redfish/v1/Chassis/1"
    documents[home]["Controls"] = {"@odata.id": f"{home}/Controls"}
    documents[f"{home}/Controls"] = collection(f"{home}/Controls/GPU1_PowerLimit", f"{home}/Controls/PowerLimit")
    documents[f"{home}/Controls/GPU1_PowerLimit"] = {"ControlType": "Power", "SetPoint": 700}
    documents[f"{home}/Controls/PowerLimit"] = {
        "AllowableMin": 0,
        "AllowableMax": 9000,
        "ControlMode": "Disabled",
        "ControlType": "Power",
        "SetPoint": None,
        "SetPointUnits": "Watt",
        "Sensor": {"Reading": 8400},
    }
    return documents


def cray() -> Documents:
    documents = service("Cray Inc", "Node0", "Node0", {"Model": "nC"})
    home = "/redfish/v1/Chassis/Node0"
    documents[home]["Controls"] = {"@odata.id": f"{home}/Controls"}
    documents[home]["Power"] = {"@odata.id": f"{home}/Power"}
    documents[f"{home}/Power"] = {"PowerControl": [{"PowerConsumedWatts": 2500}]}
    documents[f"{home}/Controls"] = collection(
        f"{home}/Controls/Accelerator0PowerLimit", f"{home}/Controls/NodePowerLimit"
    )
    documents[f"{home}/Controls/NodePowerLimit"] = {
        "AllowableMin": 764,
        "AllowableMax": 2754,
        "ControlMode": "Automatic",
        "SetPoint": 0,
        "SetPointUnits": "W",
    }
    return documents


def openbmc() -> Documents:
    documents = service("", "system", "chassis", {"Model": "OpenBmc", "ManagerType": "BMC"})
    home = "/redfish/v1/Chassis/chassis"
    documents[home]["EnvironmentMetrics"] = {"@odata.id": f"{home}/EnvironmentMetrics"}
    documents[f"{home}/EnvironmentMetrics"] = {
        "PowerWatts": {"Reading": 8400.5},
        "TemperatureCelsius": {"Reading": 27},
        "PowerLimitWatts": {
            "AllowableMin": 3000,
            "AllowableMax": 9000,
            "ControlMode": "Disabled",
            "SetPoint": 990,
        },
    }
    return documents


SUPPLIES = "/redfish/v1/Chassis/chassis/PowerSubsystem/PowerSupplies"


def with_supplies(documents: Documents, *taken_w: float | None) -> Documents:
    """A chassis of OpenBMC's whose power supplies alone tell watts (DSP0268: PowerSubsystem, PowerSupplyMetrics)."""
    home = "/redfish/v1/Chassis/chassis"
    del documents[f"{home}/EnvironmentMetrics"]["PowerWatts"]
    documents[home]["PowerSubsystem"] = {"@odata.id": f"{home}/PowerSubsystem"}
    documents[f"{home}/PowerSubsystem"] = {"CapacityWatts": 12_000, "PowerSupplies": {"@odata.id": SUPPLIES}}
    documents[SUPPLIES] = collection(*(f"{SUPPLIES}/{place}" for place in range(len(taken_w))))
    for place, watts in enumerate(taken_w):
        documents[f"{SUPPLIES}/{place}"] = {
            "Status": {"State": "Enabled"},
            "Metrics": {"@odata.id": f"{SUPPLIES}/{place}/Metrics"},
        }
        documents[f"{SUPPLIES}/{place}/Metrics"] = {
            "InputPowerWatts": {"Reading": watts},
            "OutputPowerWatts": {"Reading": 1.0},
        }
    return documents


def gpu_metrics(gpu: int) -> str:
    return f"/redfish/v1/Systems/HGX_Baseboard_0/Processors/GPU_SXM_{gpu}/EnvironmentMetrics"


def hgx() -> Documents:
    board, home = "/redfish/v1/Systems/HGX_Baseboard_0", "/redfish/v1/Chassis/DGX"
    documents = service("NVIDIA", "DGX", "DGX", {"Model": "AST2600"}, boards=("HGX_Baseboard_0",))
    documents[home]["EnvironmentMetrics"] = {"@odata.id": f"{home}/EnvironmentMetrics"}
    documents[f"{home}/EnvironmentMetrics"] = {"PowerWatts": {"Reading": 8240.0}}
    part = "/redfish/v1/Chassis/HGX_Chassis_0"
    documents["/redfish/v1/Chassis"] = collection(home, part, "/redfish/v1/Chassis/HGX_GPU_SXM_1")
    documents[part] = {"EnvironmentMetrics": {"@odata.id": f"{part}/EnvironmentMetrics"}}
    documents[f"{part}/EnvironmentMetrics"] = {"PowerWatts": {"Reading": 5600.0}}
    documents[board] = {"Processors": {"@odata.id": f"{board}/Processors"}}
    gpus = [f"{board}/Processors/GPU_SXM_{gpu}" for gpu in range(1, 9)]
    documents[f"{board}/Processors"] = collection(f"{board}/Processors/FPGA_0", *gpus)
    for gpu in range(1, 9):
        documents[gpu_metrics(gpu)] = {
            "PowerWatts": {"Reading": 690.2},
            "PowerLimitWatts": {"AllowableMin": 200, "AllowableMax": 700, "SetPoint": 700, "ControlMode": "Automatic"},
        }
    return documents


MAKES = {"hgx": hgx, "idrac": idrac, "ilo": ilo, "xcc": xcc, "cray": cray, "openbmc": openbmc}
