"""Builds the dashboards: `python -m grafana.build`, from the folder `config`. The result is committed beside this file.

*Site* answers, from top to bottom: are we inside the limit, is the grid there, do the devices obey, which feeder is
tight, how good were we at it, is the daemon well.
"""

from __future__ import annotations

import json
from pathlib import Path

from grafana.panels import (
    BLUE,
    DATASOURCE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    WATTS,
    YELLOW,
    Column,
    Json,
    Query,
    Steps,
    layout,
    lines,
    row,
    stat,
    table,
    timeline,
    values,
)

FOLDER = Path(__file__).parent / "dashboards"

HERE = 'site=~"$site"'
FEEDERS = f'{HERE}, feeder=~"$feeder"'
ROOT = f'and on (instance, feeder) curtaild_feeder_info{{{HERE}, parent=""}}'

DASHED = {"lineStyle": {"fill": "dash", "dash": [10, 6]}, "lineInterpolation": "stepAfter"}
THIN = {"lineWidth": 1}
OVER_IS_RED = Steps(GREEN, ((1, RED),))
UNDER_IS_RED = Steps(RED, ((0, GREEN),))

PHASES = values(
    {0: ("starting", YELLOW), 1: ("unlimited", BLUE), 2: ("limited", GREEN), 3: ("fail-safe", RED)},
)
PHASE = " + ".join(
    f'{code} * max(curtaild_link_phase{{{HERE}, phase="{phase}"}})'
    for code, phase in ((1, "unlimited"), (2, "limited"), (3, "failsafe"))
)
STATE_COLOURS = {
    "running": GREEN,
    "starting": BLUE,
    "idle": YELLOW,
    "asleep": PURPLE,
    "fault": RED,
    "unknown": GREY,
}


def at_root(quantity: str) -> str:
    """A quantity of the feeder that the grid bills."""
    return f"sum(curtaild_feeder_{quantity}{{{HERE}}} {ROOT})"


def quantile(share: float, histogram: str, by: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    rate = f"rate(curtaild_{histogram}_bucket{{{HERE}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by ({grouped}) ({rate}))"


def site_dashboard() -> Json:
    """The whole *Site* dashboard."""
    return {
        "uid": "curtaild-site",
        "title": "curtaild · Site",
        "description": "One site against the limit the grid grants it.",
        "tags": ["curtaild"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # one crosshair over all panels
        "refresh": "5s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_annotation()]},
        "templating": {"list": _variables()},
        "links": [],
        "panels": layout(
            [
                (4, _now()),
                (11, _power()),
                (1, [row("Grid")]),
                (7, _grid()),
                (1, [row("Devices")]),
                (9, _devices()),
                (1, [row("Feeders")]),
                (9, [_feeders()]),
                (7, _tight()),
                (1, [row("How well it was done")]),
                (7, _quality()),
                (1, [row("The daemon")]),
                (7, _daemon()),
            ]
        ),
    }


def _variables() -> list[Json]:
    def query(name: str, label: str, text: str, **more: object) -> Json:
        asked = {"query": text, "refId": name}
        return {"type": "query", "name": name, "label": label, "datasource": DATASOURCE, "query": asked} | {
            "definition": text,
            "refresh": 2,
            "sort": 1,
            **more,
        }

    return [
        {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "hide": 0},
        query("site", "Site", "label_values(curtaild_build_info, site)"),
        query(
            "feeder",
            "Feeder",
            f"label_values(curtaild_feeder_info{{{HERE}}}, feeder)",
            multi=True,
            includeAll=True,
            current={"text": ["All"], "value": ["$__all"]},
        ),
    ]


def _annotation() -> Json:
    return {
        "name": "Fail-safe",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": RED,
        "expr": f'max(curtaild_link_phase{{{HERE}, phase="failsafe"}}) == 1',
        "titleFormat": "the fail-safe limit held",
        "step": "5s",
    }


def _now() -> list[Json]:
    return [
        stat(
            "Limit", Query(at_root("limit_watts")), unit=WATTS, what="The ceiling in force at the site's root.", width=4
        ),
        stat(
            "Meter",
            Query(at_root("metered_watts")),
            unit=WATTS,
            what="What the grid's meter says; empty while it is stale.",
            absent="stale",
            width=4,
        ),
        stat(
            "Headroom",
            Query(at_root("headroom_watts")),
            unit=WATTS,
            steps=UNDER_IS_RED,
            what="Limit less what is drawn or reserved.",
            width=4,
        ),
        stat(
            "Deficit",
            Query(at_root("deficit_watts")),
            unit=WATTS,
            steps=OVER_IS_RED,
            what="What the limit asks to shed and the site cannot.",
            width=4,
        ),
        stat(
            "Grid link",
            Query(PHASE),
            unit="none",
            mappings=PHASES,
            steps=Steps(GREY),
            what="The link's phase.",
            width=3,
        ),
        stat(
            "Breach",
            Query(f"max(curtaild_feeder_breach_active{{{HERE}}})"),
            unit="none",
            mappings=values({0: ("none", GREEN), 1: ("open", RED)}),
            steps=Steps(GREY),
            what="Whether a breach is open at any feeder.",
            width=2,
        ),
        stat(
            "Next limit in",
            Query(f"min(curtaild_next_limit_change_seconds{{{HERE}}})"),
            unit="s",
            what="Until the next change of a limit that is known today.",
            absent="none known",
            width=3,
        ),
    ]


def _power() -> list[Json]:
    reserved = f"sum((curtaild_feeder_reserved_watts{{{HERE}}} + curtaild_feeder_auxiliary_watts{{{HERE}}}) {ROOT})"
    planned = f"sum((curtaild_feeder_planned_watts{{{HERE}}} + curtaild_feeder_auxiliary_watts{{{HERE}}}) {ROOT})"
    return [
        lines(
            "Limit, meter, reservation",
            [
                Query(at_root("limit_watts"), "Limit", RED, DASHED),
                Query(at_root("metered_watts"), "Meter", BLUE, {"lineWidth": 3, "fillOpacity": 15}),
                Query(reserved, "Reserved, with auxiliary load", ORANGE, THIN),
                Query(planned, "Planned, with auxiliary load", GREEN, THIN | {"lineStyle": {"fill": "dot"}}),
                Query(at_root("auxiliary_watts"), "Auxiliary load", GREY, THIN),
            ],
            unit=WATTS,
            least=0,
            legend="table",
            what="Blue stays under red. Orange is the most that may be drawn as far as is known.",
            width=24,
        )
    ]


def _grid() -> list[Json]:
    acks = f"sum by (stage) (increase(curtaild_acks_total{{{HERE}}}[$__rate_interval]))"
    return [
        timeline("Grid link", Query(PHASE, "link"), mappings=PHASES, what="The link's phase over time.", width=9),
        lines(
            "Heartbeat",
            [Query(f"max(curtaild_heartbeat_age_seconds{{{HERE}}})", "Age of the last heartbeat", BLUE)],
            unit="s",
            least=0,
            steps=Steps("transparent", ((60, ORANGE), (120, RED))),
            what="By default the fail-safe limit holds from 120 s on.",
            width=5,
        ),
        lines("Answers to the grid", [Query(acks, "{{stage}}")], unit="short", what="Acks by stage.", least=0, width=5),
        lines(
            "Flexibility",
            [
                Query(f"sum(curtaild_flexible_down_watts{{{HERE}}})", "can be lowered", BLUE),
                Query(f"sum(curtaild_flexible_up_watts{{{HERE}}})", "can be raised", GREEN),
            ],
            unit=WATTS,
            least=0,
            what="How far the devices' draw could be moved if the grid asked.",
            width=5,
        ),
    ]


def _devices() -> list[Json]:
    stages = "answered|confirmed|refused|diverged|outcome_unknown"
    actuations = (
        f'sum by (direction, stage) (rate(curtaild_actuations_total{{{HERE}, stage=~"{stages}"}}[$__rate_interval]))'
    )
    return [
        lines(
            "Devices by state",
            [
                Query(f'sum(curtaild_devices{{{FEEDERS}, state="{state}"}})', state, colour)
                for state, colour in STATE_COLOURS.items()
            ],
            unit="short",
            stacked=True,
            least=0,
            what="On the feeders chosen above.",
            width=7,
        ),
        lines(
            "Actuations",
            [Query(actuations, "{{direction}} {{stage}}")],
            unit="ops",
            least=0,
            what="Commands by what became of them, per second.",
            width=6,
        ),
        lines(
            "Actuations in flight",
            [Query(f"sum(curtaild_actuations_in_flight{{{HERE}}})", "in flight", BLUE)],
            unit="short",
            least=0,
            fill=15,
            what="Issued and not yet at their end.",
            width=5,
        ),
        lines(
            "What is the matter",
            [
                Query(f"sum by (condition) (curtaild_devices_with_condition{{{FEEDERS}}})", "{{condition}}"),
            ],
            unit="short",
            least=0,
            what="Devices by condition, on the feeders chosen above.",
            width=6,
        ),
    ]


def _feeders() -> Json:
    def column(title: str, quantity: str, steps: Steps | None = None, cell: str = "auto") -> Column:
        return Column(title, f"sum by (feeder) (curtaild_feeder_{quantity}{{{FEEDERS}}})", WATTS, steps, cell)

    use = (
        f"sum by (feeder) (curtaild_feeder_reserved_watts{{{FEEDERS}}} + curtaild_feeder_auxiliary_watts{{{FEEDERS}}})"
        f" / (sum by (feeder) (curtaild_feeder_limit_watts{{{FEEDERS}}}) > 0)"
    )
    return table(
        "Feeders",
        "feeder",
        [
            Column("Use of limit", use, "percentunit", Steps(GREEN, ((0.98, YELLOW), (1.0, RED))), "gauge"),
            column("Limit", "limit_watts"),
            column("Rating", "rating_watts"),
            column("Meter", "metered_watts"),
            column("Reserved", "reserved_watts"),
            column("Auxiliary", "auxiliary_watts"),
            column("Headroom", "headroom_watts", UNDER_IS_RED, "color-text"),
            column("Deficit", "deficit_watts", Steps("text", ((1, RED),)), "color-text"),
            column("Over limit", "over_limit_watts", Steps("text", ((1, RED),)), "color-text"),
            column("Curtailed", "curtailed_watts"),
            Column("Devices", f"sum by (feeder) (curtaild_feeder_devices{{{FEEDERS}}})", "short"),
        ],
        what="Use is what is reserved, with auxiliary load, as a share of the limit.",
    )


def _tight() -> list[Json]:
    def each(quantity: str) -> list[Query]:
        return [Query(f"curtaild_feeder_{quantity}_watts{{{FEEDERS}}}", "{{feeder}}")]

    return [
        lines(
            "Headroom",
            each("headroom"),
            unit=WATTS,
            steps=Steps("red", ((0, "transparent"),)),
            what="Below zero a feeder may be over its limit.",
            width=8,
        ),
        lines(
            "Deficit", each("deficit"), unit=WATTS, least=0, fill=30, what="What cannot be shed though asked.", width=8
        ),
        lines(
            "Curtailed",
            each("curtailed"),
            unit=WATTS,
            least=0,
            what="What the devices would draw and may not.",
            width=8,
        ),
    ]


def _quality() -> list[Json]:
    return [
        lines(
            "Over the limit",
            [Query(f"curtaild_feeder_over_limit_watts{{{FEEDERS}}}", "{{feeder}}")],
            unit=WATTS,
            least=0,
            fill=40,
            what="Draw over the limit, by the meter while it is fresh.",
            width=6,
        ),
        stat(
            "Energy over the limit",
            Query(f"sum(increase(curtaild_feeder_over_limit_joules_total{{{HERE}}}[$__range]) {ROOT}) / 3600"),
            unit="watth",
            steps=Steps(GREEN, ((1, ORANGE),)),
            what="At the root, over the time shown.",
            width=3,
        ),
        stat(
            "Breaches",
            Query(f'sum(increase(curtaild_breaches_total{{{HERE}, stage="active"}}[$__range]))'),
            unit="short",
            steps=Steps(GREEN, ((0.5, RED),)),
            what="Begun at any feeder, over the time shown.",
            width=3,
        ),
        lines(
            "From allocation to limit, 95th percentile",
            [
                Query(quantile(0.95, "response_first_shed_seconds"), "first shed command", BLUE),
                Query(quantile(0.95, "response_reached_seconds"), "limit reached", GREEN),
            ],
            unit="s",
            least=0,
            what="From receipt, or from the window's start where that is later.",
            width=6,
        ),
        lines(
            "Confirmation, 95th percentile",
            [Query(quantile(0.95, "actuation_confirm_seconds", "direction"), "{{direction}}")],
            unit="s",
            least=0,
            what="From a command's issue to telemetry that shows it obeyed.",
            width=6,
        ),
    ]


def _daemon() -> list[Json]:
    polls = f"sum by (driver, outcome) (rate(curtaild_polls_total{{{HERE}}}[$__rate_interval]))"
    return [
        lines(
            "Cycle and event loop, 99th percentile",
            [
                Query(quantile(0.99, "cycle_seconds"), "cycle", BLUE),
                Query(quantile(0.99, "loop_lag_seconds"), "loop lag", ORANGE),
            ],
            unit="s",
            least=0,
            what="A cycle runs every second.",
            width=6,
        ),
        lines(
            "Readings",
            [Query(polls, "{{driver}} {{outcome}}")],
            unit="reqps",
            least=0,
            what="By driver and result.",
            width=7,
        ),
        stat(
            "Ledger",
            Query(f"min(curtaild_ledger_writing{{{HERE}}})"),
            unit="none",
            mappings=values({0: ("not writing", RED), 1: ("writing", GREEN)}),
            steps=Steps(GREY),
            what="Whether the ledger takes records.",
            width=3,
        ),
        stat(
            "Brokers connected",
            Query(f"sum(curtaild_broker_connected{{{HERE}}})"),
            unit="none",
            steps=Steps(RED, ((1, GREEN),)),
            what="MQTT brokers of the grid.",
            width=3,
        ),
        lines(
            "Memory",
            [Query(f'process_resident_memory_bytes{{{HERE}, job="curtaild"}}', "{{instance}}", BLUE)],
            unit="bytes",
            least=0,
            what="Resident memory of the daemon.",
            width=5,
        ),
    ]


def text(dashboard: Json) -> str:
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "site.json").write_text(text(site_dashboard()), encoding="utf-8")
