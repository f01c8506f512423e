"""Writes docs/grid/native.schema.json, the native dialect's JSON Schema: `python -m curtaild.grid.native.schema`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from curtaild.grid.native import shapes


def document() -> dict[str, Any]:
    """The whole JSON Schema."""
    status = {"oneOf": [_said(shapes.STATUS), _said(shapes.OFFLINE)]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "curtaild/v1, the native dialect of curtaild",
        "description": "One definition per topic. The format date-time is to be asserted. What no schema can say is in "
        "docs/grid/native.md: valid_until comes after valid_from, a schedule's items have the schedule's issuer.",
        "$defs": {
            "allocation": _heard(shapes.ALLOCATION),
            "schedule": _heard(shapes.SCHEDULE),
            "heartbeat": _heard(shapes.HEARTBEAT),
            "ack": _said(shapes.ACK),
            "breach": _said(shapes.BREACH),
            "status": status,
            "feeder": _said(shapes.FEEDER_STATUS),
        },
    }


def _heard(keys: tuple[shapes.Key[Any], ...]) -> dict[str, Any]:
    """What is not named is ignored."""
    return {
        "type": "object",
        "required": [key.name for key in keys if key.is_required],
        "properties": {key.name: key.schema for key in keys},
    }


def _said(keys: Mapping[str, shapes.Schema]) -> dict[str, Any]:
    return {"type": "object", "required": list(keys), "properties": dict(keys), "additionalProperties": False}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=2) + "\n")
