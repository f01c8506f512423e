"""The other side of DSX Flex, for commissioning and tests: states load targets as an ISV, reads the agent's words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curtaild.clock import UnixSeconds
from curtaild.grid import fields
from curtaild.grid.dsx.envelope import Event, EventType, Trace, new_id, new_trace, read_event, write_event
from curtaild.grid.keys import PublicKeys, Signer, verify
from curtaild_drivers.contract import Watts


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """One target as an ISV states it (W, wall time). No `tags`: every feed; `limit_w` `None` lifts what holds."""

    limit_w: Watts | None
    tags: Sequence[str] = ()
    start: UnixSeconds | None = None
    end: UnixSeconds | None = None
    is_best_effort: bool = False


def load_target_topic(isv: str) -> str:
    return f"grid/v1/isv/{isv}/loadtarget/set"


def power_state_topic(agent: str) -> str:
    return f"grid/v1/dsx-flex-agent/{agent}/powerstate/status"


def breach_topic(agent: str) -> str:
    return f"grid/v1/dsx-flex-agent/{agent}/powerbreach"


def load_target_event(
    isv: str,
    signer: Signer,
    targets: Sequence[LoadTarget],
    at: UnixSeconds,
    claims: Mapping[str, object] | None = None,
    correlation_id: str | None = None,
    trace: Trace | None = None,
) -> bytes:
    """`grid.loadtarget.set.v1`, signed. `claims` (`iat`, `exp`, `aud` …) are signed beside the targets."""
    data = {**(claims or {}), "targets": [_wire(target) for target in targets]}
    return write_event(
        Event(
            id=new_id(),
            source=f"//grid/v1/isv/{isv}",
            type=EventType.LOAD_TARGET_SET,
            time=at,
            trace=trace or new_trace(),
            correlation_id=correlation_id or new_id(),
            token=signer.sign(json.dumps(data, separators=(",", ":")).encode()),
        )
    )


def read_agent_event(
    payload: bytes, expected: EventType, agent: str, keys: PublicKeys, now: UnixSeconds
) -> tuple[Event, Mapping[str, object]]:
    """What the agent published, its signature checked. Raises `Rejection`."""
    body, _ = fields.parse_object(payload)
    event = read_event(body, expected, f"//grid/v1/dsx-flex-agent/{agent}")
    return event, verify(event.token, keys, frozenset(), now, None).body


def _wire(target: LoadTarget) -> dict[str, object]:
    interval = {"start_time": target.start, "end_time": target.end}
    item: dict[str, object] = {
        "interval": {key: fields.timestamp(moment) for key, moment in interval.items() if moment is not None},
        "load_constraint": None if target.limit_w is None else {"value": target.limit_w, "unit": "watt"},
        "strategy": {"best_effort": target.is_best_effort},
    }
    if target.tags:
        item["feed_tags"] = list(target.tags)
    return item
