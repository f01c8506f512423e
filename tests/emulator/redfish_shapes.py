"""The shapes of Redfish resources, after the DMTF's schemas (DSP8010): names, types, what is required, and no more."""

from __future__ import annotations

import importlib
from typing import Any

jsonschema: Any = importlib.import_module("jsonschema")  # it carries no types

Shape = dict[str, Any]

TEXT: Shape = {"type": "string"}
NUMBER: Shape = {"type": ["number", "null"]}
INTEGER: Shape = {"type": ["integer", "null"]}
SWITCH: Shape = {"type": ["boolean", "null"]}
ANYTHING: Shape = {"type": "object"}


def shape(required: str = "", **properties: Shape) -> Shape:
    """An object that has these properties and no others. A dot stands for `@odata.`."""
    named = {name.replace("__", "@odata."): form for name, form in properties.items()}
    return {
        "type": "object",
        "properties": named,
        "required": [name.replace("__", "@odata.") for name in required.split()],
        "additionalProperties": False,
    }


def words(*allowed: str) -> Shape:
    return {"enum": [*allowed, None]}


def many(form: Shape) -> Shape:
    return {"type": "array", "items": form}


def resource(required: str = "", **properties: Shape) -> Shape:
    return shape(
        f"__id __type Id Name {required}",
        __id=TEXT,
        __type={"type": "string", "pattern": r"^#(\w+)\.v\d+_\d+_\d+\.\1$"},
        __etag=TEXT,
        Id=TEXT,
        Name=TEXT,
        Oem=ANYTHING,
        **properties,
    )


LINK = shape("__id", __id=TEXT)
STATUS = shape(State=words("Enabled", "Disabled", "Absent", "Starting"), Health=words("OK", "Warning", "Critical"))
POWER_STATE = words("On", "Off", "PoweringOn", "PoweringOff", "Paused")
MODE = words("Automatic", "Override", "Manual", "Disabled")
CONTROL_EXCERPT = shape(
    AllowableMin=NUMBER, AllowableMax=NUMBER, ControlMode=MODE, DataSourceUri=TEXT, Reading=NUMBER, SetPoint=NUMBER
)
MESSAGE = shape(
    "MessageId",
    __type=TEXT,
    MessageId={"type": "string", "pattern": r"^Base\.\d+\.\d+\.\w+$"},
    Message=TEXT,
    MessageArgs=many(TEXT),
    MessageSeverity=words("OK", "Warning", "Critical"),
    Resolution=TEXT,
    RelatedProperties=many(TEXT),
)
COLLECTION: Shape = {
    "type": "object",
    "properties": {
        "@odata.id": TEXT,
        "@odata.type": {"type": "string", "pattern": r"^#(\w+Collection)\.\1$"},
        "@odata.etag": TEXT,
        "Name": TEXT,
        "Members": many(LINK),
        "Members@odata.count": {"type": "integer"},
    },
    "required": ["@odata.id", "@odata.type", "Name", "Members", "Members@odata.count"],
    "additionalProperties": False,
}
ERROR = shape(
    "error",
    error={
        "type": "object",
        "properties": {"code": TEXT, "message": TEXT, "@Message.ExtendedInfo": many(MESSAGE)},
        "required": ["code", "message"],
        "additionalProperties": False,
    },
)
SHAPES: dict[str, Shape] = {
    "ServiceRoot": resource(
        "Links",
        RedfishVersion=TEXT,
        UUID=TEXT,
        Vendor=TEXT,
        Product=TEXT,
        Systems=LINK,
        Chassis=LINK,
        SessionService=LINK,
        Tasks=LINK,
        Links=shape("Sessions", Sessions=LINK),
    ),
    "SessionService": resource(ServiceEnabled=SWITCH, SessionTimeout={"type": "integer", "minimum": 30}, Sessions=LINK),
    "Session": resource(UserName=TEXT),
    "TaskService": resource(ServiceEnabled=SWITCH, Tasks=LINK),
    "Task": resource(
        TaskState=words("New", "Running", "Completed", "Exception"),
        TaskStatus=words("OK", "Warning", "Critical"),
        TaskMonitor=TEXT,
        Messages=many(MESSAGE),
    ),
    "ComputerSystem": resource(
        SystemType=words("Physical", "Virtual"),
        Manufacturer={"type": ["string", "null"]},
        Model=TEXT,
        SerialNumber=TEXT,
        HostName=TEXT,
        PowerState=POWER_STATE,
        Status=STATUS,
        Links=shape(Chassis=many(LINK)),
        Processors=LINK,
        Actions=ANYTHING,
    ),
    "Processor": resource(ProcessorType=words("CPU", "GPU"), Model=TEXT, EnvironmentMetrics=LINK),
    "Chassis": resource(
        "ChassisType",
        ChassisType=words("RackMount", "Module"),
        PowerState=POWER_STATE,
        Status=STATUS,
        Links=shape(ComputerSystems=many(LINK)),
        Power=LINK,
        PowerSubsystem=LINK,
        EnvironmentMetrics=LINK,
        Controls=LINK,
    ),
    "EnvironmentMetrics": resource(
        PowerWatts=shape(Reading=NUMBER, DataSourceUri=TEXT), PowerLimitWatts=CONTROL_EXCERPT
    ),
    "PowerSubsystem": resource(
        CapacityWatts=NUMBER, Allocation=shape(AllocatedWatts=NUMBER, RequestedWatts=NUMBER), Status=STATUS
    ),
    "Power": resource(
        PowerControl=many(
            shape(
                "__id MemberId",
                __id=TEXT,
                MemberId=TEXT,
                Name=TEXT,
                PowerConsumedWatts=NUMBER,
                PowerCapacityWatts=NUMBER,
                PowerLimit=shape(
                    LimitInWatts=NUMBER,
                    LimitException=words("NoAction", "HardPowerOff", "LogEventOnly", "Oem"),
                    CorrectionInMs=INTEGER,
                ),
            )
        )
    ),
    "Control": resource(
        ControlType=words("Temperature", "Power", "Frequency", "FrequencyMHz", "Pressure"),
        PhysicalContext=TEXT,
        SetPointType=words("Single", "Range", "Monitor"),
        SetPointUnits=TEXT,
        Increment=NUMBER,
        Status=STATUS,
        AllowableMin=NUMBER,
        AllowableMax=NUMBER,
        ControlMode=MODE,
        SetPoint=NUMBER,
    ),
}


def check(body: Any) -> str:
    """Raise `jsonschema.ValidationError` where a resource is not what its type says; the type's name."""
    kind = str(body["@odata.type"]).removeprefix("#").partition(".")[0]
    form = COLLECTION if kind.endswith("Collection") else SHAPES[kind]
    jsonschema.validate(body, form)
    return kind


def check_error(body: Any) -> list[str]:
    """Raise where an error body is malformed; the names of its messages."""
    jsonschema.validate(body, ERROR)
    return [message["MessageId"].rpartition(".")[2] for message in body["error"]["@Message.ExtendedInfo"]]
