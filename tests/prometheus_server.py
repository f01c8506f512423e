"""A real Prometheus on a free loopback port that scrapes what it is told to, and answers queries."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp

PROMETHEUS = shutil.which("prometheus", path=f"{os.environ.get('PATH', '')}:/usr/local/bin")
PROMTOOL = shutil.which("promtool", path=f"{os.environ.get('PATH', '')}:/usr/local/bin")
IN_TIME_S = 60.0


class QueryFailed(Exception):
    """Prometheus would not evaluate the query. The text is its own."""


class PrometheusServer:
    """Scrapes `targets` (host:port, each with the labels of its series) twice a second as job `curtaild`, within
    `async with`; its data lies in `folder`. `rules` is a rule file to evaluate. Prometheus itself waits 5 s before its
    first scrape."""

    def __init__(self, folder: Path, targets: Mapping[str, Mapping[str, str]], rules: Path | None = None) -> None:
        static = [{"targets": [target], "labels": dict(labels)} for target, labels in targets.items()]
        self._folder = folder
        self._config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(rules.resolve())] if rules else [],
            "scrape_configs": [{"job_name": "curtaild", "static_configs": static}],
        }
        self._scraped = f"count(count_over_time(up[1m]) >= 3 and up == 1) == {len(static)}"
        self._url = f"http://127.0.0.1:{_free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._launch()
        self._session = aiohttp.ClientSession(self._url, timeout=aiohttp.ClientTimeout(IN_TIME_S))
        try:
            # rate() needs two samples of a series, one more is for the series that are born with the first scrape
            await self.until(self._scraped)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an instant query; raises `QueryFailed`."""
        return list((await self._get("query", query=expr))["result"])

    async def label_values(self, series: str, label: str) -> list[str]:
        """What Grafana's `label_values(series, label)` lists; raises `QueryFailed`."""
        found = await self._get(f"label/{label}/values", **{"match[]": series})
        return [str(value) for value in found]

    async def until(self, expr: str) -> None:
        """Wait until the query finds something; raises `TimeoutError` with the log."""
        try:
            async with asyncio.timeout(IN_TIME_S):
                while True:
                    if await self._finds(expr):
                        return
                    await asyncio.sleep(0.05)  # there is no event to wait for: Prometheus tells nobody of a scrape
        except TimeoutError:
            log = (self._folder / "prometheus.log").read_text(errors="replace")
            raise TimeoutError(f"{expr} found nothing within {IN_TIME_S} s:\n{log[-4_000:]}") from None

    def _launch(self) -> None:
        if PROMETHEUS is None:
            raise FileNotFoundError("prometheus is not installed")
        config = self._folder / "prometheus.yml"
        config.write_text(json.dumps(self._config))  # JSON is YAML
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    PROMETHEUS,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._url.removeprefix('http://')}",
                ],
                stdout=log,
                stderr=log,
            )

    async def _finds(self, expr: str) -> bool:
        try:
            return bool(await self.query(expr))
        except aiohttp.ClientConnectionError:
            return False  # not up yet
        except QueryFailed as failure:
            if "503" in str(failure):
                return False  # up, still reading its data
            raise

    async def _get(self, what: str, **params: str) -> Any:
        assert self._session is not None, "use it within `async with`"
        async with self._session.get(f"/api/v1/{what}", params=params) as answer:
            text = await answer.text()
        if answer.status != 200:
            raise QueryFailed(f"{answer.status} {text}")
        return json.loads(text)["data"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
