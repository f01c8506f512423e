"""What devices say is the matter with themselves: in the log, and in what `curtaild status` shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from curtaild.cli.view import troubled
from curtaild.faults import PAUSE_S, FaultLog
from curtaild_drivers.contract import DeviceId, RunState
from telemetry.sites import THE_STATUS

NODE = DeviceId("ai/gpu-07")


def test_it_is_told_when_it_begins_changes_and_ends_and_not_in_between(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    log = FaultLog()
    said = [None, "GPU 3: has not come back for 2.0 s", "GPU 3: has not come back for 3.1 s", "GPU 3: lost", None, None]
    for minute, fault in enumerate(said):
        log.note(NODE, fault, minute * PAUSE_S)
    assert caplog.messages == [
        "ai/gpu-07: says of itself: GPU 3: has not come back for 2.0 s",
        "ai/gpu-07: says of itself: GPU 3: lost",
        "ai/gpu-07: no longer says that anything is the matter",
    ]


def test_what_comes_and_goes_fills_no_log_and_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log = FaultLog()
    for second in range(120):
        log.note(NODE, "hot\n" * 10_000 if second % 2 else None, float(second))
    assert 1 <= len(caplog.messages) <= 2
    assert all("\n" not in line and len(line) < 2_000 for line in caplog.messages)


def test_status_names_whoever_calls_itself_faulty() -> None:
    device = THE_STATUS.devices[0]._replace(conditions=(), state=RunState.FAULT)
    (line,) = troubled(replace(THE_STATUS, devices=[device]))
    assert line.plain.startswith(f"! {device.id}: says it has a fault; counted")
