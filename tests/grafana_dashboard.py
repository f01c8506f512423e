"""Asks a real Prometheus every query of a Grafana dashboard, as Grafana would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_server import PrometheusServer, QueryFailed

SITE_DASHBOARD = Path(__file__).parents[1] / "config/grafana/dashboards/site.json"

_BUILT_IN = {"__rate_interval": "1m", "__interval": "5s", "__range": "1h"}


class Dashboard:
    """One dashboard's JSON, with what its variables stand for."""

    def __init__(self, path: Path, variables: Mapping[str, str]) -> None:
        self.body: dict[str, Any] = json.loads(path.read_text())
        self._variables = {**_BUILT_IN, **variables}

    @property
    def panels(self) -> list[dict[str, Any]]:
        return [panel for panel in self.body["panels"] if panel["type"] != "row"]

    def queries(self) -> Iterator[tuple[str, str]]:
        """(panel's title, PromQL) of every panel's every query."""
        for panel in self.panels:
            for target in panel["targets"]:
                yield panel["title"], self._filled(target["expr"])

    async def problems(self, prometheus: PrometheusServer) -> list[str]:
        """What a person in front of it would miss: queries that fail or find nothing, menus without a choice."""
        found = [await self._problem(prometheus, title, expr) for title, expr in self.queries()]
        found += [await self._menu_problem(prometheus, menu) for menu in self.body["templating"]["list"]]
        for annotation in self.body["annotations"]["list"]:  # may find nothing: that is a good day
            await prometheus.query(self._filled(annotation["expr"]))
        return [problem for problem in found if problem]

    async def _problem(self, prometheus: PrometheusServer, title: str, expr: str) -> str | None:
        try:
            await prometheus.until(expr)  # a scrape that came late leaves a hole
        except QueryFailed as failure:
            return f"{title}: {expr}: {failure}"
        except TimeoutError:
            return f"{title}: {expr}: no data"
        return None

    async def _menu_problem(self, prometheus: PrometheusServer, menu: Mapping[str, Any]) -> str | None:
        if menu["type"] != "query":
            return None
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", self._filled(menu["query"]["query"]))
        assert asked is not None, f"menu {menu['name']}: not a label_values query"
        choices = await prometheus.label_values(asked[1], asked[2])
        return None if choices else f"menu {menu['name']}: no choice"

    def _filled(self, text: str) -> str:
        return re.sub(r"\$(\w+)", lambda name: self._variables[name[1]], text)
