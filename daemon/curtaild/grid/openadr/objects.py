"""The small objects of a VTN: identifiers, programs, our ven, where its notifications are had, tokens. Everything is
read as hostile: each function returns the value or raises `Rejection`. No I/O.

Names of keys and enumerations are those of the OpenADR 3.1.0 OpenAPI document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from curtaild.core.allocation import RejectCode
from curtaild.grid import fields
from curtaild.grid.fields import Rejection, malformed
from curtaild_drivers.contract import Seconds

MAX_LIST = 1_024
"""Longest list taken inside one object."""
MAX_TARGETS = 64
MAX_TOKEN_TEXT = 16_384
MAX_PEM_TEXT = 65_536
MAX_URIS = 4
_OBJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_TOPIC = re.compile(r"[^\x00-\x1f+#\x7f]{1,1024}")


@dataclass(frozen=True, slots=True)
class Program:
    """`units` by payload type, as its payload descriptors say."""

    id: str
    name: str
    units: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Ven:
    """Our object at the VTN; `targets` are those that the VTN's side has granted us."""

    id: str
    name: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; `lasts_s` `None` where nobody says for how long."""

    text: str = field(repr=False)
    lasts_s: Seconds | None


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM texts by which the VTN's broker knows us; they hold a private key."""

    authority: str = field(repr=False)
    certificate: str = field(repr=False)
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MqttBinding:
    """Where the VTN notifies by MQTT: (host, port) each, all with TLS. `username` with the bearer token as password, or
    `certificates`, or neither: anonymous."""

    places: tuple[tuple[str, int], ...]
    username: str | None = None
    certificates: Certificates | None = None


def read_json(payload: bytes) -> object:
    """Whatever JSON there is: a VTN answers with lists, too, and `fields` bounds objects."""
    body, has_literals = fields.parse_object(b'{"answer":' + payload + b"}")
    if has_literals:
        raise malformed("NaN and Infinity are not JSON")
    if body.keys() != {"answer"}:
        raise malformed("more than one JSON value")
    return body["answer"]


def an_object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise malformed(f"{what} must be an object, got {fields.shown(value)}")
    return value


def a_list(body: Mapping[str, object], key: str, most: int = MAX_LIST) -> Sequence[object]:
    """A list; empty where it is absent or null, as OpenADR has it for what is optional."""
    value = body.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise malformed(f"{key} must be a list, got {fields.shown(value)}")
    if len(value) > most:
        raise Rejection(RejectCode.TOO_LARGE, f"{len(value)} {key}, most is {most}")
    return value


def object_id(body: Mapping[str, object], key: str) -> str:
    """An `objectID`: 1 to 128 letters, digits, _ and -; it goes into paths."""
    value = fields.required(body, key)
    if not isinstance(value, str) or not _OBJECT_ID.fullmatch(value):
        raise malformed(f"{key} must be an object ID, got {fields.shown(value)}")
    return value


def integer_or(body: Mapping[str, object], key: str, default: int) -> int:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise malformed(f"{key} must be an integer, got {fields.shown(value)}")
    return value


def targets(body: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(fields.text({"targets": each}, "targets") for each in a_list(body, "targets", MAX_TARGETS))


def units_by_type(body: Mapping[str, object]) -> dict[str, str | None]:
    """The units of each payload type that `payloadDescriptors` speaks of."""
    found: dict[str, str | None] = {}
    for entry in a_list(body, "payloadDescriptors"):
        descriptor = an_object(entry, "a payload descriptor")
        if descriptor.get("objectType") == "REPORT_PAYLOAD_DESCRIPTOR":
            continue
        found[fields.text(descriptor, "payloadType")] = fields.text_or_none(descriptor, "units")
    return found


def read_program(value: object) -> Program:
    body = an_object(value, "a program")
    return Program(object_id(body, "id"), fields.text(body, "programName"), units_by_type(body))


def read_ven(value: object) -> Ven:
    body = an_object(value, "a ven")
    return Ven(object_id(body, "id"), fields.text(body, "venName"), targets(body))


def read_token_url(value: object) -> str:
    """What `/auth/server` answers. Only https: our secret goes there."""
    url = an_object(value, "the answer").get("tokenURL")
    if not isinstance(url, str) or len(url) > 8_000 or not url.isascii():
        raise malformed(f"tokenURL must be a URL, got {fields.shown(url)}")
    parts = _split(url)
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc:
        raise Rejection(RejectCode.UNAUTHORIZED, f"tokenURL {fields.shown(url)} is not https://: no secret goes there")
    return url


def read_token(value: object) -> Token:
    """What a token endpoint answers (RFC 6749, 5.1)."""
    body = an_object(value, "the answer")
    text, kind = body.get("access_token"), body.get("token_type")
    if not isinstance(text, str) or not re.fullmatch(rf"[!-~]{{1,{MAX_TOKEN_TEXT}}}", text):
        raise malformed("access_token is no token")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise malformed(f"token_type must be Bearer, got {fields.shown(kind)}")
    return Token(text, fields.amount_or_none(body, "expires_in"))


def read_notifiers(value: object) -> MqttBinding | None:
    """The MQTT binding of `/notifiers`; `None` where the VTN has none that we may use."""
    binding = an_object(value, "the answer").get("MQTT")
    if binding is None:
        return None
    body = an_object(binding, "MQTT")
    if body.get("serialization", "JSON") != "JSON":
        raise malformed(f"serialization must be JSON, got {fields.shown(body.get('serialization'))}")
    places = tuple(filter(None, map(_place, a_list(body, "URIS", 64))))[:MAX_URIS]
    if not places:
        raise malformed("URIS has no mqtts:// address: without TLS we do not listen")
    method = an_object(body.get("authentication"), "authentication")
    match method.get("method"):
        case "ANONYMOUS":
            return MqttBinding(places)
        case "OAUTH2_BEARER_TOKEN":
            return MqttBinding(places, username=fields.text(method, "username"))
        case "CERTIFICATE":
            pems = [_pem(method, key) for key in ("caCert", "clientCert", "clientKey")]
            return MqttBinding(places, certificates=Certificates(*pems))
        case other:
            raise malformed(f"authentication method {fields.shown(other)} is unknown")


def _place(uri: object) -> tuple[str, int] | None:
    if not isinstance(uri, str) or len(uri) > 2_000:
        raise malformed(f"URIS must be addresses, got {fields.shown(uri)}")
    parts = _split(uri)
    if parts.scheme not in ("mqtts", "ssl") or not parts.hostname:
        return None
    try:
        return parts.hostname, parts.port or 8883
    except ValueError:
        raise malformed(f"URIS has a port that is none: {fields.shown(uri)}") from None


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # brackets that hold no address
        raise malformed(f"not a URL: {fields.shown(url)}") from None


def _pem(body: Mapping[str, object], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_PEM_TEXT or not value.isascii():
        raise malformed(f"{key} must be a PEM text")
    return value


def read_topics(value: object) -> tuple[str, ...]:
    """The topics of CREATE, UPDATE and DELETE. `ALL` may hold wildcards and says no more than these three."""
    body = an_object(an_object(value, "the answer").get("topics"), "topics")
    found = []
    for operation in ("CREATE", "UPDATE", "DELETE"):
        topic = body.get(operation)
        if topic is None:
            continue
        if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
            raise malformed(f"the topic of {operation} must be one topic, got {fields.shown(topic)}")
        found.append(topic)
    return tuple(found)
