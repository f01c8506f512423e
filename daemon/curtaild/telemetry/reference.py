"""Writes docs/metrics.md from the definitions: `python -m curtaild.telemetry.reference > docs/metrics.md`."""

from __future__ import annotations

import sys

from curtaild.telemetry.metrics import SECTIONS, Metric

_HEAD = """# Metrics

What `curtaild` exposes at `/metrics`, in the Prometheus text format or, where the scraper asks for it, in OpenMetrics.

This page is generated from `daemon/curtaild/telemetry/metrics.py` (`python -m curtaild.telemetry.reference`).

- Units are SI and stand at the end of the name. A metric without a unit is a count, a share, or 0/1.
- What is unknown has no sample. It is never 0.
- The root of the feeder tree is the feeder whose `curtaild_feeder_info` has an empty `parent`:
  `curtaild_feeder_limit_watts and on (instance, feeder) curtaild_feeder_info{parent=""}` is the site's limit.
- `_info` metrics are always 1 and carry labels to join:
  `curtaild_device_power_watts * on (instance, device) group_left (model) curtaild_device_info` is power by model.
- Which site a series is of is the scraper's to say: see `config/prometheus/prometheus.yml`.
- Beside these, the usual `process_*` metrics say what the daemon's process uses.
"""


def page() -> str:
    """The whole of docs/metrics.md."""
    parts = [_HEAD]
    for title, section in SECTIONS:
        parts.append(f"\n## {title}\n\n| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n")
        parts.extend(_row(metric) for metric in section)
    return "".join(parts)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    cells = (f"`{metric.name}`", metric.kind.value, labels, metric.unit, metric.help)
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
