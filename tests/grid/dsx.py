"""What the tests of the DSX Flex dialect share: keys, an agent at noon, and the schema that its words must fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from joserfc.jwk import ECKey, RSAKey

from curtaild.core.allocation import Allocation, AllocationReceived, GridMessage, MessageRejected
from curtaild.grid.dialect import Publication, Received
from curtaild.grid.dsx import DsxFlexDialect, Feeds, TargetBook
from curtaild.grid.dsx.envelope import EventType
from curtaild.grid.dsx.isv import LoadTarget, load_target_event, read_agent_event
from curtaild.grid.fields import timestamp
from curtaild.grid.keys import PublicKeys, Signer
from curtaild_drivers.contract import FeederId

ROOT, ROW = FeederId("main"), FeederId("row-1")
NOON = 1_795_176_000.0
UPTIME = 5_000.0
ISV, AGENT = "acme-energy", "thar-1"
TOPIC = f"grid/v1/isv/{ISV}/loadtarget/set"
jsonschema: Any = import_module("jsonschema")  # it ships no types
SCHEMA = json.loads((Path(__file__).parent / "dsx_schema.json").read_text())


class HandClock:
    """Noon on the wall, 5,000 s since boot, until it is moved."""

    def __init__(self) -> None:
        self.moved_s = 0.0

    def monotonic(self) -> float:
        return UPTIME + self.moved_s

    def wall(self) -> float:
        return NOON + self.moved_s


@lru_cache
def ec_signer(kid: str) -> Signer:
    return Signer(ECKey.generate_key("P-256", {"kid": kid}), kid)


@lru_cache
def rsa_signer(kid: str) -> Signer:
    return Signer(RSAKey.generate_key(2048, {"kid": kid}), kid)


def public(*signers: Signer) -> PublicKeys:
    return PublicKeys({signer.kid: signer.key for signer in signers})


def jwks(*signers: Signer) -> str:
    keys = [{**signer.key.as_dict(private=False), "kid": signer.kid} for signer in signers]
    return json.dumps({"keys": keys})


FEEDS = Feeds(
    agent=AGENT,
    by_tag={"main-a": ROOT, "main-b": ROW},
    isvs={ISV: public(ec_signer("acme-1"), rsa_signer("acme-2"))},
    infra={"ima": public(ec_signer("ima-1"))},
    snapshot_interval_s=30.0,
    is_released=False,
    root=ROOT,
    failsafe_w=250_000.0,
    max_clock_skew_s=300.0,
    max_payload_bytes=16_384,
    signature_max_age_s=None,
    infrastructure_actions=("SHUTDOWN_NODES", "SHUTDOWN_RACKS"),
)


class Agent:
    """The dialect under test, and what it is told and tells."""

    def __init__(self, book: TargetBook | None = None, **changes: Any) -> None:
        self.clock = HandClock()
        self.dialect = DsxFlexDialect(
            "dsx", replace(FEEDS, **changes), ec_signer("agent-1"), self.clock, book or TargetBook()
        )

    def hear(self, payload: bytes, topic: str = TOPIC, retained: bool = False, broker: int = 0) -> list[GridMessage]:
        return list(self.dialect.decode(Received(topic, payload, retained, broker)))

    def asked(self, *targets: LoadTarget, **words: Any) -> list[Allocation]:
        """The allocations that a load target set by the ISV makes."""
        messages = self.hear(event(*targets, at=self.clock.wall(), **words))
        assert all(isinstance(message, AllocationReceived) for message in messages), messages
        return [message.allocation for message in messages if isinstance(message, AllocationReceived)]

    def refuses(self, payload: bytes, topic: str = TOPIC) -> MessageRejected:
        (message,) = self.hear(payload, topic)
        assert isinstance(message, MessageRejected), message
        return message


def event(*targets: LoadTarget, signer: Signer | None = None, at: float = NOON, **words: Any) -> bytes:
    return load_target_event(ISV, signer or ec_signer("acme-1"), targets, at, **words)


def remade(payload: bytes, **changes: Any) -> bytes:
    """The envelope with other attributes; `...` leaves one out."""
    body = {**json.loads(payload), **changes}
    return json.dumps({key: value for key, value in body.items() if value is not ...}).encode()


def data_of(signer: Signer, data: object, **changes: Any) -> bytes:
    """A load target event around whatever data."""
    token = signer.sign(json.dumps(data).encode())
    return remade(event(LoadTarget(1.0)), data=token, **changes)


def _is_utc(value: object) -> bool:
    return isinstance(value, str) and value.endswith("Z") and bool(datetime.fromisoformat(value))


FORMATS = jsonschema.FormatChecker()
FORMATS.checks("date-time", raises=ValueError)(_is_utc)


def fits(value: object, definition: str) -> None:
    """Fails unless `value` is what the published schema has under this name."""
    schema = {"$ref": f"#/$defs/{definition}", "$defs": SCHEMA["$defs"]}
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(value)


def told(publication: Publication) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Envelope and data of what the agent published, held against schema and signature."""
    envelope = json.loads(publication.payload)
    kind = EventType(envelope["type"])
    name = {EventType.POWER_STATE: "PowerStateStatus", EventType.BREACH_ALERT: "PowerBreachAlert"}[kind]
    fits(envelope, f"{name}Event")
    _, data = read_agent_event(publication.payload, kind, AGENT, public(ec_signer("agent-1")), NOON)
    fits(data, f"{name}Data")
    return envelope, data


def at_noon(moved_s: float = 0.0) -> str:
    return timestamp(NOON + moved_s)
