"""Grafana's panels as plain dicts: only what differs from panel to panel has to be said. Knows nothing of curtaild."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}

GREEN, YELLOW, ORANGE, RED = "green", "#EAB839", "orange", "red"
BLUE, PURPLE, GREY = "blue", "purple", "#8E8E93"

FULL_WIDTH = 24
WATTS = "watt"  # Grafana shows kW and MW by itself


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query. `colour` and `style` are of the line it draws, found by its `legend`."""

    expr: str
    legend: str = ""
    colour: str | None = None
    style: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Steps:
    """Colours by value: `base` up to the first step, then each step's colour from its value on."""

    base: str
    steps: tuple[tuple[float, str], ...] = ()

    def json(self) -> Json:
        steps: list[Json] = [{"color": self.base, "value": None}]
        steps += [{"color": colour, "value": value} for value, colour in self.steps]
        return {"mode": "absolute", "steps": steps}


PLAIN = Steps("text")


def values(mapping: Mapping[int, tuple[str, str]]) -> list[Json]:
    """Words and colours for whole numbers."""
    options = {
        str(value): {"text": text, "color": colour, "index": index}
        for index, (value, (text, colour)) in enumerate(mapping.items())
    }
    return [{"type": "value", "options": options}]


def stat(
    title: str,
    query: Query,
    *,
    unit: str,
    what: str,
    width: int,
    steps: Steps = PLAIN,
    mappings: Sequence[Json] = (),
    absent: str = "–",
) -> Json:
    """One number, big: the one of now. Over a range, Grafana would go on showing the last one of a stale meter."""
    panel = _panel("stat", title, what, width, [query])
    panel["targets"][0] |= {"instant": True, "range": False}
    return panel | {
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "thresholds": steps.json(),
                "mappings": list(mappings),
                "noValue": absent,
                "color": {"mode": "thresholds"},
            },
            "overrides": [],
        },
        "options": {
            "colorMode": "value" if steps is PLAIN else "background",
            "graphMode": "none",
            "justifyMode": "center",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "value",
        },
    }


def lines(
    title: str,
    queries: Sequence[Query],
    *,
    unit: str,
    what: str,
    width: int,
    stacked: bool = False,
    fill: int = 0,
    steps: Steps | None = None,
    legend: str = "list",
    least: float | None = None,
) -> Json:
    """Values over time. `legend` is Grafana's display mode: list or table."""
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 2,
        "fillOpacity": 60 if stacked else fill,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "area" if steps else "off"},
    }
    defaults: Json = {"unit": unit, "custom": custom, "color": {"mode": "palette-classic"}}
    if steps is not None:
        defaults["thresholds"] = steps.json()
    if least is not None:
        defaults["min"] = least
    return _panel("timeseries", title, what, width, queries) | {
        "fieldConfig": {"defaults": defaults, "overrides": [_drawn(query) for query in queries if query.colour]},
        "options": {
            "legend": {
                "displayMode": legend,
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"] if legend == "table" else [],
            },
            "tooltip": {"mode": "multi", "sort": "none"},
        },
    }


def timeline(title: str, query: Query, *, what: str, width: int, mappings: Sequence[Json]) -> Json:
    """A state over time, as a band of colours."""
    return _panel("state-timeline", title, what, width, [query]) | {
        "fieldConfig": {
            "defaults": {
                "mappings": list(mappings),
                "color": {"mode": "thresholds"},
                "thresholds": PLAIN.json(),
                "custom": {"fillOpacity": 85, "lineWidth": 0},
            },
            "overrides": [],
        },
        "options": {
            "mergeValues": True,
            "showValue": "auto",
            "rowHeight": 0.8,
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    }


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: the query's instant value per row. `cell` is Grafana's way to colour it."""

    title: str
    expr: str
    unit: str = WATTS
    steps: Steps | None = None
    cell: str = "auto"


def table(title: str, key: str, columns: Sequence[Column], *, what: str) -> Json:
    """One row per value of the label `key`, one column per query, joined on that label."""
    panel = _panel("table", title, what, FULL_WIDTH, [Query(column.expr) for column in columns])
    for target in panel["targets"]:
        target |= {"instant": True, "range": False, "format": "table"}
    named = {
        f"Value #{target['refId']}": column.title for target, column in zip(panel["targets"], columns, strict=True)
    }
    return panel | {
        "fieldConfig": {"defaults": {"custom": {"align": "auto"}}, "overrides": [_cell(column) for column in columns]},
        "options": {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}},
        "transformations": [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "indexByName": {key: 0} | {name: index for index, name in enumerate(named, start=1)},
                    "renameByName": {key: key.capitalize()} | named,
                },
            },
        ],
    }


def row(title: str) -> Json:
    """A heading over the bands that follow."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": FULL_WIDTH}}


def layout(bands: Sequence[tuple[int, Sequence[Json]]]) -> list[Json]:
    """Panels with ids and places: bands of one height from top to bottom, their panels from left to right."""
    placed: list[Json] = []
    y = 0
    for height, band in bands:
        x = 0
        for panel in band:
            width = panel["gridPos"]["w"]
            placed.append(panel | {"id": len(placed) + 1, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
            x += width
        if x > FULL_WIDTH:
            raise ValueError(f"the band at {y} is {x} wide")
        y += height
    return placed


def _panel(kind: str, title: str, what: str, width: int, queries: Sequence[Query]) -> Json:
    return {
        "type": kind,
        "title": title,
        "description": what,
        "datasource": DATASOURCE,
        "gridPos": {"w": width},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend}
            for index, query in enumerate(queries)
        ],
    }


def _drawn(query: Query) -> Json:
    properties: list[Json] = [{"id": "color", "value": {"mode": "fixed", "fixedColor": query.colour}}]
    properties += [{"id": f"custom.{name}", "value": value} for name, value in (query.style or {}).items()]
    return {"matcher": {"id": "byName", "options": query.legend}, "properties": properties}


def _cell(column: Column) -> Json:
    properties: list[Json] = [{"id": "unit", "value": column.unit}]
    if column.steps is not None:
        properties.append({"id": "thresholds", "value": column.steps.json()})
    if column.cell != "auto":
        properties.append({"id": "custom.cellOptions", "value": {"type": column.cell}})
    if column.unit == "percentunit":
        properties += [{"id": "min", "value": 0}, {"id": "max", "value": 1}]
    return {"matcher": {"id": "byName", "options": column.title}, "properties": properties}
