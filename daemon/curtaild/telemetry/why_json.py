"""The answer of `/why`: one device's explanation, and what the ledger says of it. docs/metrics.md lists the keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from curtaild.ledger import LedgerUnreadable
from curtaild.past import Deed, deeds_of
from curtaild.telemetry.status_json import Json
from curtaild.why import Why

MOST_SHOWN = 8


def encode(why: Why, ledger: Path) -> Iterator[bytes]:
    """The body, in one piece. It reads the ledger: not for the event loop."""
    try:
        deeds, trouble = deeds_of(ledger, why.device), None
    except LedgerUnreadable as error:
        deeds, trouble = [], str(error)
    yield json.dumps(to_json(why, deeds) | {"ledger_trouble": trouble}, allow_nan=False).encode() + b"\n"


def to_json(why: Why, deeds: Sequence[Deed]) -> Json:
    """Sentences for people, numbers for machines. `deeds`: the newest first."""
    turn = why.turn
    return {
        "device": why.device,
        "feeder": why.feeder,
        "conditions": [_condition(name, deeds) for name in why.conditions],
        "place": turn.place if turn is not None else None,
        "of": turn.of if turn is not None else None,
        "target": turn.target.key if turn is not None else None,
        "target_w": turn.target.draw_w if turn is not None else None,
        "frees_w": turn.frees_w if turn is not None else None,
        "ahead": list(turn.ahead) if turn is not None else [],
        "may_rise": not why.held_by,
        "stands": list(why.stands),
        "sheds": list(why.sheds),
        "held_by": list(why.held_by),
        "deeds": [asdict(deed) for deed in deeds[:MOST_SHOWN]],
        "diverged": sum(deed.stage == "diverged" for deed in deeds),
        "refused": sum(deed.stage == "refused" for deed in deeds),
    }


def _condition(name: str, deeds: Sequence[Deed]) -> Json:
    """What is the matter, since when, and by which evidence; null where the ledger no longer knows."""
    began = next((deed for deed in deeds if deed.what == name and deed.stage == "began"), None)
    return {
        "condition": name,
        "since": began.at if began is not None else None,
        "evidence": began.detail if began is not None else None,
    }
