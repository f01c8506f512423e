"""OpenADR reports on paper (User Guide 7.5): what an event asks for, when it is told, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from curtaild.core.status import FeederStatus
from grid.dsx import ROOT, ROW, UPTIME
from grid.rig import a_feeder, a_status
from openadr.ven import HOUR, RULES, Ven, at_noon, event, interval, limits, period

QUARTER = 900.0


class Reporting(Ven):
    """A VEN whose site draws `power_w` and is looked at every `step_s`."""

    def __init__(self, step_s: float = 10.0, **meaning: Any) -> None:
        super().__init__(replace(RULES, report_interval_s=60.0), **meaning)
        self.step_s = step_s
        self.power_w = 400_000.0
        self.changes: dict[str, Any] = {}
        self.reports: list[dict[str, Any]] = []

    def feeder(self, name: Any = ROOT) -> FeederStatus:
        words = {"metered_w": self.power_w, "measured_w": self.power_w, "rating_w": 1e6, **self.changes}
        return a_feeder()._replace(id=name, **words)

    def until(self, moved_s: float) -> list[dict[str, Any]]:
        """Time goes by; the reports that were due meanwhile."""
        before = len(self.reports)
        while self.clock.moved_s < moved_s:
            self.look()
            self.clock.moved_s = min(moved_s, self.clock.moved_s + self.step_s)
        self.look()
        return self.reports[before:]

    def look(self) -> None:
        feeders = (self.feeder(), self.feeder(ROW))
        self.dialect.status(replace(a_status(), at=self.clock.monotonic(), feeders=feeders), None)
        self.reports += [dict(report) for report in self.dialect.reporter.due(self.clock.monotonic())]


def asking(payload: str, **words: Any) -> dict[str, Any]:
    """Two quarters of an hour with a limit, and a report asked for."""
    return event(
        intervalPeriod=period(0, "PT15M"),
        intervals=[interval(number, ("IMPORT_CAPACITY_LIMIT", [500.0])) for number in (10, 11)],
        reportDescriptors=[{"payloadType": payload, **words}],
    )


def told(report: dict[str, Any], resource: int = 0) -> list[tuple[int, list[Any], str]]:
    """By interval: its id, the values, the quality."""
    intervals = report["resources"][resource]["intervals"]
    return [(each["id"], each["payloads"][0]["values"], each["payloads"][1]["values"][0]) for each in intervals]


def test_demand_of_all_intervals_at_the_end_of_the_last() -> None:
    site = Reporting()
    site.read(asking("DEMAND", units="KW"))
    assert site.until(QUARTER) == []
    site.power_w = 300_000.0
    (report,) = site.until(2 * QUARTER + 1)
    assert {key: report[key] for key in ("eventID", "clientName", "reportName")} == {
        "eventID": "event-1",
        "clientName": "thar-1",
        "reportName": "DEMAND 1",
    }
    assert report["payloadDescriptors"] == [
        {"objectType": "REPORT_PAYLOAD_DESCRIPTOR", "payloadType": "DEMAND", "units": "KW", "readingType": "MEAN"}
    ]
    assert report["resources"][0]["resourceName"] == "thar-1"
    assert report["resources"][0]["intervals"][1]["intervalPeriod"] == {"start": at_noon(QUARTER), "duration": "PT900S"}
    assert told(report) == [(10, [pytest.approx(400.0)], "OK"), (11, [pytest.approx(300.0, abs=2)], "OK")]
    assert site.until(3 * QUARTER) == [], "once"


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ({"payloadType": "DEMAND", "readingType": "PEAK"}, [400.0]),
        ({"payloadType": "DEMAND", "units": "W"}, [400_000.0]),
        ({"payloadType": "USAGE", "units": "KWH"}, [100.0]),
        ({"payloadType": "USAGE"}, [100.0]),
        ({"payloadType": "READING", "units": "KW"}, [400.0]),
        ({"payloadType": "OPERATING_STATE"}, ["RUNNING_CURTAILED"]),
    ],
)
def test_what_is_told_of_a_quarter_of_an_hour_at_400_kw(words: dict[str, Any], values: list[Any]) -> None:
    site = Reporting()
    site.read(asking(words.pop("payloadType"), numIntervals=1, startInterval=0, **words))
    *_, report = site.until(QUARTER + 1)
    ((number, told_values, quality),) = told(report)
    assert (number, quality) == (10, "OK")
    assert told_values == ([pytest.approx(value, rel=1e-3) for value in values] if words else values)


@pytest.mark.parametrize(
    "request_words",
    [
        {"payloadType": "STORAGE_CHARGE_LEVEL"},
        {"payloadType": "DEMAND", "historical": False},
        {"payloadType": "DEMAND", "readingType": "FORECAST"},
        {"payloadType": "READING", "units": "VOLTS"},
        {"payloadType": "USAGE", "units": "THERMS"},
        {"payloadType": 7},
        "nonsense",
    ],
    ids=str,
)
def test_what_cannot_be_told_costs_the_grid_no_limit(request_words: Any) -> None:
    site = Reporting()
    assert site.course(event(reportDescriptors=[request_words]))[0] == (0, 5e5)
    assert site.until(HOUR + 1) == []


def test_reports_at_a_regular_period() -> None:
    """User Guide: startInterval 1, numIntervals 2, frequency 2, repeat 3: three reports of two intervals each."""
    site = Reporting()
    quarters = [interval(number, ("SIMPLE", [1])) for number in range(8)]
    rhythm = {"startInterval": 1, "numIntervals": 2, "frequency": 2, "repeat": 3}
    site.read(
        event(
            intervalPeriod=period(0, "PT15M"),
            intervals=quarters,
            reportDescriptors=[{"payloadType": "DEMAND", **rhythm}],
        )
    )
    times: list[float] = []
    while site.clock.moved_s < 8 * QUARTER + 60:
        times += [site.clock.moved_s for _ in site.until(site.clock.moved_s + 60)]
    assert times == [pytest.approx(each * QUARTER, abs=61) for each in (2, 4, 6)]
    assert [[number for number, _, _ in told(report)] for report in site.reports] == [[0, 1], [2, 3], [4, 5]]
    assert {quality for report in site.reports for _, _, quality in told(report)} == {"OK"}


def test_intervals_that_are_only_implied_report_for_ever() -> None:
    """User Guide 8.7: no intervals, but a period and repeat -1."""
    site = Reporting()
    site.read(
        event(
            intervals=None,
            intervalPeriod=period(-1000 * HOUR, "PT15M"),
            reportDescriptors=[{"payloadType": "USAGE", "startInterval": 0, "numIntervals": 1, "repeat": -1}],
        )
    )
    found = site.until(3 * QUARTER + 1)
    assert [told(report)[0][1:] for report in found] == [([pytest.approx(100.0, rel=1e-3)], "OK")] * 3


def test_a_request_without_intervals_is_answered_now_and_then() -> None:
    """User Guide 8.6: a zero-length event, frequency 0, open intervals; and the first word at once."""
    site = Reporting()
    site.read(
        event(
            intervals=None,
            intervalPeriod={"start": "0001-01-01", "duration": "PT0H"},
            reportDescriptors=[{"payloadType": "OPERATING_STATE", "frequency": 0, "reportIntervals": "OPEN_INTERVALS"}],
        )
    )
    assert [told(report)[0][1] for report in site.until(10)] == [["NORMAL"]]
    assert [told(report)[0][0] for report in site.until(185)] == [0, 1, 2]
    site.read()
    assert site.until(600) == [], "the event is gone"


@pytest.mark.parametrize(
    ("changes", "power_w", "expected"),
    [
        ({}, 400_000.0, "RUNNING_CURTAILED"),
        ({}, 1_000.0, "IDLE_CURTAILED"),
        ({"deficit_w": 5.0}, 600_000.0, "ERROR"),
    ],
)
def test_operating_states_under_a_limit(changes: dict[str, Any], power_w: float, expected: str) -> None:
    site = Reporting()
    site.power_w, site.changes = power_w, changes
    site.read(asking("OPERATING_STATE"))
    (report,) = site.until(10)
    assert told(report)[0][1] == [expected]


def test_how_far_the_data_can_be_trusted() -> None:
    site = Reporting()
    site.changes = {"meter_is_fresh": False, "measured_w": 390_000.0}
    site.read(asking("DEMAND"))
    site.until(2 * QUARTER - 10)
    (report,) = site.until(2 * QUARTER + 1)
    assert told(report) == [(10, [pytest.approx(390.0)], "ESTIMATED"), (11, [pytest.approx(390.0)], "ESTIMATED")]
    late = Reporting()
    late.read(asking("DEMAND"))
    late.clock.moved_s = 2 * QUARTER - 60
    (report,) = late.until(2 * QUARTER + 1)
    assert [quality for _, _, quality in told(report)] == ["MISSING", "MISSING"]


def test_what_was_over_before_we_knew_of_it_nobody_has_measured() -> None:
    site = Reporting()
    site.clock.moved_s = 3 * QUARTER
    site.read(asking("DEMAND"))
    assert site.until(4 * QUARTER) == []


def test_each_feeder_is_a_resource_and_an_aggregate_is_their_sum() -> None:
    targets = {"all": ROOT, "row": ROW}
    site = Reporting(targets=targets)
    words = {"targets": ["row", "all"], "startInterval": 0, "numIntervals": 1}
    site.read({**asking("DEMAND", **words), "targets": ["row"]})
    (report,) = site.until(QUARTER + 1)
    assert [each["resourceName"] for each in report["resources"]] == ["thar-1", "row-1"]
    site = Reporting(targets=targets)
    site.read(asking("DEMAND", aggregate=True, **words))
    (report,) = site.until(QUARTER + 1)
    assert [each["resourceName"] for each in report["resources"]] == ["AGGREGATED_REPORT"]
    assert told(report)[0][1] == [pytest.approx(800.0)]


def test_a_changed_event_is_reported_anew_and_an_unchanged_one_goes_on() -> None:
    site = Reporting()
    site.read(asking("OPERATING_STATE"))
    assert len(site.until(10)) == 1
    site.read(asking("OPERATING_STATE"))
    assert site.until(20) == []
    site.read({**asking("OPERATING_STATE"), "modificationDateTime": at_noon(20)})
    assert len(site.until(30)) == 1


def test_whoever_asks_for_very_many_reports_gets_them_one_after_the_other() -> None:
    site = Reporting()
    instants = [interval(number, ("SIMPLE", [0])) for number in range(1_000)]
    descriptor = {"payloadType": "DEMAND", "startInterval": 0, "numIntervals": 1, "repeat": -1}
    site.read(
        event(intervalPeriod=period(60, "PT0S"), intervals=instants, reportDescriptors=[descriptor] * 20),
        *[event(f"e-{number}", intervals=limits(1), reportDescriptors=[descriptor] * 16) for number in range(9)],
    )
    site.until(59)
    site.clock.moved_s = 61
    due = site.dialect.reporter.due(UPTIME + 61)
    first = [next(due)["reportName"] for _ in range(3)]
    del due
    assert [*first, next(site.dialect.reporter.due(UPTIME + 61))["reportName"]] == [
        "DEMAND 1",
        "DEMAND 2",
        "DEMAND 3",
        "DEMAND 4",
    ]
