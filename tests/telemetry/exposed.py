"""Reads an exposition back with prometheus_client's own parsers: another hand than the one that wrote the lines."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from curtaild.telemetry import Telemetry


class Exposed:
    """Every sample of one exposition, asked for by name and labels."""

    def __init__(self, families: list[Family]) -> None:
        self.families = families
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in families:
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.samples, f"{key} is there twice: Prometheus would refuse the whole scrape"
                self.samples[key] = sample.value

    def get(self, name: str, **labels: str) -> float | None:
        return self.samples.get((f"curtaild_{name}", frozenset(labels.items())))

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[f"curtaild_{name}", frozenset(labels.items())]

    def labels_of(self, name: str) -> list[Mapping[str, str]]:
        return [dict(labels) for sample, labels in self.samples if sample == f"curtaild_{name}"]


def exposed(telemetry: Telemetry, openmetrics: bool = False) -> Exposed:
    return parsed(b"".join(telemetry.exposition(openmetrics)).decode(), openmetrics)


def parsed(text: str, openmetrics: bool) -> Exposed:
    return Exposed(list((parse_openmetrics if openmetrics else parse_text)(text)))
