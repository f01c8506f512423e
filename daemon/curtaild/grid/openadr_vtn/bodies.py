"""What clients may send: the request bodies of the OpenADR 3.1.0 OpenAPI definition, key by key as it names them.

A body without a required key, or with one of another type, is refused (Definitions, "Required and optional
properties"); keys that no schema names are ignored ("Model Extension").
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

BEGINNING_OF_TIME = ("0001-01-01", "0001-01-01T00:00:00", "0001-01-01T00:00:00Z")
"""A start that stands for "now" (User Guide 7.3); the first two are no RFC 3339."""

MOST_ITEMS = 10_000
"""Entries of one list: our own bound, the specification knows none."""

_DURATION = re.compile(
    r"(-?)P(?=\d|T\d)(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)([DW]))?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?"
)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class BadBody(Exception):
    """Why a body is refused: the keys at fault and what is wrong with each."""


def _a_duration(text: str) -> str:
    if not _DURATION.fullmatch(text) or len(text) > 64:
        raise ValueError("is no ISO 8601 duration")
    return text


def _a_moment(text: str) -> str:
    if text in BEGINNING_OF_TIME:
        return text
    if not _MOMENT.fullmatch(text) or len(text) > 40:
        raise ValueError("is no RFC 3339 moment")
    datetime.fromisoformat(text.upper())
    return text


def _a_url(text: str) -> str:
    if not urlsplit(text).scheme:
        raise ValueError("is no URI")
    return text


ObjectID = Annotated[StrictStr, Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]*$")]
Name = Annotated[StrictStr, Field(min_length=1, max_length=128)]
Target = Name
Duration = Annotated[StrictStr, AfterValidator(_a_duration)]
Moment = Annotated[StrictStr, AfterValidator(_a_moment)]
Url = Annotated[StrictStr, Field(min_length=2, max_length=8000), AfterValidator(_a_url)]
Targets = Annotated[list[Target], Field(max_length=MOST_ITEMS)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Int32 = Annotated[StrictInt, Field(ge=-(2**31), lt=2**31)]
ObjectType = Literal["PROGRAM", "EVENT", "REPORT", "SUBSCRIPTION", "VEN", "RESOURCE"]
Operation = Literal["READ", "CREATE", "UPDATE", "DELETE"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Point(_Body):
    x: Number
    y: Number


Value = StrictBool | StrictInt | Number | StrictStr | Point


class ValuesMap(_Body):
    type: Name
    values: Annotated[list[Value], Field(max_length=MOST_ITEMS)]


class IntervalPeriod(_Body):
    start: Moment | None = None
    duration: Duration | None = None
    randomizeStart: Duration | None = None


class Interval(_Body):
    id: Int32
    intervalPeriod: IntervalPeriod | None = None
    payloads: Annotated[list[ValuesMap], Field(max_length=MOST_ITEMS)]


class EventPayloadDescriptor(_Body):
    objectType: Literal["EVENT_PAYLOAD_DESCRIPTOR"]
    payloadType: Name
    units: Name | None = None
    currency: StrictStr | None = None


class ReportPayloadDescriptor(_Body):
    objectType: Literal["REPORT_PAYLOAD_DESCRIPTOR"]
    payloadType: Name
    readingType: Name | None = None
    units: Name | None = None
    accuracy: Number | None = None
    confidence: Annotated[StrictInt, Field(ge=0, le=100)] | None = None


class ReportDescriptor(_Body):
    payloadType: Name
    readingType: Name | None = None
    units: Name | None = None
    targets: Targets | None = None
    aggregate: StrictBool = False
    startInterval: Int32 = -1
    numIntervals: Int32 = -1
    historical: StrictBool = True
    frequency: Int32 = -1
    repeat: Int32 = 1
    reportIntervals: Literal["INTERVALS", "SUB_INTERVALS", "OPEN_INTERVALS"] = "INTERVALS"


class ProgramDescription(_Body):
    URL: Url


class ProgramRequest(_Body):
    programName: Name
    intervalPeriod: IntervalPeriod | None = None
    programDescriptions: list[ProgramDescription] | None = None
    payloadDescriptors: list[EventPayloadDescriptor | ReportPayloadDescriptor] | None = None
    attributes: list[ValuesMap] | None = None
    targets: Targets | None = None


class EventRequest(_Body):
    programID: ObjectID
    eventName: StrictStr | None = None
    duration: Duration | None = None
    priority: Annotated[StrictInt, Field(ge=0)] | None = None
    targets: Targets | None = None
    reportDescriptors: list[ReportDescriptor] | None = None
    payloadDescriptors: list[EventPayloadDescriptor] | None = None
    intervalPeriod: IntervalPeriod | None = None
    intervals: Annotated[list[Interval], Field(max_length=MOST_ITEMS)] | None = None


class ReportResource(_Body):
    resourceName: Name
    intervalPeriod: IntervalPeriod | None = None
    intervals: Annotated[list[Interval], Field(max_length=MOST_ITEMS)]


class ReportRequest(_Body):
    eventID: ObjectID
    clientName: Name
    reportName: StrictStr | None = None
    payloadDescriptors: list[ReportPayloadDescriptor] | None = None
    resources: Annotated[list[ReportResource], Field(max_length=MOST_ITEMS)]


class ObjectOperation(_Body):
    objects: list[ObjectType]
    operations: list[Operation]
    callbackUrl: Url
    bearerToken: StrictStr | None = None


class SubscriptionRequest(_Body):
    clientName: Name
    programID: ObjectID | None = None
    objectOperations: list[ObjectOperation]
    targets: Targets | None = None


class BlVenRequest(_Body):
    objectType: Literal["BL_VEN_REQUEST"]
    clientID: Name
    targets: Targets | None = None
    venName: Name
    attributes: list[ValuesMap] | None = None


class VenVenRequest(_Body):
    objectType: Literal["VEN_VEN_REQUEST"]
    venName: Name
    attributes: list[ValuesMap] | None = None


class BlResourceRequest(_Body):
    objectType: Literal["BL_RESOURCE_REQUEST"]
    clientID: Name
    targets: Targets | None = None
    resourceName: Name
    venID: ObjectID
    attributes: list[ValuesMap] | None = None


class VenResourceRequest(_Body):
    objectType: Literal["VEN_RESOURCE_REQUEST"]
    resourceName: Name
    venID: ObjectID
    attributes: list[ValuesMap] | None = None


def read(model: type[_Body], body: object) -> dict[str, Any]:
    """The body's own keys, as the schema names them and without any other. Raises `BadBody`."""
    try:
        return model.model_validate(body).model_dump(exclude_unset=True)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        text = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in faults[:10])
        raise BadBody(text) from None
