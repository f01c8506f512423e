"""What a VTN answers, and what its broker says, as the fuzzer makes it up."""

from __future__ import annotations

import json

from curtaild.core.allocation import GridMessage, ScheduleReceived
from curtaild.core.limits import Limit
from curtaild.grid.dialect import Received
from curtaild.grid.fields import Rejection
from curtaild.grid.openadr import Snapshot
from curtaild.grid.openadr.objects import read_json, read_notifiers, read_token, read_token_url, read_topics, read_ven
from fuzz.oracle import Target
from openadr.ven import PROGRAM, Ven, event, interval, limits, period

EVENTS = [
    event(intervals=limits(500, 300), duration="P9999Y", targets=["group-1"], priority=0),
    event(
        "event-2",
        intervalPeriod=period("0001-01-01", "P9999Y", randomizeStart="PT5M"),
        intervals=[interval(0, ("SIMPLE", [1, 2])), interval(1, ("ALERT_GRID_EMERGENCY", ["a line is down"]))][:1],
        reportDescriptors=[{"payloadType": "DEMAND", "numIntervals": 1, "startInterval": 0, "repeat": -1}],
    ),
]
SEEDS = [
    json.dumps(EVENTS).encode(),
    json.dumps({"objectType": "EVENT", "operation": "CREATE", "object": event("event-3")}).encode(),
    json.dumps({"MQTT": {"URIS": ["mqtts://a"], "authentication": {"method": "ANONYMOUS"}}}).encode(),
    b'{"access_token":"a","token_type":"Bearer","expires_in":1,"tokenURL":"https://a/","topics":{"CREATE":"a/b"}}',
]
WORDS = [
    *event(),
    "payloads",
    "values",
    "type",
    "start",
    "duration",
    "PT1H",
    "P9999Y",
    "SIMPLE",
    "IMPORT_CAPACITY_LIMIT",
]
SMALL = (read_notifiers, read_token, read_token_url, read_topics, read_ven)


def bear(data: bytes) -> None:
    """Nothing but refusals comes out of it, and lists that reach from now to for ever without a gap."""
    try:
        body = read_json(data)
    except Rejection:
        body = []
    for read in SMALL:
        try:
            read(body)
        except Rejection:
            continue
    ven = Ven()
    messages: list[GridMessage] = [*ven.dialect.decode(Received("t", data))]
    events = body if isinstance(body, list) else [body]
    try:
        messages += ven.dialect.take(ven.dialect.digest(Snapshot([PROGRAM], events, ven.clock.monotonic(), None)))
    except Rejection:
        messages += ven.read()
    messages += ven.dialect.decode(Received("t", data))
    ven.clock.moved_s = 100_000.0
    messages += ven.dialect.tick(True)
    list(zip(range(16), ven.dialect.reporter.due(ven.clock.monotonic()), strict=False))
    for message in messages:
        if isinstance(message, ScheduleReceived):
            _check(message, ven)


def _check(stated: ScheduleReceived, ven: Ven) -> None:
    ends = [each.valid_until for each in stated.allocations]
    assert stated.allocations[0].valid_from <= ven.clock.monotonic()
    assert ends[-1] is None
    for before, after in zip(stated.allocations, stated.allocations[1:], strict=False):
        assert before.valid_until == after.valid_from, "no gap, no overlap"
        assert before.seq < after.seq
    for each in stated.allocations:
        assert not isinstance(each.ceiling, Limit) or 0.0 <= each.ceiling.watts < float("inf")


OPENADR = {"openadr": Target(bear, SEEDS, WORDS)}
