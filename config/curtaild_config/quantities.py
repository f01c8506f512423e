"""The kinds of values a site file may hold: numbers with units, names, endpoints. Each refuses what cannot be meant
(`true` watts, NaN, a password inside a broker's address), and none of them reads 0 as "no limit".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator


class Section(BaseModel):
    """What every table of the site file derives from: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _no_boolean(value: object) -> object:
    # Python counts True as 1, and pydantic follows: `failsafe_limit_w = true` would be one watt.
    if isinstance(value, bool):
        raise ValueError("should be a number, not true or false")
    return value


_number = BeforeValidator(_no_boolean)
_MOST_W = 1e11
"""100 GW: more than any site, so a slip of the keyboard."""
_MOST_S = 366 * 86_400.0

Watts: TypeAlias = Annotated[float, _number, Field(ge=0, le=_MOST_W, allow_inf_nan=False)]
PositiveWatts: TypeAlias = Annotated[float, _number, Field(gt=0, le=_MOST_W, allow_inf_nan=False)]
Seconds: TypeAlias = Annotated[float, _number, Field(ge=0, le=_MOST_S, allow_inf_nan=False)]
PositiveSeconds: TypeAlias = Annotated[float, _number, Field(gt=0, le=_MOST_S, allow_inf_nan=False)]
Fraction: TypeAlias = Annotated[float, _number, Field(ge=0, lt=1, allow_inf_nan=False)]
PositiveNumber: TypeAlias = Annotated[float, _number, Field(gt=0, allow_inf_nan=False)]
Number: TypeAlias = Annotated[float, _number, Field(allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, _number, Field(ge=1, le=1_000_000)]
Priority: TypeAlias = Annotated[int, _number, Field(ge=0, le=100)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=64)]
"""Goes into MQTT topics, metric labels and device ids, so it holds nothing that means something there."""


def _topic_prefix(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[^/+#\x00\s]+(/[^/+#\x00\s]+)*", value):
        raise ValueError("should be an MQTT topic without wildcards, blanks, and slashes at its ends")
    return value


TopicPrefix: TypeAlias = Annotated[str, Field(max_length=200), PlainValidator(_topic_prefix)]


def _topic_level(value: str) -> str:
    if not re.fullmatch(r"[^/+#\x00\s]+", value):
        raise ValueError("should be one level of an MQTT topic: without slashes, wildcards and blanks")
    return value


TopicLevel: TypeAlias = Annotated[str, Field(max_length=128), AfterValidator(_topic_level)]
"""One level of an MQTT topic: an identifier that another specification puts there."""

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]+)?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and a TCP port, as `host:port` or `[v6]:port`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str, default_port: int | None = None) -> Endpoint:
    """`host:port` as an `Endpoint`; raises ValueError. Without a default port, the port must be given."""
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?", text)
    host = (match.group(1) or match.group(2)) if match else ""
    if match is None or not _HOST.fullmatch(host):
        raise ValueError("should be host:port, such as 10.0.0.5:502")
    if match.group(3) is None and default_port is None:
        raise ValueError("lacks its port: should be host:port, such as 10.0.0.5:502")
    port = int(match.group(3)) if match.group(3) is not None else default_port
    if port is None or not 0 <= port <= 65_535:
        raise ValueError("has a port outside 0..65535")
    return Endpoint(host, port)


def _endpoint(value: object) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    if not isinstance(value, str):
        raise ValueError("should be text: host:port")
    return parse_endpoint(value)


ListenEndpoint: TypeAlias = Annotated[Endpoint, PlainValidator(_endpoint), PlainSerializer(str)]


@dataclass(frozen=True, slots=True)
class Broker:
    """Where an MQTT broker listens, and whether the way there is encrypted."""

    endpoint: Endpoint
    tls: bool

    @property
    def host(self) -> str:
        return self.endpoint.host

    @property
    def port(self) -> int:
        return self.endpoint.port

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.endpoint}"


def _broker(value: Any) -> Broker:
    if isinstance(value, Broker):
        return value
    if not isinstance(value, str):
        raise ValueError("should be text: mqtt://host:port or mqtts://host:port")
    parts = urlsplit(value)
    if parts.scheme not in ("mqtt", "mqtts"):
        raise ValueError("should begin with mqtt:// or mqtts://")
    if "@" in parts.netloc:
        raise ValueError("should not carry a user or password: use username and password_file")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("should end after host and port")
    tls = parts.scheme == "mqtts"
    endpoint = parse_endpoint(parts.netloc, default_port=8883 if tls else 1883)
    if endpoint.port == 0:
        raise ValueError("has port 0")
    return Broker(endpoint, tls)


BrokerUrl: TypeAlias = Annotated[Broker, PlainValidator(_broker), PlainSerializer(str)]
